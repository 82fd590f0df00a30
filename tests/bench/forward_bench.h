// octavo-bench model --batch: whole encoders on a device, one batch at a time straight through
// Forward, without scheduler and engine.
#pragma once

#include <functional>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "quant/format.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

struct ForwardBenchOptions {
  ModelSource source;
  std::vector<std::string> formats;      // names or aliases
  int batch = 256;                       // sequences of a batch of documents
  std::vector<int> tokens = {128, 512};  // of a document
  int query_tokens = 16;                 // of the one sequence of a query
  int64_t unit_rows = 0;  // rows of a unit of documents; 0: as many as the backend takes
  int rounds = 5;         // medians are over these; formats take turns
  double seconds = 0.1;   // a format's turn
  // Multiply-adds times two a second that the device can do with operands of an element; without
  // it no share of the peak is given.
  std::function<double(Element element)> peak_flops;
  std::ostream* output = nullptr;  // required
  std::ostream* log = nullptr;     // required: what takes how long meanwhile
};

// Loads every format with random ids of the model's vocabulary, validates it and times all in
// turns. JSON lines, for each format:
//   documents  for each count of tokens: tokens_per_second and us of a batch, ids handed over and
//              vectors received, batches queued so that the device does not wait for the host;
//              tflops (linear layers and attention), share_of_peak
//   query      p50_us and p99_us from ids to vector, one at a time on an idle device, and
//              device_us, the median of the device's part; once with the weights warm in its cache
//              and once "cold": 256 MB of other memory were touched before
// Both have cosine_min, the least cosine to vectors made on the CPU (in f32; in the same format for
// 4-bit weights), and centred_cosine_mean, once the mean of the CPU's is taken from both. A format
// that the backend has no kernels for is a line with "skipped". INTERNAL, once the others are
// timed, if a format's vectors are wrong.
absl::Status RunForwardBench(const ForwardBenchOptions& options);

// Keeps the formats loaded and does what each line of `commands` says, answering each with one JSON
// line, so that another program can alternate it with peers:
//   documents FORMAT TOKENS [SECONDS]  one turn: tokens_per_second
//   query FORMAT warm|cold       one turn: p50_us
//   vectors FORMAT TOKENS FILE   writes [rows, hidden] f32, pooled, not normalized
//   ids TOKENS FILE              writes the ids [rows, tokens], int32
//   quit                         as the end of the commands
// TOKENS is one of options.tokens, or 0 for the query. The first line says which formats are
// loaded and which were skipped.
absl::Status RunForwardWorker(const ForwardBenchOptions& options, std::istream& commands);

}  // namespace octavo::bench
