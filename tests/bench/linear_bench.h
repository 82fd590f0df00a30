// octavo-bench linear: every linear row this processor can run, validated, then timed.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/linear.h"
#include "quant/format.h"

namespace octavo::bench {

struct LinearBenchOptions {
  std::vector<std::string> formats;  // names or aliases; empty: every format that has a row
  std::string kernel;                // a row's name; empty: all
  std::vector<LinearShape> shapes;
  std::vector<int64_t> tokens = {1, 4, 16, 64, 256};
  // Bias and more, as an encoder's products have it:
  //   bias      to 16 bit (f32 for the format f32): query, key and value
  //   residual  added in place, f32: attention output and down
  //   gelu      GELU, then the activation encoding of the format: up
  std::vector<std::string> epilogues = {"bias", "residual", "gelu"};
  int threads = 0;        // of the team; 0: every available processor
  int rounds = 7;         // medians are over these; rows take turns
  double seconds = 0.02;  // a row's turn
  // Multiply-adds times two a second that `threads` threads can do with an element's operands.
  std::function<double(Element element, int threads)> peak_flops;
  // Bytes a second that `threads` threads read again and again from a set of so many bytes.
  std::function<double(int64_t bytes, int threads)> read_rate;
  std::ostream* output = nullptr;  // required
};

// The linear layers of "minilm", "bert-base" or "bert-large", or one "NxK" (1152x384).
// INVALID_ARGUMENT for anything else.
absl::StatusOr<std::vector<LinearShape>> FindLinearShapes(const std::string& name);

// Writes one JSON line a result: bench, kernel, format, n, k, tokens, threads, epilogue, us (median
// of a call), best_us (one call), gops, weight_gbytes_per_second, ratio_to_f32 (the fastest f32
// row's median over this one's, turns alternating), share_of_peak and best_share_of_peak (of the
// row's arithmetic), share_of_read_rate (the weight's bytes against reading them alone). Calls go
// round copies of the weight that together exceed the second-level cache, as the layers of a model
// do. Rows that cannot run here are lines with "skipped". INTERNAL if a row's values are wrong,
// INVALID_ARGUMENT for an unknown name.
absl::Status RunLinearBench(const LinearBenchOptions& options);

}  // namespace octavo::bench
