#include "tests/bench/model_bench.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <random>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cpu/team.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint.h"
#include "runtime/models/models.h"
#include "runtime/runtime.h"
#include "tests/eval/datasets.h"
#include "tests/eval/lane_embedder.h"
#include "tests/eval/metrics.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;
using TokenIds = std::vector<std::vector<int32_t>>;

constexpr int kRandomQueryTokens = 16;
constexpr int kCheckedDocuments = 32;
// Far below what any format costs (the worst has about 0.97), far above what a mistake leaves.
constexpr double kLeastMeanCosine = 0.9;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int Threads(const ModelBenchOptions& options) {
  return options.threads > 0 ? options.threads : cpu::AvailableProcessors();
}

// What is embedded: ids of documents, and queries as texts, or as ids where weights are random.
struct Workload {
  TokenIds documents;
  std::vector<std::string> query_texts;
  TokenIds queries;
  int64_t document_tokens = 0;

  size_t query_count() const { return queries.size(); }
  size_t warm_up() const { return query_count() / 10; }
};

TokenIds RandomIds(int sequences, int tokens, int vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  TokenIds ids(static_cast<size_t>(sequences), std::vector<int32_t>(static_cast<size_t>(tokens)));
  for (auto& sequence : ids) {
    for (int32_t& id : sequence) id = static_cast<int32_t>(random() % vocabulary);
  }
  return ids;
}

absl::StatusOr<std::unique_ptr<Runtime>> StartRuntime(const ModelBenchOptions& options,
                                                      const ModelBenchOptions::Formats& formats) {
  RuntimeOptions runtime_options = DefaultRuntimeOptions();
  runtime_options.model_directory = options.model;
  runtime_options.device = "cpu";
  runtime_options.threads = options.threads;
  runtime_options.kernel = options.kernel;
  runtime_options.kernel_plan = options.kernel_plan;
  const eval::LaneFormats lanes{formats.document, formats.query};
  if (!options.model.empty()) return eval::StartRuntime(runtime_options, lanes);
  auto spec = NamedShape(options.shape);
  if (!spec.ok()) return spec.status();
  runtime_options.lanes[static_cast<int>(Lane::kDocument)].format = lanes.document;
  runtime_options.lanes[static_cast<int>(Lane::kQuery)].format = lanes.query;
  auto runtime = Runtime::Load(Checkpoint::Random(*spec, 1), runtime_options, nullptr);
  if (!runtime.ok()) return runtime.status();
  if (absl::Status status = (*runtime)->Start(); !status.ok()) return status;
  return runtime;
}

absl::StatusOr<std::vector<std::string>> ReadQueryTexts(const std::string& path) {
  auto texts = eval::ReadTexts(path, "question");
  if (texts.ok()) return texts;
  return eval::ReadTexts(path, "text");
}

absl::StatusOr<std::vector<std::string>> ReadDocumentTexts(const std::string& path) {
  auto texts = eval::ReadTexts(path, "text");
  if (!texts.ok()) return texts.status();
  auto titles = eval::ReadTexts(path, "title");
  if (!titles.ok()) return texts;  // not every line has one
  for (size_t i = 0; i < texts->size(); ++i) {
    (*texts)[i] = absl::StrCat((*titles)[i], " ", (*texts)[i]);
  }
  return texts;
}

absl::StatusOr<Workload> MakeWorkload(const ModelBenchOptions& options, const Runtime& runtime) {
  Workload load;
  const ModelSpec& spec = runtime.info().spec;
  const bool texts = runtime.tokenizer() != nullptr;
  if (texts && !options.documents.empty()) {
    auto documents = ReadDocumentTexts(options.documents);
    if (!documents.ok()) return documents.status();
    documents->resize(std::min<size_t>(documents->size(), options.max_documents));
    auto ids = eval::TokenizeTexts(runtime, Lane::kDocument, *documents);
    if (!ids.ok()) return ids.status();
    load.documents = *std::move(ids);
  } else {
    load.documents = RandomIds(options.max_documents, std::min(options.tokens, spec.max_tokens),
                               spec.vocabulary, 1);
  }
  if (texts && !options.queries.empty()) {
    auto queries = ReadQueryTexts(options.queries);
    if (!queries.ok()) return queries.status();
    queries->resize(std::min<size_t>(queries->size(), options.max_queries));
    auto ids = eval::TokenizeTexts(runtime, Lane::kQuery, *queries);
    if (!ids.ok()) return ids.status();
    load.query_texts = *std::move(queries);
    load.queries = *std::move(ids);
  } else {
    load.queries = RandomIds(options.max_queries, std::min(kRandomQueryTokens, spec.max_tokens),
                             spec.vocabulary, 2);
  }
  for (const auto& document : load.documents) {
    load.document_tokens += static_cast<int64_t>(document.size());
  }
  if (load.documents.empty() || load.queries.size() < 10) {
    return absl::InvalidArgumentError("at least one document and ten queries are needed");
  }
  return load;
}

