#include "tests/eval/evaluation.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/eval/lane_embedder.h"
#include "tests/eval/metrics.h"

namespace octavo::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kReference[] = "f32";
constexpr int64_t kSpotCheckRows = 16;

// One evaluation set with its vectors by format.
struct Vectors {
  std::map<std::string, Matrix> documents, queries;
};

struct LoadedSets {
  std::vector<RetrievalSet> retrieval;
  std::vector<std::string> qrels;
  std::vector<Vectors> retrieval_vectors;
  SentencePairs pairs;
  Vectors pair_vectors;  // first sentences as queries, second as documents
};

// What every line says about how it was made.
struct Circumstances {
  std::string model, revision;
  std::map<std::string, std::string> document_methods, query_methods;  // by format
};

class Evaluation {
 public:
  Evaluation(const EvaluationOptions& options, std::ostream& out, std::ostream& log)
      : options_(options), cache_(options.cache_directory), out_(out), log_(log) {}

  absl::Status Run();

 private:
  absl::Status Load();
  absl::Status EmbedRound(const LaneFormats& formats);
  absl::StatusOr<Matrix> EmbedTexts(Runtime& runtime, Lane lane, const std::string& what,
                                    const std::vector<std::string>& texts);
  absl::StatusOr<Matrix> DocumentVectors(Runtime& runtime, const RetrievalSet& set);
  Json Describe(const std::string& set, const std::string& document_format,
                const std::string& query_format) const;
  void AddCosines(const Vectors& vectors, const std::string& document_format,
                  const std::string& query_format, Json* line) const;
  void PrintRetrieval(size_t set);
  void PrintPairs();
  void Print(const Json& line) { out_ << line.dump() << std::endl; }

  const EvaluationOptions& options_;
  const VectorCache cache_;
  std::ostream& out_;
  std::ostream& log_;
  LoadedSets sets_;
  Circumstances circumstances_;
};

absl::Status Evaluation::Load() {
  for (const auto& [directory, qrels] : options_.datasets) {
    auto set = ReadRetrievalSet(directory, qrels);
    if (!set.ok()) return set.status();
    sets_.retrieval.push_back(*std::move(set));
    sets_.qrels.push_back(qrels);
  }
  sets_.retrieval_vectors.resize(sets_.retrieval.size());
  if (!options_.sentence_pairs.empty()) {
    auto pairs = ReadSentencePairs(options_.sentence_pairs);
    if (!pairs.ok()) return pairs.status();
    sets_.pairs = *std::move(pairs);
  }
  return absl::OkStatus();
}

absl::StatusOr<Matrix> Evaluation::EmbedTexts(Runtime& runtime, Lane lane, const std::string& what,
                                              const std::vector<std::string>& texts) {
  auto inputs = TokenizeTexts(runtime, lane, texts);
  if (!inputs.ok()) return inputs.status();
  int64_t tokens = 0;
  for (const auto& input : *inputs) tokens += static_cast<int64_t>(input.size());
  const auto start = std::chrono::steady_clock::now();
  auto matrix = EmbedTokens(runtime, lane, *inputs);
  if (!matrix.ok()) return matrix.status();
  NormalizeRows(&*matrix);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  log_ << absl::StrFormat("%s: %d texts, %d tokens, %s: %.1f s, %.0f tokens/s\n", what,
                          texts.size(), tokens,
                          std::string(runtime.info().lanes[static_cast<int>(lane)].format->name),
                          seconds, static_cast<double>(tokens) / seconds);
  return matrix;
}

