// octavo-bench serve: what clients of a running server see, queries alone and beside a document
// stream that takes all it can get.
#pragma once

#include <cstdint>
#include <istream>
#include <ostream>
#include <string>

#include "absl/status/status.h"

namespace octavo::bench {

struct ServeBenchOptions {
  std::string server = "127.0.0.1:50051";
  // Queries a second, or a share of the capacity found first: "25", "10%".
  std::string rate = "10%";
  double seconds = 60;
  int64_t least_queries = 1000;  // a run lasts until so many were sent
  double warm_up_seconds = 2;
  // "off": queries alone. "on": beside the document stream. "compare": queries alone, both, and
  // documents alone.
  std::string documents = "compare";
  std::string query_texts;     // JSON lines {"question"} or {"text"}
  std::string document_texts;  // JSON lines {"title", "text"}; needed unless documents is "off"
  bool find_capacity = false;  // prints the capacity and runs nothing else
  double capacity_p99_ms = 50;
  double probe_seconds = 4;     // length of a trial of one rate
  int64_t probe_queries = 200;  // and at least so many
  uint32_t seed = 1;
  std::ostream* output = nullptr;  // required: JSON lines
  std::ostream* log = nullptr;     // required: progress
};

// Latency counts from the moment a query was due, so a slow server cannot slow its own load down.
// The capacity of the query lane is the highest rate at which p99 stays below capacity_p99_ms and
// nothing is refused, queries alone. Pins nothing: start server and bench under taskset where they
// should not share processors.
//
// Writes a JSON line a run: rate, seconds, queries, p50_ms, p90_ms, p99_ms, max_ms, late, failures
// by reason, query_tokens_per_second, documents_per_second, document_tokens_per_second, and for
// "compare" one line of differences. INTERNAL after the lines if an answer was wrong.
absl::Status RunServeBench(const ServeBenchOptions& options);

// Answers each line "queries" of `commands` with one JSON line: a pass over the first 200 queries,
// one at a time, the first 20 not counted (p50_ms, p99_ms, ms of each). "quit" or the end of the
// commands ends it. The first line, before any command, describes the server. So another program
// can alternate it with peers.
absl::Status RunServeWorker(const ServeBenchOptions& options, std::istream& commands);

}  // namespace octavo::bench
