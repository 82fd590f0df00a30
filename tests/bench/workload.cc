#include "tests/bench/workload.h"

#include <algorithm>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/team.h"
#include "runtime/checkpoint.h"
#include "runtime/models/models.h"
#include "tests/eval/datasets.h"

namespace octavo::bench {
namespace {

constexpr int kRandomQueryTokens = 16;
constexpr int kCheckedDocuments = 32;
// Far below what any format costs (the worst has about 0.97), far above what a mistake leaves.
constexpr double kLeastMeanCosine = 0.9;

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

TokenIds Checked(const Workload& load) {
  const size_t count = std::min<size_t>(load.documents.size(), kCheckedDocuments);
  return {load.documents.begin(), load.documents.begin() + static_cast<int64_t>(count)};
}

}  // namespace

absl::Status CheckSource(const ModelSource& source) {
  if (source.model.empty() == source.shape.empty()) {
    return absl::InvalidArgumentError("give a model directory or a shape, and not both");
  }
  return absl::OkStatus();
}

int Threads(const ModelSource& source) {
  return source.threads > 0 ? source.threads : cpu::AvailableProcessors();
}

RuntimeOptions MakeRuntimeOptions(const ModelSource& source, const eval::LaneFormats& formats) {
  RuntimeOptions options = DefaultRuntimeOptions();
  options.model_directory = source.model;
  options.device = source.device;
  options.threads = source.threads;
  options.kernel = source.kernel;
  options.kernel_plan = source.kernel_plan;
  options.lanes[static_cast<int>(Lane::kDocument)].format = formats.document;
  options.lanes[static_cast<int>(Lane::kQuery)].format = formats.query;
  return options;
}

absl::StatusOr<std::unique_ptr<Runtime>> StartRuntime(const ModelSource& source,
                                                      const RuntimeOptions& options) {
  absl::StatusOr<std::unique_ptr<Runtime>> runtime;
  if (source.model.empty()) {
    auto spec = NamedShape(source.shape);
    if (!spec.ok()) return spec.status();
    runtime = Runtime::Load(Checkpoint::Random(*spec, 1), options, nullptr);
  } else {
    runtime = Runtime::Load(options, nullptr);
  }
  if (!runtime.ok()) return runtime.status();
  if (absl::Status status = (*runtime)->Start(); !status.ok()) return status;
  return runtime;
}

absl::StatusOr<Workload> MakeWorkload(const WorkloadOptions& options, const Runtime& runtime) {
  Workload load;
  const ModelSpec& spec = runtime.info().spec;
  const bool texts = runtime.tokenizer() != nullptr;
  if (texts && !options.documents.empty()) {
    auto documents = ReadDocumentTexts(options.documents);
    if (!documents.ok()) return documents.status();
    documents->resize(std::min<size_t>(documents->size(), options.max_documents));
    auto ids = eval::TokenizeTexts(runtime, Lane::kDocument, *documents);
    if (!ids.ok()) return ids.status();
    load.document_texts = *std::move(documents);
    load.documents = *std::move(ids);
  } else {
    const std::vector<int> lengths(options.max_documents,
                                   std::min(options.tokens, spec.max_tokens));
    load.documents = RandomIds(lengths, spec.vocabulary, 1);
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
    const std::vector<int> lengths(options.max_queries,
                                   std::min(kRandomQueryTokens, spec.max_tokens));
    load.queries = RandomIds(lengths, spec.vocabulary, 2);
  }
  for (const auto& document : load.documents) {
    load.document_tokens += static_cast<int64_t>(document.size());
  }
  if (load.documents.empty() || load.queries.size() < 10) {
    return absl::InvalidArgumentError("at least one document and ten queries are needed");
  }
  return load;
}

TokenIds RandomIds(const std::vector<int>& lengths, int vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  TokenIds ids;
  for (int length : lengths) {
    ids.emplace_back(static_cast<size_t>(length));
    for (int32_t& id : ids.back()) id = static_cast<int32_t>(random() % vocabulary);
  }
  return ids;
}

double Flops(const ModelSpec& spec, const TokenIds& sequences) {
  double flops = 0;
  for (const auto& sequence : sequences) {
    const double tokens = static_cast<double>(sequence.size());
    flops += tokens * (spec.linear_flops_per_token() + spec.attention_flops_per_token(tokens));
  }
  return flops;
}

double LinearWeightBytes(const ModelSpec& spec, const Format& format) {
  double bytes = 0;
  for (const LayerSpec& layer : spec.layers) {
    for (const LinearSpec* linear :
         {&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down}) {
      const std::vector<float> row(linear->shape.k, 1.0f);
      const auto encoded = EncodeMatrix(format, Method::kRoundToNearest, row, 1, linear->shape.k);
      bytes += encoded->bits_per_weight() / 8 * static_cast<double>(linear->shape.n) *
               static_cast<double>(linear->shape.k);
    }
  }
  return bytes;
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

absl::StatusOr<double> TimeDocuments(Runtime& runtime, const TokenIds& documents) {
  const auto start = std::chrono::steady_clock::now();
  auto vectors = eval::EmbedTokens(runtime, Lane::kDocument, documents);
  if (!vectors.ok()) return vectors.status();
  return SecondsSince(start);
}

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

absl::StatusOr<Reference> MakeReference(Runtime& runtime, const Workload& load) {
  auto documents = eval::EmbedTokens(runtime, Lane::kDocument, Checked(load));
  if (!documents.ok()) return documents.status();
  auto queries = eval::EmbedTokens(runtime, Lane::kQuery, load.queries);
  if (!queries.ok()) return queries.status();
  return Reference{*std::move(documents), *std::move(queries)};
}

absl::StatusOr<double> CheckCosines(const eval::Matrix& vectors, const eval::Matrix& reference,
                                    const std::string& what) {
  const double mean = eval::Mean(eval::RowCosines(vectors, reference));
  if (mean >= kLeastMeanCosine) return mean;
  return absl::InternalError(absl::StrCat(
      "the vectors of ", what, " are wrong (mean cosine to f32 ", mean, "); nothing was timed"));
}

absl::StatusOr<Agreement> Validate(Runtime& runtime, const Workload& load,
                                   const Reference& reference) {
  auto vectors = MakeReference(runtime, load);
  if (!vectors.ok()) return vectors.status();
  Agreement agreement;
  for (Lane lane : kAllLanes) {
    const bool queries = lane == Lane::kQuery;
    const eval::Matrix& ours = queries ? vectors->queries : vectors->documents;
    const eval::Matrix& truth = queries ? reference.queries : reference.documents;
    const std::string_view format = runtime.info().lanes[static_cast<int>(lane)].format->name;
    auto mean = CheckCosines(ours, truth,
                             absl::StrCat(absl::string_view(format.data(), format.size()),
                                          queries ? " queries" : " documents"));
    if (!mean.ok()) return mean.status();
    const std::vector<double> cosines = eval::RowCosines(ours, truth);
    agreement.mean[static_cast<int>(lane)] = *mean;
    agreement.least[static_cast<int>(lane)] = *std::min_element(cosines.begin(), cosines.end());
  }
  return agreement;
}

double Median(const std::vector<double>& values) { return eval::Percentile(values, 50); }

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace octavo::bench