absl::StatusOr<Matrix> Evaluation::DocumentVectors(Runtime& runtime, const RetrievalSet& set) {
  const LaneDescription& lane = runtime.info().lanes[static_cast<int>(Lane::kDocument)];
  const VectorKey key{.revision = runtime.info().revision,
                      .dataset = set.sha256,
                      .lane = std::string(LaneName(Lane::kDocument)),
                      .format = std::string(lane.format->name),
                      .method = lane.method};
  auto stored =
      cache_.Read(key, static_cast<int64_t>(set.documents.size()), runtime.info().spec.hidden);
  if (stored.ok()) {
    const std::vector<int64_t> rows = SpotCheckRows(stored->rows, kSpotCheckRows);
    std::vector<std::string> texts;
    for (const int64_t row : rows) texts.push_back(set.documents[static_cast<size_t>(row)]);
    auto fresh = EmbedTexts(runtime, Lane::kDocument, set.name + " documents, spot check", texts);
    if (!fresh.ok()) return fresh.status();
    const bool exact = lane.format->activation.element == Element::kInt8;
    const double least_cosine = lane.format->name == kReference ? 0.999999 : 0.99999;
    if (SpotCheckPasses(*stored, rows, *fresh, exact, least_cosine)) return stored;
    log_ << set.name << ": the stored vectors are not what the kernels make now\n";
  }
  auto matrix = EmbedTexts(runtime, Lane::kDocument, set.name + " documents", set.documents);
  if (!matrix.ok()) return matrix.status();
  if (absl::Status status = cache_.Write(key, *matrix); !status.ok()) {
    log_ << std::string(status.message()) << "\n";
  }
  return matrix;
}

// Loads the model in one pair of formats and embeds what is not yet embedded in them.
absl::Status Evaluation::EmbedRound(const LaneFormats& formats) {
  auto runtime = StartRuntime(options_.runtime, formats);
  if (!runtime.ok()) return runtime.status();
  const ModelInfo& info = (*runtime)->info();
  circumstances_.model = info.name;
  circumstances_.revision = info.revision;
  circumstances_.document_methods[formats.document] =
      info.lanes[static_cast<int>(Lane::kDocument)].method;
  circumstances_.query_methods[formats.query] = info.lanes[static_cast<int>(Lane::kQuery)].method;

  for (size_t i = 0; i < sets_.retrieval.size(); ++i) {
    const RetrievalSet& set = sets_.retrieval[i];
    Vectors& vectors = sets_.retrieval_vectors[i];
    if (!vectors.documents.count(formats.document)) {
      auto matrix = DocumentVectors(**runtime, set);
      if (!matrix.ok()) return matrix.status();
      vectors.documents[formats.document] = *std::move(matrix);
    }
    if (!vectors.queries.count(formats.query)) {
      auto matrix = EmbedTexts(**runtime, Lane::kQuery, set.name + " queries", set.queries);
      if (!matrix.ok()) return matrix.status();
      vectors.queries[formats.query] = *std::move(matrix);
    }
  }
  if (sets_.pairs.scores.empty()) return absl::OkStatus();
  if (!sets_.pair_vectors.documents.count(formats.document)) {
    auto matrix = EmbedTexts(**runtime, Lane::kDocument, "second sentences", sets_.pairs.second);
    if (!matrix.ok()) return matrix.status();
    sets_.pair_vectors.documents[formats.document] = *std::move(matrix);
  }
  if (!sets_.pair_vectors.queries.count(formats.query)) {
    auto matrix = EmbedTexts(**runtime, Lane::kQuery, "first sentences", sets_.pairs.first);
    if (!matrix.ok()) return matrix.status();
    sets_.pair_vectors.queries[formats.query] = *std::move(matrix);
  }
  return absl::OkStatus();
}

Json Evaluation::Describe(const std::string& set, const std::string& document_format,
                          const std::string& query_format) const {
  return {{"dataset", set},
          {"model", circumstances_.model},
          {"revision", circumstances_.revision},
          {"device", options_.runtime.device},
          {"document_format", document_format},
          {"document_method", circumstances_.document_methods.at(document_format)},
          {"query_format", query_format},
          {"query_method", circumstances_.query_methods.at(query_format)}};
}

