// octavo-bench lengths: what sequences of mixed lengths cost beside equal ones.
#pragma once

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

struct LengthsBenchOptions {
  ModelSource source;
  std::string document_format = "a8w8_int8";
  int shortest = 16, longest = 256;  // tokens; mixed lengths are spread evenly between
  int64_t tokens = 32768;            // of a pass, about
  int rounds = 7;
  std::ostream* output = nullptr;  // required
};

// The equal length that gives a token as many keys to attend to on average: the mean of the squared
// lengths over the mean length. So attention does equal work a token in both passes.
int EqualWorkLength(const std::vector<int>& lengths);

// Passes of mixed and of equal lengths take turns. Writes one JSON line: tokens_per_second of
// each (medians), and cost, the median over the rounds of the share of tokens/s that mixing loses.
// INTERNAL if the mixed pass gives other vectors than each sequence alone.
absl::Status RunLengthsBench(const LengthsBenchOptions& options);

}  // namespace octavo::bench
