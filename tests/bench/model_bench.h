// octavo-bench model: a whole encoder through the Runtime, documents for throughput and queries
// for latency, validated, then timed.
#pragma once

#include <cstdint>
#include <functional>
#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "quant/format.h"

namespace octavo::bench {

struct ModelBenchOptions {
  std::string model;  // a model directory, or empty: random weights of `shape`
  std::string shape;  // "minilm", "bert-base", "bert-large"
  // Pairs measured one after the other: documents in one format, queries in the other.
  struct Formats {
    std::string document = "a8w8_int8";
    std::string query = "a16w4_int4";
  };
  std::vector<Formats> formats;
  int threads = 0;          // 0: every available processor
  std::string kernel;       // forces linear rows, as octavo-server's --kernel
  std::string kernel_plan;  // as octavo-server's
  std::string documents;    // JSON lines {"title", "text"}; empty: random ids of `tokens`
  std::string queries;      // JSON lines {"question"} or {"text"}; empty: random ids
  int max_documents = 256;
  int max_queries = 200;  // the first tenth warms up and is not counted
  int tokens = 128;       // of a random document; a random query has 16
  int rounds = 3;         // passes over the documents and over the queries; medians are given
  bool validate = true;   // against the same model in f32
  // Multiply-adds times two a second that `threads` threads can do in the arithmetic of a row;
  // without it no share of the peak is given.
  std::function<double(Element element, int threads)> peak_flops;
  std::ostream* output = nullptr;  // required
};

// Writes two JSON lines a pair of formats: "documents" (tokens, tokens_per_second by the median
// pass, gops = linear layers and attention, share_of_peak; ids are made before the clock starts)
// and "queries" (p50_ms and p99_ms of one text at a time, tokenizing included). INTERNAL if a
// vector is not finite or far from f32's.
absl::Status RunModelBench(const ModelBenchOptions& options);

// Keeps the first pair of formats loaded and does what each line of `commands` says, answering each
// with one JSON line, so that another program can alternate it with peers:
//   documents            one pass: seconds, tokens, tokens_per_second
//   queries              one pass: p50_ms, p99_ms, ms (of each query counted)
//   vectors WHAT FILE    writes [rows, columns] float32 of length 1, WHAT documents or queries
//   quit                 as the end of the commands
// The first line, before any command, describes the model.
absl::Status RunModelWorker(const ModelBenchOptions& options, std::istream& commands);

}  // namespace octavo::bench
