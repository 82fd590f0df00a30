#include "tests/bench/model_bench.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

Json Describe(const Runtime& runtime, const ModelBenchOptions& options, Lane lane) {
  const LaneDescription& description = runtime.info().lanes[static_cast<int>(lane)];
  return {{"bench", "model"},
          {"what", lane == Lane::kQuery ? "queries" : "documents"},
          {"model", runtime.info().name},
          {"format", std::string(description.format->name)},
          {"method", description.method},
          {"kernels", description.kernels},
          {"threads", Threads(options.source)}};
}

// The arithmetic of the first linear row a lane uses.
Element Arithmetic(const LaneDescription& lane) {
  for (const Backend& backend : Backends()) {
    for (const LinearKernel& kernel : backend.linear_kernels()) {
      if (!lane.kernels.empty() && kernel.name == lane.kernels.front()) return kernel.arithmetic;
    }
  }
  return Element::kF32;
}

Json DocumentResult(const Runtime& runtime, const ModelBenchOptions& options, const Workload& load,
                    const std::vector<double>& seconds) {
  const LaneDescription& lane = runtime.info().lanes[static_cast<int>(Lane::kDocument)];
  const double tokens = static_cast<double>(load.document_tokens);
  const double median = Median(seconds);
  const double flops = Flops(runtime.info().spec, load.documents);
  Json result = {
      {"documents", load.documents.size()},
      {"tokens", load.document_tokens},
      {"rounds", seconds.size()},
      {"seconds", median},
      {"tokens_per_second", tokens / median},
      {"best_tokens_per_second", tokens / *std::min_element(seconds.begin(), seconds.end())},
      {"gops", flops / median * 1e-9}};
  if (options.peak_flops) {
    const double peak = options.peak_flops(Arithmetic(lane), Threads(options.source));
    if (peak > 0) result["share_of_peak"] = flops / median / peak;
  }
  return result;
}

Json QueryResult(const Runtime& runtime, const Workload& load,
                 const std::vector<double>& milliseconds) {
  const LaneDescription& lane = runtime.info().lanes[static_cast<int>(Lane::kQuery)];
  double tokens = 0;
  for (size_t i = load.warm_up(); i < load.query_count(); ++i) {
    tokens += static_cast<double>(load.queries[i].size());
  }
  const size_t counted = load.query_count() - load.warm_up();
  const double bytes = LinearWeightBytes(runtime.info().spec, *lane.format);
  return {{"queries", counted},
          {"mean_tokens", tokens / static_cast<double>(counted)},
          {"p50_ms", Median(milliseconds)},
          {"p99_ms", eval::Percentile(milliseconds, 99)},
          {"weight_mbytes", bytes * 1e-6},
          {"weight_gbytes_per_second", bytes / Median(milliseconds) * 1e-6}};
}

// One pair of formats, loaded, and what it took in each round.
struct Contender {
  std::unique_ptr<Runtime> runtime;
  Agreement agreement;
  std::vector<double> seconds;       // of the documents
  std::vector<double> p50_ms;        // of the queries
  std::vector<double> milliseconds;  // of every query
};

class ModelBench {
 public:
  explicit ModelBench(const ModelBenchOptions& options) : options_(options) {}

  absl::Status Run() {
    if (absl::Status status = Load(); !status.ok()) return status;
    for (int round = 0; round < std::max(1, options_.rounds); ++round) {
      for (size_t turn = 0; turn < contenders_.size(); ++turn) {
        // Everyone goes first once in a while.
        Contender& contender = contenders_[(turn + round) % contenders_.size()];
        if (absl::Status status = Pass(contender); !status.ok()) return status;
      }
    }
    for (size_t i = 0; i < contenders_.size(); ++i) {
      if (i > 0 || f32_asked_) Print(contenders_[i]);
    }
    return absl::OkStatus();
  }

 private:
  // f32 first, which the others are judged by and compared to.
  absl::Status Load() {
    std::vector<eval::LaneFormats> formats = {{"f32", "f32"}};
    for (const eval::LaneFormats& pair : options_.formats) {
      const bool f32 = pair.document == "f32" && pair.query == "f32";
      f32_asked_ |= f32;
      if (!f32) formats.push_back(pair);
    }
    for (const eval::LaneFormats& pair : formats) {
      auto runtime = StartRuntime(options_.source, MakeRuntimeOptions(options_.source, pair));
      if (!runtime.ok()) return runtime.status();
      contenders_.push_back({.runtime = *std::move(runtime)});
    }
    Runtime& f32 = *contenders_.front().runtime;
    auto load = MakeWorkload(options_.load, f32);
    if (!load.ok()) return load.status();
    load_ = *std::move(load);
    auto reference = MakeReference(f32, load_);
    if (!reference.ok()) return reference.status();
    for (Contender& contender : contenders_) {
      auto agreement = Validate(*contender.runtime, load_, *reference);
      if (!agreement.ok()) return agreement.status();
      contender.agreement = *agreement;
    }
    return absl::OkStatus();
  }

