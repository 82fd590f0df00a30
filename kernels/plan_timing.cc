#include "kernels/plan_timing.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "kernels/plan.h"

namespace octavo {
namespace {

constexpr int64_t kColdTokens = 16;
constexpr int64_t kScaleColumns = 128;  // of e4m3: values of a row that share a scale

LinearShape Cut(LinearShape shape, int64_t most_weights) {
  if (most_weights == 0) return shape;
  shape.n = std::min(shape.n, std::max<int64_t>(most_weights / shape.k / 64 * 64, 64));
  return shape;
}

}  // namespace

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::StatusOr<RowTimer> RowTimer::Create(const LinearShape& shape, const Backend& backend,
                                          Stream& stream, double (*now)()) {
  RowTimer timer(shape, backend, stream, now);
  if (absl::Status status = timer.Allocate(); !status.ok()) return status;
  return timer;
}

RowTimer::RowTimer(const LinearShape& shape, const Backend& backend, Stream& stream,
                   double (*now)())
    : shape_(Cut(shape, backend.timing.most_weights)),
      backend_(&backend),
      stream_(&stream),
      now_(now),
      evicting_(backend.timing.evicted_bytes / sizeof(uint64_t), 1) {}

absl::Status RowTimer::Allocate() {
  const int64_t tokens = backend_->timing.tokens.back();
  const int64_t groups = (shape_.k + kScaleColumns - 1) / kScaleColumns;
  const auto allocate = [this](Buffer* buffer, int64_t bytes) -> absl::Status {
    absl::StatusOr<Buffer> allocated = backend_->allocate(bytes);
    if (allocated.ok()) *buffer = *std::move(allocated);
    return allocated.status();
  };
  const auto fill = [&](Buffer* buffer, const auto& values) -> absl::Status {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(values[0]));
    absl::Status status = allocate(buffer, bytes);
    if (status.ok()) stream_->Upload(buffer->as<void>(), values.data(), bytes);
    return status;
  };
  // Bytes of 0x3c: finite in every element.
  absl::Status status =
      fill(&input_, std::vector<uint8_t>(tokens * shape_.k * sizeof(float), 0x3c));
  if (status.ok()) status = allocate(&output_, tokens * shape_.n * sizeof(float));
  if (status.ok()) status = fill(&bias_, std::vector<float>(shape_.n, 0.5f));
  if (status.ok()) status = fill(&scales_, std::vector<float>(tokens * groups, 1.0f / 1024));
  if (status.ok()) {
    const int32_t sum = 0x3c * static_cast<int32_t>(shape_.k);
    status = fill(&sums_, std::vector<int32_t>(tokens, sum));
  }
  if (status.ok()) status = stream_->Finish();
  return status;
}

absl::StatusOr<PackedWeight> RowTimer::Pack(const LinearKernel& kernel,
                                            const Format& format) const {
  EncodedMatrix weight;
  weight.encoding = format.weight;
  weight.rows = shape_.n;
  weight.columns = shape_.k;
  weight.values.resize(weight.row_bytes() * shape_.n);
  // Bytes up to 0x3f: finite and not denormal as f32, f16 or bf16 too.
  std::minstd_rand random(1);
  for (uint8_t& byte : weight.values) byte = (random() >> 8 & 0x3f) | 0x20;
  if (format.weight.scale != ScaleElement::kNone) {
    weight.scales.assign(shape_.n * weight.groups(), 1.0f / 1024);
  }
  if (format.weight.zero != Zero::kNone) weight.zeros.assign(weight.scales.size(), 8.0f);
  return PackWeight(kernel, format, weight);
}

double RowTimer::Time(const LinearKernel& kernel, const PackedWeight& weight, int64_t tokens,
                      double seconds_to_beat) {
  LinearArgs args;
  args.rows = tokens;
  args.input = {input_.as<void>(),   shape_.k,
                kernel.input,        scales_.as<float>(),
                sums_.as<int32_t>(), backend_->timing.tokens.back()};
  args.output = {output_.as<void>(), shape_.n, backend_->hidden(*weight.format)};
  args.weight = &weight;
  args.epilogue.bias = bias_.as<float>();  // as every layer has: not all rows add it as they write
  const int calls = backend_->timing.calls;
  if (calls > 1) kernel.run(args, *stream_);  // what a row makes at its first call stays out
  double best = 1e9;
  for (int round = 0; round < 3 && (round == 0 || best < 2 * seconds_to_beat); ++round) {
    if (tokens <= kColdTokens && !evicting_.empty()) EvictCaches();
    (void)stream_->Finish();  // a failure stays, and is met by who asked for the plan
    const double start = now_();
    for (int call = 0; call < calls; ++call) kernel.run(args, *stream_);
    (void)stream_->Finish();
    best = std::min(best, (now_() - start) / calls);
  }
  return best;
}

// Each thread reads memory that pushes weights out of its second-level cache.
void RowTimer::EvictCaches() {
  stream_->ForEachBlock(stream_->slots(), [this](int64_t, int, Stream&) {
    uint64_t sum = 0;
    for (size_t i = 0; i < evicting_.size(); i += 8) sum += evicting_[i];
    asm volatile("" : : "r"(sum));
  });
}

}  // namespace octavo
