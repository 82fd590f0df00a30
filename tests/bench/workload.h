// What the benches of whole models run: a model in its lanes' formats, texts or random ids, and
// timed passes over them.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/runtime.h"
#include "tests/eval/lane_embedder.h"
#include "tests/eval/metrics.h"

namespace octavo::bench {

using TokenIds = std::vector<std::vector<int32_t>>;

struct ModelSource {
  std::string model;  // a model directory, or empty: random weights of `shape`
  std::string shape;  // "minilm", "bert-base", "bert-large"
  std::string device = "cpu";
  int threads = 0;          // 0: every available processor
  std::string kernel;       // forces linear rows, as octavo-server's --kernel
  std::string kernel_plan;  // as octavo-server's
};

// INVALID_ARGUMENT unless exactly one of model and shape is given.
absl::Status CheckSource(const ModelSource& source);

int Threads(const ModelSource& source);

// Options of a runtime with these formats in its lanes.
RuntimeOptions MakeRuntimeOptions(const ModelSource& source, const eval::LaneFormats& formats);

// Loads and starts it.
absl::StatusOr<std::unique_ptr<Runtime>> StartRuntime(const ModelSource& source,
                                                      const RuntimeOptions& options);

struct WorkloadOptions {
  std::string documents;  // JSON lines {"title", "text"}; empty: random ids of `tokens`
  std::string queries;    // JSON lines {"question"} or {"text"}; empty: random ids
  int max_documents = 256;
  int max_queries = 200;  // the first tenth warms up and is not counted
  int tokens = 128;       // of a random document; a random query has 16
};

// What is embedded: ids of documents, and queries as texts, or as ids where weights are random.
struct Workload {
  std::vector<std::string> document_texts;  // empty for random ids
  TokenIds documents;
  std::vector<std::string> query_texts;  // empty for random ids
  TokenIds queries;
  int64_t document_tokens = 0;

  size_t query_count() const { return queries.size(); }
  size_t warm_up() const { return query_count() / 10; }
};

// The same for every runtime of one model. INVALID_ARGUMENT if there is too little.
absl::StatusOr<Workload> MakeWorkload(const WorkloadOptions& options, const Runtime& runtime);

// Random ids, the same for the same seed: one sequence a length.
TokenIds RandomIds(const std::vector<int>& lengths, int vocabulary, uint32_t seed);

// Multiply-adds times two of linear layers and attention.
double Flops(const ModelSpec& spec, const TokenIds& sequences);

// Stored bytes of the linear layers in a format: values, scales and zero points.
double LinearWeightBytes(const ModelSpec& spec, const Format& format);

double SecondsSince(std::chrono::steady_clock::time_point start);

// Seconds of one pass over sequences that are all queued at once.
absl::StatusOr<double> TimeDocuments(Runtime& runtime, const TokenIds& documents);

// Milliseconds of each query after the warm-up, one at a time, tokenizing included.
absl::StatusOr<std::vector<double>> TimeQueries(Runtime& runtime, const Workload& load);

// f32 vectors of the first documents and of all queries, which other formats are judged by.
struct Reference {
  eval::Matrix documents, queries;
};
absl::StatusOr<Reference> MakeReference(Runtime& runtime, const Workload& load);

// Mean and least cosine of each lane's vectors to the reference.
struct Agreement {
  double mean[kLanes] = {}, least[kLanes] = {};
};
// INTERNAL if they are too low to be rounding: nothing should be timed then.
absl::StatusOr<Agreement> Validate(Runtime& runtime, const Workload& load,
                                   const Reference& reference);
// The mean cosine of two equal shapes; INTERNAL, naming `what`, if it is too low to be rounding.
absl::StatusOr<double> CheckCosines(const eval::Matrix& vectors, const eval::Matrix& reference,
                                    const std::string& what);

double Median(const std::vector<double>& values);

// The processor's name as the operating system has it.
std::string ProcessorName();

}  // namespace octavo::bench
