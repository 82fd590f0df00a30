// What this machine can do at most: arithmetic from registers alone, and reading memory. What
// shares of a peak in benchmarks refer to.
#pragma once

#include <cstdint>
#include <ostream>
#include <string_view>
#include <vector>

#include "quant/format.h"

namespace octavo::bench {

// One multiply-add instruction of one instruction set, in a loop that touches no memory.
struct PeakLoop {
  std::string_view name;      // "int8_avx512vnni"
  Element element;            // of its operands
  uint32_t instruction_sets;  // it needs these bits of cpu::InstructionSets
  int64_t flops;              // multiply-adds times two of one iteration
  void (*run)(int64_t iterations);
};

// The loops this processor can run, fastest first within an element. Empty on processors other than
// x86-64.
std::vector<PeakLoop> UsablePeakLoops();

// Multiply-adds times two a second on `threads` threads at once: the best of several short runs.
double MeasurePeak(const PeakLoop& loop, int threads);

// The same for the best loop of an element; elements without a loop count as f32. Measured once for
// each (element, threads) and remembered. Not thread-safe.
double PeakFlops(Element element, int threads);

// Bytes a second that `threads` threads read from a set of `bytes`, shared out among them, again
// and again: from the cache that holds it, or from memory. The best of several passes.
double MeasureReadRate(int64_t bytes, int threads);

// The same, measured once for each power of two (`bytes` is rounded up to one) and remembered. Not
// thread-safe.
double ReadRate(int64_t bytes, int threads);

// octavo-bench peak: a JSON line for each loop and for each size of a set that is read, on one
// thread and on `threads`.
void RunPeakBench(int threads, std::ostream* output);

}  // namespace octavo::bench
