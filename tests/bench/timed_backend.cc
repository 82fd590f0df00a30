#include "tests/bench/timed_backend.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

namespace octavo::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMostKernels = 64;  // of a table; each has a function of its own here

// What the timed functions call.
std::vector<LinearKernel> linear_kernels, timed_linear_kernels;
std::vector<AttentionKernel> attention_kernels, timed_attention_kernels;
RowOperations rows;
bool leave_out_gelu = false;
// On the CPU, calls are over when they return and arguments can be read.
bool on_cpu = true;
bool by_marks = false;
Buffer delay_host, delay_device;
constexpr int64_t kDelayBytes = 2 << 20;

// Each thread adds to times of its own, which outlive it.
std::mutex mutex;
std::deque<PartTimes> all_times;  // guarded by mutex while it grows

PartTimes& ThreadTimes() {
  thread_local PartTimes* const times = [] {
    const std::lock_guard<std::mutex> lock(mutex);
    return &all_times.emplace_back();
  }();
  return *times;
}

// Adds its lifetime to a part; where times are taken by marks, the device's time of what the stream
// was given meanwhile.
class Stopwatch {
 public:
  Stopwatch(Part part, Stream& stream)
      : time_(ThreadTimes()[static_cast<int>(part)]), stream_(stream) {
    if (!by_marks) return;
    // While the device copies this, the host gives it the mark and the kernels.
    stream_.Upload(delay_device.as<void>(), delay_host.as<void>(), kDelayBytes);
    first_ = stream_.Mark();
  }
  ~Stopwatch() {
    ++time_.calls;
    if (by_marks) {
      const uint64_t last = stream_.Mark();
      if (stream_.Finish().ok()) {
        time_.core_seconds += std::chrono::duration<double>(stream_.Between(first_, last)).count();
      }
    } else {
      time_.core_seconds +=
          std::chrono::duration<double>(Clock::now() - start_).count() * stream_.slots();
    }
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  PartTime& time() { return time_; }

 private:
  PartTime& time_;
  Stream& stream_;
  uint64_t first_ = 0;
  const Clock::time_point start_ = Clock::now();
};

// Which of an encoder's four products this is.
Part PartOf(const LinearArgs& args) {
  const LinearShape& shape = args.weight->shape;
  if (args.epilogue.activation != Activation::kNone) return Part::kUp;
  if (shape.k > shape.n) return Part::kDown;
  return shape.k == shape.n ? Part::kAttentionOutput : Part::kQueryKeyValue;
}

// The same product without what follows the bias.
LinearArgs WithoutGelu(LinearArgs args) {
  thread_local std::vector<float> unread;
  unread.resize(std::max<size_t>(unread.size(), args.rows * args.weight->shape.n));
  const bool f32 = args.output.element == Element::kF32;
  args.output = {unread.data(), args.weight->shape.n, f32 ? Element::kF32 : Element::kBf16};
  args.epilogue.activation = Activation::kNone;
  args.epilogue.gated = false;
  return args;
}

template <size_t kIndex>
void RunLinear(const LinearArgs& args, Stream& stream) {
  const LinearKernel& kernel = linear_kernels[kIndex];
  const Part part = PartOf(args);
  const LinearArgs run = leave_out_gelu && part == Part::kUp ? WithoutGelu(args) : args;
  const LinearShape& shape = args.weight->shape;
  Stopwatch stopwatch(part, stream);
  stopwatch.time().flops[static_cast<int>(kernel.arithmetic)] +=
      2.0 * static_cast<double>(args.rows) * static_cast<double>(shape.n * shape.k);
  stopwatch.time().weight_bytes += static_cast<double>(args.weight->bytes);
  kernel.run(run, stream);
}

template <size_t kIndex>
void RunAttention(const AttentionArgs& args, Stream& stream) {
  const AttentionKernel& kernel = attention_kernels[kIndex];
  if (!on_cpu) {
    const Stopwatch stopwatch(Part::kAttention, stream);
    kernel.run(args, stream);
    return;
  }
  double pairs = 0;  // of a query and a key
  for (int64_t s = 0; s < args.sequences; ++s) {
    const int64_t begin = std::max<int64_t>(args.row_begin, args.offsets[s]);
    const int64_t end = std::min<int64_t>(args.row_end, args.offsets[s + 1]);
    if (end > begin)
      pairs += static_cast<double>(end - begin) * (args.offsets[s + 1] - args.offsets[s]);
  }
  const double flops = 4.0 * args.heads * args.head_size * pairs;  // half scores, half values
  Stopwatch stopwatch(Part::kAttention, stream);
  std::array<double, kElements>& counted = stopwatch.time().flops;
  if (kernel.score_levels == 0) {
    counted[static_cast<int>(kernel.input)] += flops;
  } else {
    // In integers: values of 16 bit, which take twice the time of 8, and scores of 8 or 16.
    const double scores = kernel.score_levels <= 127 ? 1 : 2;
    counted[static_cast<int>(Element::kInt8)] += flops / 2 * (scores + 2);
  }
  kernel.run(args, stream);
}

template <size_t... kIndices>
void WrapKernels(std::index_sequence<kIndices...>) {
  constexpr void (*kLinear[])(const LinearArgs&, Stream&) = {RunLinear<kIndices>...};
  constexpr void (*kAttention[])(const AttentionArgs&, Stream&) = {RunAttention<kIndices>...};
  timed_linear_kernels = linear_kernels;
  timed_attention_kernels = attention_kernels;
  for (size_t i = 0; i < linear_kernels.size(); ++i) timed_linear_kernels[i].run = kLinear[i];
  for (size_t i = 0; i < attention_kernels.size(); ++i) {
    timed_attention_kernels[i].run = kAttention[i];
  }
}

// A row operation of any signature, the stream last, timed as `kPart`.
template <auto kOperation, Part kPart>
struct TimedRows;
template <typename... Args, void (*RowOperations::*kOperation)(Args...), Part kPart>
struct TimedRows<kOperation, kPart> {
  static void Run(Args... args) {
    Stream& stream = std::get<sizeof...(Args) - 1>(std::tie(args...));
    Stopwatch stopwatch(kPart, stream);
    (rows.*kOperation)(args...);
  }
};

RowOperations WrapRows() {
  // An operation that is not timed would count as hand-offs.
  static_assert(sizeof(RowOperations) == 5 * sizeof(void (*)()));
  return {
      .embed = TimedRows<&RowOperations::embed, Part::kEmbed>::Run,
      .norm = TimedRows<&RowOperations::norm, Part::kNorm>::Run,
      .encode = TimedRows<&RowOperations::encode, Part::kEncode>::Run,
      .mean_pool = TimedRows<&RowOperations::mean_pool, Part::kPool>::Run,
      .first_pool = TimedRows<&RowOperations::first_pool, Part::kPool>::Run,
  };
}

}  // namespace

