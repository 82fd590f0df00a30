// octavo-bench crossover: each format against tokens in a batch, one token to a thousand: where 4
// bits stop paying against 16, and where 8-bit activations start to.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

struct CrossoverBenchOptions {
  ModelSource source;
  std::vector<std::string> formats = {"f32", "bf16", "a8w8_int8", "a16w4_int4"};
  std::vector<int> tokens = {1,  2,  3,  4,   6,   8,   12,  16,  24,  32,
                             48, 64, 96, 128, 192, 256, 384, 512, 768, 1024};
  int longest_sequence = 128;  // a batch of more tokens is sequences of this length and a rest
  int rounds = 5;
  double seconds = 0.02;           // a format's turn at one number of tokens, at least one batch
  std::string command;             // recorded with the results
  std::ostream* output = nullptr;  // required
};

// Every format takes its turn at each number of tokens, round after round. A batch is one job of
// the query lane: its time is from submission to the finished vectors. Writes a line that describes
// the run (processor, threads, command), then a line a (tokens, format): us (median over the rounds
// of a turn's mean), tokens_per_second, ratio_to_f32 and ratio_to_bf16 (medians of a round's
// ratios, where those formats run). INTERNAL if a format's vectors are far from f32's.
absl::Status RunCrossoverBench(const CrossoverBenchOptions& options);

}  // namespace octavo::bench
