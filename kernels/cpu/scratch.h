// Memory a kernel needs during one call, kept by the thread for the next one.
#pragma once

#include <cstdint>

namespace octavo::cpu {

enum class ScratchUse : uint8_t {
  kActivations,  // rows of a block, laid out for the register tiles
  kPanel,        // one weight panel, decoded
  kSums,         // sums of activations a group
  kRows,         // finished f32 rows that wait to be encoded
  kAttention,    // packed keys and values, scores and running sums of a block of queries
};

// At least `bytes`, 64-byte aligned, contents undefined; valid until this thread asks for the same
// use again. Grows and is freed with the thread. Aborts when memory is exhausted.
void* ThreadScratch(ScratchUse use, int64_t bytes);

}  // namespace octavo::cpu
