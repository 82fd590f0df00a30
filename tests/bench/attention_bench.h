// octavo-bench attention: the attention rows this processor can run, validated, then timed.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "quant/format.h"

namespace octavo::bench {

struct AttentionBenchOptions {
  int threads = 0;     // of the team; 0: every available processor
  std::string kernel;  // a row's name, or empty for all rows
  std::vector<int> lengths = {16, 32, 64, 128, 256, 512, 1024, 2048};
  std::vector<int> head_sizes = {32, 64};
  int hidden = 384;       // heads = hidden / head size
  int64_t tokens = 2048;  // a batch: sequences of one length, at least one
  double seconds = 0.2;   // timed for each result
  // Multiply-adds times two a second that `threads` threads can do in the element type of a row, in
  // 8 bits if it computes in integers; without it no share of the peak is given.
  std::function<double(Element element, int threads)> peak_flops;
  std::ostream* output = nullptr;  // required
};

// Writes one JSON line a result: bench, kernel, head_size, heads, length, sequences, threads, us
// (median of a batch), best_us, us_per_token, gflops (4 * length * head_size a row and head, by
// the median), share_of_peak, nmse (against float64). Rows skipped for lack of hardware are lines
// with "skipped". INTERNAL if a row's values are wrong, INVALID_ARGUMENT for an unknown name or a
// head size that does not divide hidden.
absl::Status RunAttentionBench(const AttentionBenchOptions& options);

}  // namespace octavo::bench