double DocumentFlops(const ModelSpec& spec, const Workload& load) {
  double flops = 0;
  for (const auto& document : load.documents) {
    const double tokens = static_cast<double>(document.size());
    flops += tokens * (spec.linear_flops_per_token() + spec.attention_flops_per_token(tokens));
  }
  return flops;
}

absl::StatusOr<double> TimeDocuments(Runtime& runtime, const Workload& load) {
  const auto start = std::chrono::steady_clock::now();
  auto vectors = eval::EmbedTokens(runtime, Lane::kDocument, load.documents);
  if (!vectors.ok()) return vectors.status();
  return SecondsSince(start);
}

// Milliseconds of each query after the warm-up, one at a time.
absl::StatusOr<std::vector<double>> TimeQueries(Runtime& runtime, const Workload& load) {
  const std::string prompt = eval::LanePrompt(runtime.info().spec, Lane::kQuery);
  std::vector<double> milliseconds;
  for (size_t i = 0; i < load.query_count(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    absl::Status status;
    if (load.query_texts.empty()) {
      status = eval::EmbedTokens(runtime, Lane::kQuery, {load.queries[i]}, 1).status();
    } else {
      status = eval::EmbedText(runtime, Lane::kQuery, prompt, load.query_texts[i]).status();
    }
    if (!status.ok()) return status;
    if (i >= load.warm_up()) milliseconds.push_back(1e3 * SecondsSince(start));
  }
  return milliseconds;
}

double Median(const std::vector<double>& values) { return eval::Percentile(values, 50); }

// f32 vectors of the first documents and of all queries.
struct Reference {
  eval::Matrix documents, queries;
};

TokenIds Checked(const Workload& load) {
  const size_t count = std::min<size_t>(load.documents.size(), kCheckedDocuments);
  return {load.documents.begin(), load.documents.begin() + static_cast<int64_t>(count)};
}

absl::StatusOr<Reference> MakeReference(const ModelBenchOptions& options) {
  auto runtime = StartRuntime(options, {"f32", "f32"});
  if (!runtime.ok()) return runtime.status();
  auto load = MakeWorkload(options, **runtime);
  if (!load.ok()) return load.status();
  auto documents = eval::EmbedTokens(**runtime, Lane::kDocument, Checked(*load));
  if (!documents.ok()) return documents.status();
  auto queries = eval::EmbedTokens(**runtime, Lane::kQuery, load->queries);
  if (!queries.ok()) return queries.status();
  return Reference{*std::move(documents), *std::move(queries)};
}

// Adds cosines to `line`; INTERNAL if they are too low to be rounding.
absl::Status Compare(const eval::Matrix& vectors, const eval::Matrix& reference, Json* line) {
  const std::vector<double> cosines = eval::RowCosines(vectors, reference);
  (*line)["cosine_mean"] = eval::Mean(cosines);
  (*line)["cosine_min"] = *std::min_element(cosines.begin(), cosines.end());
  if (eval::Mean(cosines) >= kLeastMeanCosine) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("the vectors are wrong, nothing was timed: ", line->dump()));
}

Json Describe(const Runtime& runtime, const ModelBenchOptions& options, Lane lane) {
  const LaneDescription& description = runtime.info().lanes[static_cast<int>(lane)];
  return {{"bench", "model"},
          {"what", lane == Lane::kQuery ? "queries" : "documents"},
          {"model", runtime.info().name},
          {"format", std::string(description.format->name)},
          {"method", description.method},
          {"kernels", description.kernels},
          {"threads", Threads(options)}};
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
  const double flops = DocumentFlops(runtime.info().spec, load);
  Json result = {
      {"documents", load.documents.size()},
      {"tokens", load.document_tokens},
      {"rounds", seconds.size()},
      {"seconds", median},
      {"tokens_per_second", tokens / median},
      {"best_tokens_per_second", tokens / *std::min_element(seconds.begin(), seconds.end())},
      {"gops", flops / median * 1e-9}};
  if (options.peak_flops) {
    const double peak = options.peak_flops(Arithmetic(lane), Threads(options));
    if (peak > 0) result["share_of_peak"] = flops / median / peak;
  }
  return result;
}

