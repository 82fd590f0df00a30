// octavo-bench model: a whole encoder through the Runtime, documents for throughput and queries
// for latency, validated, then timed.
#pragma once

#include <functional>
#include <istream>
#include <ostream>
#include <vector>

#include "absl/status/status.h"
#include "quant/format.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

struct ModelBenchOptions {
  ModelSource source;
  WorkloadOptions load;
  std::vector<eval::LaneFormats> formats;  // pairs: documents in one, queries in the other
  int rounds = 3;  // passes over the documents and over the queries; medians are given
  // Multiply-adds times two a second that `threads` threads can do in the arithmetic of a row;
  // without it no share of the peak is given.
  std::function<double(Element element, int threads)> peak_flops;
  std::ostream* output = nullptr;  // required
};

// Loads f32 and every pair of formats, validates them against f32, then times them in turns, round
// after round: a change of the machine's speed falls on all. Writes two JSON lines a pair:
//   documents  tokens_per_second of the median pass, gops (linear layers and attention),
//              share_of_peak (of the arithmetic of the lane's first linear row); ids are made
//              before the clock starts
//   queries    p50_ms and p99_ms of one text at a time, tokenizing included, and
//              weight_gbytes_per_second: the bytes of the linear layers, read once a query, over
//              the p50
// Both have ratio_to_f32: the median over the rounds of f32's time (of its p50) over this one's.
// INTERNAL if a vector is not finite or far from f32's.
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