void Evaluation::AddCosines(const Vectors& vectors, const std::string& document_format,
                            const std::string& query_format, Json* line) const {
  if (!options_.compare_f32) return;
  const std::vector<double> documents =
      RowCosines(vectors.documents.at(document_format), vectors.documents.at(kReference));
  const std::vector<double> queries =
      RowCosines(vectors.queries.at(query_format), vectors.queries.at(kReference));
  (*line)["document_cosine_mean"] = Mean(documents);
  (*line)["document_cosine_p1"] = Percentile(documents, 1);
  (*line)["query_cosine_mean"] = Mean(queries);
  (*line)["query_cosine_p1"] = Percentile(queries, 1);
}

void Evaluation::PrintRetrieval(size_t index) {
  const RetrievalSet& set = sets_.retrieval[index];
  const Vectors& vectors = sets_.retrieval_vectors[index];
  RetrievalScores reference;
  if (options_.compare_f32) {
    reference =
        ScoreRetrieval(set, vectors.documents.at(kReference), vectors.queries.at(kReference));
  }
  for (const std::string& document_format : options_.document_formats) {
    for (const std::string& query_format : options_.query_formats) {
      const RetrievalScores scores = ScoreRetrieval(set, vectors.documents.at(document_format),
                                                    vectors.queries.at(query_format));
      Json line = Describe(set.name, document_format, query_format);
      line["qrels"] = sets_.qrels[index];
      line["documents"] = set.documents.size();
      line["queries"] = set.queries.size();
      line["ndcg_at_10"] = scores.ndcg_at_10;
      line["recall_at_100"] = scores.recall_at_100;
      if (options_.compare_f32) {
        line["ndcg_at_10_loss"] = reference.ndcg_at_10 - scores.ndcg_at_10;
        line["recall_at_100_loss"] = reference.recall_at_100 - scores.recall_at_100;
      }
      AddCosines(vectors, document_format, query_format, &line);
      Print(line);
    }
  }
}

void Evaluation::PrintPairs() {
  const auto spearman = [&](const std::string& document_format, const std::string& query_format) {
    return Spearman(RowCosines(sets_.pair_vectors.queries.at(query_format),
                               sets_.pair_vectors.documents.at(document_format)),
                    sets_.pairs.scores);
  };
  const double reference = options_.compare_f32 ? spearman(kReference, kReference) : 0;
  for (const std::string& document_format : options_.document_formats) {
    for (const std::string& query_format : options_.query_formats) {
      Json line = Describe(options_.sentence_pairs, document_format, query_format);
      line["pairs"] = sets_.pairs.scores.size();
      line["spearman"] = spearman(document_format, query_format);
      if (options_.compare_f32) {
        line["spearman_loss"] = reference - line["spearman"].get<double>();
      }
      AddCosines(sets_.pair_vectors, document_format, query_format, &line);
      Print(line);
    }
  }
}

absl::Status Evaluation::Run() {
  if (absl::Status status = Load(); !status.ok()) return status;
  std::vector<std::string> documents = options_.document_formats;
  std::vector<std::string> queries = options_.query_formats;
  for (std::vector<std::string>* formats : {&documents, &queries}) {
    if (options_.compare_f32) formats->push_back(kReference);
    // In one order, so that lanes of equal format share a load of the model.
    std::sort(formats->begin(), formats->end());
    formats->erase(std::unique(formats->begin(), formats->end()), formats->end());
  }
  const size_t rounds = std::max(documents.size(), queries.size());
  for (size_t i = 0; i < rounds; ++i) {
    const LaneFormats formats{documents[std::min(i, documents.size() - 1)],
                              queries[std::min(i, queries.size() - 1)]};
    if (absl::Status status = EmbedRound(formats); !status.ok()) return status;
  }
  for (size_t i = 0; i < sets_.retrieval.size(); ++i) PrintRetrieval(i);
  if (!sets_.pairs.scores.empty()) PrintPairs();
  return absl::OkStatus();
}

}  // namespace

absl::Status Evaluate(const EvaluationOptions& options, std::ostream& out, std::ostream& log) {
  return Evaluation(options, out, log).Run();
}

}  // namespace octavo::eval