  absl::Status Pass(Contender& contender) {
    auto seconds = TimeDocuments(*contender.runtime, load_.documents);
    if (!seconds.ok()) return seconds.status();
    contender.seconds.push_back(*seconds);
    auto milliseconds = TimeQueries(*contender.runtime, load_);
    if (!milliseconds.ok()) return milliseconds.status();
    contender.p50_ms.push_back(Median(*milliseconds));
    contender.milliseconds.insert(contender.milliseconds.end(), milliseconds->begin(),
                                  milliseconds->end());
    return absl::OkStatus();
  }

  static double MedianRatio(const std::vector<double>& f32, const std::vector<double>& ours) {
    std::vector<double> ratios;
    for (size_t i = 0; i < ours.size(); ++i) ratios.push_back(f32[i] / ours[i]);
    return Median(ratios);
  }

  void Print(const Contender& contender) {
    const Contender& f32 = contenders_.front();
    for (Lane lane : {Lane::kDocument, Lane::kQuery}) {
      const bool queries = lane == Lane::kQuery;
      Json line = Describe(*contender.runtime, options_, lane);
      line["cosine_mean"] = contender.agreement.mean[static_cast<int>(lane)];
      line["cosine_min"] = contender.agreement.least[static_cast<int>(lane)];
      line.update(queries ? QueryResult(*contender.runtime, load_, contender.milliseconds)
                          : DocumentResult(*contender.runtime, options_, load_, contender.seconds));
      line["ratio_to_f32"] = queries ? MedianRatio(f32.p50_ms, contender.p50_ms)
                                     : MedianRatio(f32.seconds, contender.seconds);
      *options_.output << line.dump() << std::endl;
    }
  }

  const ModelBenchOptions& options_;
  bool f32_asked_ = false;
  std::vector<Contender> contenders_;
  Workload load_;
};

absl::StatusOr<Json> WriteVectors(Runtime& runtime, const Workload& load, const std::string& what,
                                  const std::string& path) {
  const bool queries = what == "queries";
  if (!queries && what != "documents") {
    return absl::InvalidArgumentError("vectors of documents or of queries?");
  }
  auto vectors = eval::EmbedTokens(runtime, queries ? Lane::kQuery : Lane::kDocument,
                                   queries ? load.queries : load.documents);
  if (!vectors.ok()) return vectors.status();
  eval::NormalizeRows(&*vectors);
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(vectors->values.data()),
             static_cast<std::streamsize>(vectors->values.size() * sizeof(float)));
  file.close();
  if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot write ", path));
  return Json{{"rows", vectors->rows}, {"columns", vectors->columns}};
}

absl::StatusOr<Json> Obey(Runtime& runtime, const ModelBenchOptions& options, const Workload& load,
                          const std::string& line) {
  std::istringstream words(line);
  std::string command, what, path;
  words >> command >> what;
  std::getline(words >> std::ws, path);
  if (command == "documents") {
    auto seconds = TimeDocuments(runtime, load.documents);
    if (!seconds.ok()) return seconds.status();
    return DocumentResult(runtime, options, load, {*seconds});
  }
  if (command == "queries") {
    auto milliseconds = TimeQueries(runtime, load);
    if (!milliseconds.ok()) return milliseconds.status();
    Json result = QueryResult(runtime, load, *milliseconds);
    result["ms"] = *milliseconds;
    return result;
  }
  if (command == "vectors") return WriteVectors(runtime, load, what, path);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command \"", command, "\": documents, queries, vectors or quit"));
}

absl::Status CheckOptions(const ModelBenchOptions& options) {
  if (options.formats.empty()) return absl::InvalidArgumentError("no format to measure");
  return CheckSource(options.source);
}

}  // namespace

absl::Status RunModelBench(const ModelBenchOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  return ModelBench(options).Run();
}

absl::Status RunModelWorker(const ModelBenchOptions& options, std::istream& commands) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto runtime =
      StartRuntime(options.source, MakeRuntimeOptions(options.source, options.formats.front()));
  if (!runtime.ok()) return runtime.status();
  auto load = MakeWorkload(options.load, **runtime);
  if (!load.ok()) return load.status();
  const Json ready = {{"documents", Describe(**runtime, options, Lane::kDocument)},
                      {"queries", Describe(**runtime, options, Lane::kQuery)},
                      {"tokens", load->document_tokens}};
  *options.output << ready.dump() << std::endl;
  for (std::string line; std::getline(commands, line) && line != "quit";) {
    auto answer = Obey(**runtime, options, *load, line);
    const Json json = answer.ok() ? *answer : Json{{"error", answer.status().ToString()}};
    *options.output << json.dump() << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace octavo::bench
