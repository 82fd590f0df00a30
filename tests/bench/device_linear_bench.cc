#include "tests/bench/device_linear_bench.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "nlohmann/json.hpp"
#include "tests/bench/evicting.h"
#include "tests/kernels/linear_cases.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kPeakSize = 8192;
constexpr int64_t kValidatedTokens = 65;
constexpr int64_t kColdTokens = 64;  // with more, activations come from memory too
constexpr int kTimings = 7;
constexpr int kMostCalls = 64;             // of a graph
constexpr double kTimingSeconds = 500e-6;  // of a graph, at least
constexpr int64_t kScaleColumns = 128;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

double MedianOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Bytes that are finite and not denormal in every encoding.
std::vector<uint8_t> RandomCodes(int64_t bytes) {
  std::minstd_rand random(1);
  std::vector<uint8_t> codes(bytes);
  for (uint8_t& code : codes) code = (random() >> 8 & 0x3f) | 0x20;
  return codes;
}

EncodedMatrix RandomWeight(const Format& format, const LinearShape& shape) {
  EncodedMatrix weight;
  weight.encoding = format.weight;
  weight.rows = shape.n;
  weight.columns = shape.k;
  weight.values = RandomCodes(weight.row_bytes() * shape.n);
  if (format.weight.scale != ScaleElement::kNone) {
    weight.scales.assign(shape.n * weight.groups(), 1.0f / 1024);
  }
  if (format.weight.zero != Zero::kNone) weight.zeros.assign(weight.scales.size(), 8.0f);
  return weight;
}

struct Row {
  const LinearKernel* kernel;
  const Format* format;
};

class DeviceLinearBench {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceLinearBench>> Open(const std::string& device) {
    auto backend = FindBackend(device);
    if (!backend.ok()) return backend.status();
    auto index = DeviceIndex(device);
    if (!index.ok()) return index.status();
    auto stream = (*backend)->open_stream(*index, {});
    if (!stream.ok()) return stream.status();
    auto evicting = Evicting::Create(**backend);
    if (!evicting.ok()) return evicting.status();
    return std::unique_ptr<DeviceLinearBench>(
        new DeviceLinearBench(device, **backend, *std::move(stream), *std::move(evicting)));
  }

  // Of `formats` (all if empty), in table order.
  absl::StatusOr<std::vector<Row>> Rows(const LinearBenchOptions& options) const;
  absl::Status Run(const LinearBenchOptions& options);
  absl::Status Peak(std::ostream& output);

 private:
  DeviceLinearBench(const std::string& device, const Backend& backend,
                    std::unique_ptr<Stream> stream, Evicting evicting)
      : device_(device),
        backend_(backend),
        stream_(std::move(stream)),
        evicting_(std::move(evicting)) {}

  absl::Status Validate(const Row& row, const LinearShape& shape);
  // Memory for a call of any row of a shape.
  absl::Status Allocate(const LinearShape& shape, int64_t tokens);
  LinearArgs Args(const Row& row, const PackedWeight& weight, int64_t tokens, bool gelu) const;
  // Seconds of a call on the device.
  absl::StatusOr<double> TimeWarm(absl::FunctionRef<void()> call);
  absl::StatusOr<double> TimeCold(absl::FunctionRef<void()> call);
  absl::StatusOr<double> TimeOnce(absl::FunctionRef<void()> call);
  // Flops a second of a row at its best.
  absl::StatusOr<double> PeakOf(const Row& row);

  const std::string device_;
  const Backend& backend_;
  const std::unique_ptr<Stream> stream_;
  const Evicting evicting_;
  Buffer input_, scales_, sums_, output_, output_scales_, output_sums_, bias_;
};

absl::StatusOr<std::vector<Row>> DeviceLinearBench::Rows(const LinearBenchOptions& options) const {
  std::vector<const Format*> formats;
  for (const std::string& name : options.formats) {
    auto format = FindFormat(name);
    if (!format.ok()) return format.status();
    formats.push_back(*format);
  }
  if (formats.empty()) {
    for (const Format& format : Formats()) formats.push_back(&format);
  }
  std::vector<Row> rows;
  for (const Format* format : formats) {
    for (const LinearKernel& kernel : backend_.linear_kernels()) {
      if (!kernel.accepts(*format)) continue;
      if (options.kernel.empty() || kernel.name == options.kernel)
        rows.push_back({&kernel, format});
    }
  }
  if (rows.empty()) return absl::InvalidArgumentError("no linear row computes these formats");
  return rows;
}

