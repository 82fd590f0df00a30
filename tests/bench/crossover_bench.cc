#include "tests/bench/crossover_bench.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

struct Contender {
  std::string format;
  std::unique_ptr<Runtime> runtime;
  std::vector<double> seconds;  // a batch, one entry a round
};

class CrossoverBench {
 public:
  explicit CrossoverBench(const CrossoverBenchOptions& options) : options_(options) {}

  absl::Status Run() {
    if (absl::Status status = Load(); !status.ok()) return status;
    *options_.output << Json{{"bench", "crossover"},
                             {"model", contenders_.front().runtime->info().name},
                             {"shape", options_.source.shape},
                             {"processor", ProcessorName()},
                             {"threads", Threads(options_.source)},
                             {"rounds", options_.rounds},
                             {"command", options_.command}}
                            .dump()
                     << std::endl;
    for (int tokens : options_.tokens) {
      if (absl::Status status = Compare(tokens); !status.ok()) return status;
    }
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
      auto runtime = StartRuntime(options_.source, runtime_options);
      if (!runtime.ok()) return runtime.status();
      contenders_.push_back({format, *std::move(runtime), {}});
    }
    if (contenders_.empty()) return absl::InvalidArgumentError("no format to measure");
    return absl::OkStatus();
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

  void Print(int tokens, const Contender& contender) {
    const double seconds = Median(contender.seconds);
    Json line = {{"shape", options_.source.shape},
                 {"format", contender.format},
                 {"tokens", tokens},
                 {"us", seconds * 1e6},
                 {"tokens_per_second", tokens / seconds}};
    for (const Contender& other : contenders_) {
      if (other.format != "f32" && other.format != "bf16") continue;
      std::vector<double> ratios;
      for (size_t i = 0; i < other.seconds.size(); ++i) {
        ratios.push_back(other.seconds[i] / contender.seconds[i]);
      }
      line["ratio_to_" + other.format] = Median(ratios);
    }
    *options_.output << line.dump() << std::endl;
  }

  const CrossoverBenchOptions& options_;
  std::vector<Contender> contenders_;
};

}  // namespace

absl::Status RunCrossoverBench(const CrossoverBenchOptions& options) {
  if (absl::Status status = CheckSource(options.source); !status.ok()) return status;
  return CrossoverBench(options).Run();
}

}  // namespace octavo::bench