Json QueryResult(const Workload& load, const std::vector<double>& milliseconds) {
  double tokens = 0;
  for (size_t i = load.warm_up(); i < load.query_count(); ++i) {
    tokens += static_cast<double>(load.queries[i].size());
  }
  const size_t counted = load.query_count() - load.warm_up();
  return {{"queries", counted},
          {"mean_tokens", tokens / static_cast<double>(counted)},
          {"p50_ms", Median(milliseconds)},
          {"p99_ms", eval::Percentile(milliseconds, 99)}};
}

// Validates and times one pair of formats.
absl::Status Measure(const ModelBenchOptions& options, const ModelBenchOptions::Formats& formats,
                     const Reference* reference) {
  auto started = StartRuntime(options, formats);
  if (!started.ok()) return started.status();
  Runtime& runtime = **started;
  auto load = MakeWorkload(options, runtime);
  if (!load.ok()) return load.status();
  Json documents = Describe(runtime, options, Lane::kDocument);
  Json queries = Describe(runtime, options, Lane::kQuery);
  if (reference != nullptr) {
    auto vectors = eval::EmbedTokens(runtime, Lane::kDocument, Checked(*load));
    if (!vectors.ok()) return vectors.status();
    absl::Status status = Compare(*vectors, reference->documents, &documents);
    if (!status.ok()) return status;
    vectors = eval::EmbedTokens(runtime, Lane::kQuery, load->queries);
    if (!vectors.ok()) return vectors.status();
    status = Compare(*vectors, reference->queries, &queries);
    if (!status.ok()) return status;
  }
  std::vector<double> seconds, milliseconds;
  for (int round = 0; round < std::max(1, options.rounds); ++round) {
    auto pass = TimeDocuments(runtime, *load);
    if (!pass.ok()) return pass.status();
    seconds.push_back(*pass);
    auto latencies = TimeQueries(runtime, *load);
    if (!latencies.ok()) return latencies.status();
    milliseconds.insert(milliseconds.end(), latencies->begin(), latencies->end());
  }
  documents.update(DocumentResult(runtime, options, *load, seconds));
  queries.update(QueryResult(*load, milliseconds));
  *options.output << documents.dump() << "\n" << queries.dump() << std::endl;
  return absl::OkStatus();
}

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
    auto seconds = TimeDocuments(runtime, load);
    if (!seconds.ok()) return seconds.status();
    return DocumentResult(runtime, options, load, {*seconds});
  }
  if (command == "queries") {
    auto milliseconds = TimeQueries(runtime, load);
    if (!milliseconds.ok()) return milliseconds.status();
    Json result = QueryResult(load, *milliseconds);
    result["ms"] = *milliseconds;
    return result;
  }
  if (command == "vectors") return WriteVectors(runtime, load, what, path);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command \"", command, "\": documents, queries, vectors or quit"));
}

absl::Status CheckOptions(const ModelBenchOptions& options) {
  if (options.model.empty() == options.shape.empty()) {
    return absl::InvalidArgumentError("give a model directory or a shape, and not both");
  }
  if (options.formats.empty()) return absl::InvalidArgumentError("no format to measure");
  return absl::OkStatus();
}

}  // namespace

absl::Status RunModelBench(const ModelBenchOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  Reference reference;
  if (options.validate) {
    auto made = MakeReference(options);
    if (!made.ok()) return made.status();
    reference = *std::move(made);
  }
  for (const ModelBenchOptions::Formats& formats : options.formats) {
    const absl::Status status = Measure(options, formats, options.validate ? &reference : nullptr);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RunModelWorker(const ModelBenchOptions& options, std::istream& commands) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  auto runtime = StartRuntime(options, options.formats.front());
  if (!runtime.ok()) return runtime.status();
  auto load = MakeWorkload(options, **runtime);
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