const Backend& TimedBackend(const Backend& backend) {
  static const Backend timed = [&] {
    const auto linear = backend.linear_kernels();
    const auto attention = backend.attention_kernels();
    if (std::max(linear.size(), attention.size()) > kMostKernels) std::abort();
    linear_kernels.assign(linear.begin(), linear.end());
    attention_kernels.assign(attention.begin(), attention.end());
    rows = backend.rows;
    on_cpu = backend.name == "cpu";
    WrapKernels(std::make_index_sequence<kMostKernels>());
    Backend copy = backend;
    copy.linear_kernels = [] { return std::span<const LinearKernel>(timed_linear_kernels); };
    copy.attention_kernels = [] {
      return std::span<const AttentionKernel>(timed_attention_kernels);
    };
    copy.rows = WrapRows();
    return copy;
  }();
  return timed;
}

PartTimes TakePartTimes() {
  const std::lock_guard<std::mutex> lock(mutex);
  PartTimes sum = {};
  for (PartTimes& times : all_times) {
    for (int p = 0; p < kParts; ++p) {
      sum[p].core_seconds += times[p].core_seconds;
      sum[p].calls += times[p].calls;
      sum[p].weight_bytes += times[p].weight_bytes;
      for (int e = 0; e < kElements; ++e) sum[p].flops[e] += times[p].flops[e];
    }
    times = {};
  }
  return sum;
}

absl::Status TakeTimesByMarks(const Backend& backend) {
  absl::StatusOr<Buffer> host = backend.allocate_host(kDelayBytes);
  if (!host.ok()) return host.status();
  absl::StatusOr<Buffer> device = backend.allocate(kDelayBytes);
  if (!device.ok()) return device.status();
  delay_host = *std::move(host);
  delay_device = *std::move(device);
  by_marks = true;
  return absl::OkStatus();
}

void LeaveOutGelu(bool leave_out) { leave_out_gelu = leave_out; }

}  // namespace octavo::bench
