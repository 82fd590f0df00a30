// octavo-bench crossover: each format against tokens in a batch, from one token up: where 4 bits
// stop paying against 16, and where 8-bit activations start to.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

// What is compared where nothing is asked for: on a GPU up to what fills it.
struct CrossoverDefaults {
  std::vector<std::string> formats;
  std::vector<int> tokens;
};
CrossoverDefaults CrossoverDefaultsOf(bool on_cpu);

struct CrossoverBenchOptions {
  ModelSource source;
  std::vector<std::string> formats = CrossoverDefaultsOf(/*on_cpu=*/true).formats;
  std::vector<int> tokens = CrossoverDefaultsOf(/*on_cpu=*/true).tokens;
  int longest_sequence = 128;  // a batch of more tokens is sequences of this length and a rest
  int rounds = 5;
  double seconds = 0.02;           // a format's turn at one number of tokens, at least one batch
  std::string command;             // recorded with the results
  std::ostream* output = nullptr;  // required
};

// Every format takes its turn at each number of tokens, round after round. A batch is one job of
// the query lane: its time is from submission to the finished vectors. Writes a line that describes
// the run (processor, threads, command), then a line a (tokens, format): us (median over the rounds
// of a turn's mean), tokens_per_second, ratio_to_f32, ratio_to_f16 and ratio_to_bf16 (medians of a
// round's ratios, where those formats run). At the end a line a 4-bit format beside a
// 16-bit one: the worst of those ratios, at all numbers of tokens and from 4,096. INTERNAL if a
// format's vectors are far from the first's.
absl::Status RunCrossoverBench(const CrossoverBenchOptions& options);

}  // namespace octavo::bench
