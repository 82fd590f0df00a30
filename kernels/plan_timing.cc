#include "kernels/plan_timing.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "kernels/plan.h"

namespace octavo {
namespace {

constexpr int64_t kTimedWeights = 384 << 10;
// What lies between two uses of a weight in a model, at small counts: more than a second-level
// cache.
constexpr int64_t kEvictedBytes = 2 << 20;
constexpr int64_t kColdTokens = 16;
constexpr int64_t kMostTokens = kTimedTokens[kTimedCounts - 1];

LinearShape Cut(LinearShape shape) {
  shape.n = std::min(shape.n, std::max<int64_t>(kTimedWeights / shape.k / 64 * 64, 64));
  return shape;
}

}  // namespace

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

RowTimer::RowTimer(const LinearShape& shape, Stream& stream, double (*now)())
    : shape_(Cut(shape)),
      stream_(stream),
      now_(now),
      evicting_(kEvictedBytes / sizeof(uint64_t), 1),
      input_(kMostTokens * shape_.k * sizeof(float), 0x3c),
      output_(kMostTokens * shape_.n),
      scales_(kMostTokens, 1.0f / 1024),
      sums_(kMostTokens, 0x3c * static_cast<int32_t>(shape_.k)) {}

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
  args.input = {input_.data(), shape_.k, kernel.input, scales_.data(), sums_.data()};
  args.output = {output_.data(), shape_.n, Element::kF32};
  args.weight = &weight;
  double best = 1e9;
  for (int round = 0; round < 3 && (round == 0 || best < 2 * seconds_to_beat); ++round) {
    if (tokens <= kColdTokens) EvictCaches();
    const double start = now_();
    kernel.run(args, stream_);
    best = std::min(best, now_() - start);
  }
  return best;
}

// Each thread reads memory that pushes weights out of its second-level cache.
void RowTimer::EvictCaches() {
  stream_.ForEachBlock(stream_.slots(), [this](int64_t, int, Stream&) {
    uint64_t sum = 0;
    for (size_t i = 0; i < evicting_.size(); i += 8) sum += evicting_[i];
    asm volatile("" : : "r"(sum));
  });
}

}  // namespace octavo