absl::Status DeviceLinearBench::Validate(const Row& row, const LinearShape& shape) {
  Operands operands(*row.kernel);
  operands.aligned = true;
  const LinearProblem problem(*row.format, operands, shape, kValidatedTokens, Values::kPlain, 1);
  auto weight = PackWeight(*row.kernel, *row.format, problem.weight());
  if (!weight.ok()) return weight.status();
  for (const bool gelu : {false, true}) {
    const EpilogueCase epilogue = {
        .bias = true,
        .activation = gelu ? Activation::kGelu : Activation::kNone,
        .output = gelu ? row.format->activation.element : backend_.hidden(*row.format)};
    const LinearOutput output =
        problem.Run(epilogue, &*weight, row.kernel->run, DeviceStream{backend_, *stream_});
    const std::string wrong = problem.Check(epilogue, output, ErrorBound(*row.kernel));
    if (!wrong.empty()) {
      return absl::InternalError(absl::StrCat(View(row.kernel->name), " is wrong on ",
                                              problem.Describe(), " ", Describe(epilogue), ": ",
                                              wrong));
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceLinearBench::Allocate(const LinearShape& shape, int64_t tokens) {
  const int64_t stride = (tokens + 31) / 32 * 32;
  const auto scales = [&](int64_t columns) {
    return stride * ((columns + kScaleColumns - 1) / kScaleColumns);
  };
  absl::Status status;
  const auto allocate = [&](Buffer* buffer, int64_t bytes) {
    if (!status.ok()) return;
    auto allocated = backend_.allocate(bytes);
    status = allocated.status();
    if (allocated.ok()) *buffer = *std::move(allocated);
  };
  allocate(&input_, tokens * shape.k * 4);
  allocate(&scales_, scales(shape.k) * 4);
  allocate(&sums_, stride * 4);
  allocate(&output_, tokens * shape.n * 4);
  allocate(&output_scales_, scales(shape.n) * 4);
  allocate(&output_sums_, stride * 4);
  allocate(&bias_, shape.n * 4);
  if (!status.ok()) return status;
  const std::vector<uint8_t> codes = RandomCodes(tokens * shape.k * 4);
  const std::vector<float> floats(std::max(scales(shape.k), shape.n), 1.0f / 1024);
  stream_->Upload(input_.as<void>(), codes.data(), static_cast<int64_t>(codes.size()));
  stream_->Upload(scales_.as<void>(), floats.data(), scales(shape.k) * 4);
  stream_->Upload(bias_.as<void>(), floats.data(), shape.n * 4);
  return stream_->Finish();
}

LinearArgs DeviceLinearBench::Args(const Row& row, const PackedWeight& weight, int64_t tokens,
                                   bool gelu) const {
  const LinearShape& shape = weight.shape;
  const int64_t stride = (tokens + 31) / 32 * 32;
  LinearArgs args;
  args.rows = tokens;
  args.weight = &weight;
  args.input = {input_.as<void>(),   shape.k, row.kernel->input, scales_.as<float>(),
                sums_.as<int32_t>(), stride};
  args.output = {output_.as<void>(),
                 shape.n,
                 gelu ? row.format->activation.element : backend_.hidden(*row.format),
                 output_scales_.as<float>(),
                 output_sums_.as<int32_t>(),
                 stride};
  args.epilogue.bias = bias_.as<float>();
  if (gelu) args.epilogue.activation = Activation::kGelu;
  return args;
}

absl::StatusOr<double> DeviceLinearBench::TimeOnce(absl::FunctionRef<void()> call) {
  const uint64_t first = stream_->Mark();
  call();
  const uint64_t last = stream_->Mark();
  if (absl::Status status = stream_->Finish(); !status.ok()) return status;
  return std::chrono::duration<double>(stream_->Between(first, last)).count();
}

absl::StatusOr<double> DeviceLinearBench::TimeWarm(absl::FunctionRef<void()> call) {
  double once = 0;
  for (int warm_up = 0; warm_up < 3; ++warm_up) {
    auto seconds = TimeOnce(call);
    if (!seconds.ok()) return seconds.status();
    once = *seconds;
  }
  const int calls =
      std::clamp(static_cast<int>(kTimingSeconds / std::max(once, 1e-7)), 1, kMostCalls);
  const auto all = [&] {
    for (int i = 0; i < calls; ++i) call();
  };
  std::unique_ptr<Stream::Graph> graph;
  if (stream_->captures()) {
    auto captured = stream_->Capture(all);
    if (!captured.ok()) return captured.status();
    graph = *std::move(captured);
  }
  std::vector<double> timings;
  for (int timing = -1; timing < kTimings; ++timing) {
    auto seconds = TimeOnce([&] { graph == nullptr ? all() : stream_->Replay(*graph); });
    if (!seconds.ok()) return seconds.status();
    if (timing >= 0) timings.push_back(*seconds / calls);
  }
  return MedianOf(std::move(timings));
}

absl::StatusOr<double> DeviceLinearBench::TimeCold(absl::FunctionRef<void()> call) {
  std::vector<double> timings, empty;
  for (int timing = 0; timing < 3 * kTimings; ++timing) {
    // Touching takes long enough for the host to be ahead.
    evicting_.Touch(*stream_);
    auto seconds = TimeOnce(call);
    if (!seconds.ok()) return seconds.status();
    timings.push_back(*seconds);
    evicting_.Touch(*stream_);
    auto nothing = TimeOnce([] {});
    if (!nothing.ok()) return nothing.status();
    empty.push_back(*nothing);
  }
  return std::max(0.0, MedianOf(std::move(timings)) - MedianOf(std::move(empty)));
}

absl::StatusOr<double> DeviceLinearBench::PeakOf(const Row& row) {
  const LinearShape shape = {.n = kPeakSize, .k = kPeakSize};
  auto weight = PackWeight(*row.kernel, *row.format, RandomWeight(*row.format, shape));
  if (!weight.ok()) return weight.status();
  if (absl::Status status = Allocate(shape, kPeakSize); !status.ok()) return status;
  const LinearArgs args = Args(row, *weight, kPeakSize, false);
  auto seconds = TimeWarm([&] { row.kernel->run(args, *stream_); });
  if (!seconds.ok()) return seconds.status();
  return 2.0 * kPeakSize * kPeakSize * kPeakSize / *seconds;
}

absl::Status DeviceLinearBench::Run(const LinearBenchOptions& options) {
  auto rows = Rows(options);
  if (!rows.ok()) return rows.status();
  std::map<const Format*, double> peaks;
  for (const Row& row : *rows) {
    auto peak = PeakOf(row);
    if (!peak.ok()) return peak.status();
    peaks[row.format] = std::max(peaks[row.format], *peak);
  }
  for (const LinearShape& shape : options.shapes) {
    const int64_t most = *std::max_element(options.tokens.begin(), options.tokens.end());
    if (absl::Status status = Allocate(shape, most); !status.ok()) return status;
    for (const Row& row : *rows) {
      if (!row.kernel->fits(shape)) continue;
      if (absl::Status status = Validate(row, shape); !status.ok()) return status;
      auto weight = PackWeight(*row.kernel, *row.format, RandomWeight(*row.format, shape));
      if (!weight.ok()) return weight.status();
      for (int64_t tokens : options.tokens) {
        for (const std::string& epilogue : options.epilogues) {
          if (epilogue != "bias" && epilogue != "gelu") continue;
          const LinearArgs args = Args(row, *weight, tokens, epilogue == "gelu");
          const auto call = [&] { row.kernel->run(args, *stream_); };
          auto warm = TimeWarm(call);
          if (!warm.ok()) return warm.status();
          const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(shape.n) *
                               static_cast<double>(shape.k);
          Json line = {{"bench", "linear"},
                       {"device", device_},
                       {"kernel", std::string(row.kernel->name)},
                       {"format", std::string(row.format->name)},
                       {"n", shape.n},
                       {"k", shape.k},
                       {"tokens", tokens},
                       {"epilogue", epilogue},
                       {"us", *warm * 1e6},
                       {"tflops", flops / *warm * 1e-12},
                       {"share_of_peak", flops / *warm / peaks[row.format]}};
          if (tokens <= kColdTokens) {
            auto cold = TimeCold(call);
            if (!cold.ok()) return cold.status();
            line["cold_us"] = *cold * 1e6;
            if (*cold > 0) {
              line["weight_gbytes_per_second"] = static_cast<double>(weight->bytes) / *cold * 1e-9;
            }
          }
          *options.output << line.dump() << std::endl;
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceLinearBench::Peak(std::ostream& output) {
  auto rows = Rows({});
  if (!rows.ok()) return rows.status();
  for (const Row& row : *rows) {
    auto peak = PeakOf(row);
    if (!peak.ok()) return peak.status();
    const Json line = {{"bench", "peak"},
                       {"device", device_},
                       {"kernel", std::string(row.kernel->name)},
                       {"format", std::string(row.format->name)},
                       {"tflops", *peak * 1e-12}};
    output << line.dump() << std::endl;
  }
  auto seconds = TimeWarm([&] { evicting_.Touch(*stream_); });
  if (!seconds.ok()) return seconds.status();
  const Json line = {
      {"bench", "peak"},
      {"device", device_},
      {"what", "f32 read, bf16 written"},
      {"gbytes_per_second", static_cast<double>(Evicting::kBytes) / *seconds * 1e-9}};
  output << line.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace

absl::Status RunDeviceLinearBench(const LinearBenchOptions& options, const std::string& device) {
  auto bench = DeviceLinearBench::Open(device);
  return bench.ok() ? (*bench)->Run(options) : bench.status();
}

absl::Status RunDevicePeakBench(const std::string& device, std::ostream* output) {
  auto bench = DeviceLinearBench::Open(device);
  return bench.ok() ? (*bench)->Peak(*output) : bench.status();
}

}  // namespace octavo::bench
