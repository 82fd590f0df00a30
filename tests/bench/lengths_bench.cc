#include "tests/bench/lengths_bench.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kCheckedSequences = 16;

// Every length between equally often, in random order.
std::vector<int> MixedLengths(const LengthsBenchOptions& options) {
  std::vector<int> lengths;
  int64_t tokens = 0;
  for (int length = options.shortest; tokens < options.tokens; ++length) {
    if (length > options.longest) length = options.shortest;
    lengths.push_back(length);
    tokens += length;
  }
  std::shuffle(lengths.begin(), lengths.end(), std::mt19937(1));
  return lengths;
}

int64_t Sum(const std::vector<int>& lengths) {
  int64_t sum = 0;
  for (int length : lengths) sum += length;
  return sum;
}

absl::Status CheckAlone(Runtime& runtime, const TokenIds& sequences) {
  const size_t count = std::min<size_t>(sequences.size(), kCheckedSequences);
  auto together = eval::EmbedTokens(runtime, Lane::kDocument, sequences);
  if (!together.ok()) return together.status();
  for (size_t i = 0; i < count; ++i) {
    auto alone = eval::EmbedTokens(runtime, Lane::kDocument, {sequences[i]}, 1);
    if (!alone.ok()) return alone.status();
    const double cosine = eval::Cosine(alone->row(0), together->row(static_cast<int64_t>(i)));
    if (!(cosine >= 0.9999)) {
      return absl::InternalError(absl::StrCat("sequence ", i, " of ", sequences[i].size(),
                                              " tokens has cosine ", cosine,
                                              " to itself alone; nothing was timed"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int EqualWorkLength(const std::vector<int>& lengths) {
  double squares = 0;
  for (int length : lengths) squares += static_cast<double>(length) * length;
  return static_cast<int>(std::lround(squares / static_cast<double>(Sum(lengths))));
}

absl::Status RunLengthsBench(const LengthsBenchOptions& options) {
  if (absl::Status status = CheckSource(options.source); !status.ok()) return status;
  const eval::LaneFormats formats = {options.document_format, options.document_format};
  auto runtime = StartRuntime(options.source, MakeRuntimeOptions(options.source, formats));
  if (!runtime.ok()) return runtime.status();
  const ModelSpec& spec = (*runtime)->info().spec;
  if (options.shortest < 1 || options.longest < options.shortest ||
      options.longest > spec.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("lengths must be 1 to the model's ", spec.max_tokens, ", shortest first"));
  }
  const std::vector<int> mixed_lengths = MixedLengths(options);
  const int equal_length = EqualWorkLength(mixed_lengths);
  const std::vector<int> equal_lengths(Sum(mixed_lengths) / equal_length, equal_length);
  const TokenIds mixed = RandomIds(mixed_lengths, spec.vocabulary, 1);
  const TokenIds equal = RandomIds(equal_lengths, spec.vocabulary, 2);
  if (absl::Status status = CheckAlone(**runtime, mixed); !status.ok()) return status;

  const double mixed_tokens = static_cast<double>(Sum(mixed_lengths));
  const double equal_tokens = static_cast<double>(Sum(equal_lengths));
  std::vector<double> mixed_rates, equal_rates, costs;
  for (int round = 0; round < std::max(1, options.rounds); ++round) {
    for (bool now_mixed : {round % 2 == 0, round % 2 == 1}) {
      auto seconds = TimeDocuments(**runtime, now_mixed ? mixed : equal);
      if (!seconds.ok()) return seconds.status();
      (now_mixed ? mixed_rates : equal_rates)
          .push_back((now_mixed ? mixed_tokens : equal_tokens) / *seconds);
    }
    costs.push_back(1 - mixed_rates.back() / equal_rates.back());
  }
  const LaneDescription& lane = (*runtime)->info().lanes[static_cast<int>(Lane::kDocument)];
  *options.output << Json{{"bench", "lengths"},
                          {"model", (*runtime)->info().name},
                          {"format", std::string(lane.format->name)},
                          {"threads", Threads(options.source)},
                          {"rounds", costs.size()},
                          {"shortest", options.shortest},
                          {"longest", options.longest},
                          {"equal_length", equal_length},
                          {"mixed_tokens_per_second", Median(mixed_rates)},
                          {"equal_tokens_per_second", Median(equal_rates)},
                          {"cost", Median(costs)}}
                         .dump()
                  << std::endl;
  return absl::OkStatus();
}

}  // namespace octavo::bench
