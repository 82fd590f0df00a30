#include "tests/bench/crossover_bench.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kManyTokens = 4096;  // weights are read once for so many

struct Contender {
  std::string format;
  std::unique_ptr<Runtime> runtime;
  std::vector<double> seconds;  // a batch, one entry a round
};

// The least of a 4-bit format's ratios to a 16-bit one.
struct Worst {
  double ratio = 0, ratio_of_many = 0;
  int tokens = 0;  // at which
};

class CrossoverBench {
 public:
  explicit CrossoverBench(const CrossoverBenchOptions& options) : options_(options) {}

  absl::Status Run() {
    if (absl::Status status = Load(); !status.ok()) return status;
    *options_.output << Json{{"bench", "crossover"},
                             {"model", contenders_.front().runtime->info().name},
                             {"shape", options_.source.shape},
                             {"device", options_.source.device},
                             {"processor", Processor()},
                             {"threads", Threads(options_.source)},
                             {"rounds", options_.rounds},
                             {"command", options_.command}}
                            .dump()
                     << std::endl;
    for (int tokens : options_.tokens) {
      if (absl::Status status = Compare(tokens); !status.ok()) return status;
    }
    PrintWorst();
    return absl::OkStatus();
  }

 private:
  absl::Status Load() {
    if (options_.tokens.empty() || *std::ranges::min_element(options_.tokens) < 1) {
      return absl::InvalidArgumentError("numbers of tokens must be above 0");
    }
    const int most = *std::ranges::max_element(options_.tokens);
    for (const std::string& format : options_.formats) {
      RuntimeOptions runtime_options = MakeRuntimeOptions(options_.source, {format, format});
      LaneOptions& lane = runtime_options.lanes[static_cast<int>(Lane::kQuery)];
      lane.max_batch_tokens = std::max<int64_t>(lane.max_batch_tokens, most);
      lane.max_queue_tokens = std::max<int64_t>(lane.max_queue_tokens, most);
      auto runtime = StartRuntime(options_.source, runtime_options);
      if (!runtime.ok()) return runtime.status();
      contenders_.push_back({format, *std::move(runtime), {}});
    }
    if (contenders_.empty()) return absl::InvalidArgumentError("no format to measure");
    return absl::OkStatus();
  }

  std::string Processor() const {
    const DeviceDescription& device = contenders_.front().runtime->info().devices.front();
    return device.processor.empty() ? ProcessorName() : device.processor;
  }

  TokenIds MakeBatch(int tokens) const {
    const ModelSpec& spec = contenders_.front().runtime->info().spec;
    const int longest = std::clamp(options_.longest_sequence, 1, spec.max_tokens);
    std::vector<int> lengths(tokens / longest, longest);
    if (tokens % longest != 0) lengths.push_back(tokens % longest);
    return RandomIds(lengths, spec.vocabulary, static_cast<uint32_t>(tokens));
  }

  static absl::StatusOr<eval::Matrix> Embed(Runtime& runtime, const TokenIds& batch) {
    return eval::EmbedTokens(runtime, Lane::kQuery, batch, static_cast<int>(batch.size()));
  }

  // Compares with the first format, and warms up.
  absl::Status Validate(const TokenIds& batch) {
    auto reference = Embed(*contenders_.front().runtime, batch);
    if (!reference.ok()) return reference.status();
    for (const Contender& contender : contenders_) {
      auto vectors = Embed(*contender.runtime, batch);
      if (!vectors.ok()) return vectors.status();
      auto cosine = CheckCosines(*vectors, *reference, contender.format);
      if (!cosine.ok()) return cosine.status();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> Turn(Runtime& runtime, const TokenIds& batch) const {
    const auto start = std::chrono::steady_clock::now();
    int64_t batches = 0;
    double elapsed = 0;
    do {
      auto vectors = Embed(runtime, batch);
      if (!vectors.ok()) return vectors.status();
      ++batches;
      elapsed = SecondsSince(start);
    } while (elapsed < options_.seconds);
    return elapsed / static_cast<double>(batches);
  }

  absl::Status Compare(int tokens) {
    const TokenIds batch = MakeBatch(tokens);
    if (absl::Status status = Validate(batch); !status.ok()) return status;
    for (Contender& contender : contenders_) contender.seconds.clear();
    for (int round = 0; round < std::max(1, options_.rounds); ++round) {
      for (size_t turn = 0; turn < contenders_.size(); ++turn) {
        Contender& contender = contenders_[(turn + round) % contenders_.size()];
        auto seconds = Turn(*contender.runtime, batch);
        if (!seconds.ok()) return seconds.status();
        contender.seconds.push_back(*seconds);
      }
    }
    for (const Contender& contender : contenders_) Print(tokens, contender);
    return absl::OkStatus();
  }

  void PrintWorst() const {
    for (const auto& [formats, worst] : worst_) {
      const auto& [format, other] = formats;
      Json line = {{"shape", options_.source.shape},
                   {"format", format},
                   {"worst_ratio_to_" + other, worst.ratio},
                   {"at_tokens", worst.tokens}};
      if (worst.ratio_of_many > 0) {
        line[absl::StrCat("worst_ratio_from_", kManyTokens, "_tokens")] = worst.ratio_of_many;
      }
      *options_.output << line.dump() << std::endl;
    }
  }

  void Print(int tokens, const Contender& contender) {
    const double seconds = Median(contender.seconds);
    Json line = {{"shape", options_.source.shape},
                 {"format", contender.format},
                 {"tokens", tokens},
                 {"us", seconds * 1e6},
                 {"tokens_per_second", tokens / seconds}};
    for (const Contender& other : contenders_) {
      if (other.format != "f32" && other.format != "f16" && other.format != "bf16") continue;
      std::vector<double> ratios;
      for (size_t i = 0; i < other.seconds.size(); ++i) {
        ratios.push_back(other.seconds[i] / contender.seconds[i]);
      }
      const double ratio = Median(ratios);
      line["ratio_to_" + other.format] = ratio;
      if (other.format != "f32" && contender.format.starts_with("a16w4")) {
        Worst& worst = worst_[{contender.format, other.format}];
        if (worst.tokens == 0 || ratio < worst.ratio) worst.ratio = ratio, worst.tokens = tokens;
        if (tokens >= kManyTokens && (worst.ratio_of_many == 0 || ratio < worst.ratio_of_many)) {
          worst.ratio_of_many = ratio;
        }
      }
    }
    *options_.output << line.dump() << std::endl;
  }

  const CrossoverBenchOptions& options_;
  std::vector<Contender> contenders_;
  std::map<std::pair<std::string, std::string>, Worst> worst_;
};

}  // namespace

CrossoverDefaults CrossoverDefaultsOf(bool on_cpu) {
  CrossoverDefaults defaults = {
      {"f32", "bf16", "a8w8_int8", "a16w4_int4"},
      {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024}};
  if (!on_cpu) {
    defaults.formats = {"f16", "a8w8_fp8", "a8w8_int8", "a16w4_int4"};
    for (int tokens = 2048; tokens <= 32768; tokens *= 2) defaults.tokens.push_back(tokens);
  }
  return defaults;
}

absl::Status RunCrossoverBench(const CrossoverBenchOptions& options) {
  if (absl::Status status = CheckSource(options.source); !status.ok()) return status;
  return CrossoverBench(options).Run();
}

}  // namespace octavo::bench
