#include "kernels/cpu/scratch.h"

#include <array>
#include <cstdlib>
#include <memory>

namespace octavo::cpu {
namespace {

struct FreeMemory {
  void operator()(void* memory) const { std::free(memory); }
};

struct Block {
  std::unique_ptr<void, FreeMemory> memory;
  int64_t bytes = 0;
};

}  // namespace

void* ThreadScratch(ScratchUse use, int64_t bytes) {
  thread_local std::array<Block, 5> blocks;
  Block& block = blocks[static_cast<size_t>(use)];
  if (block.bytes < bytes) {
    block.bytes = (bytes + 4095) / 4096 * 4096;
    block.memory.reset();
    block.memory.reset(std::aligned_alloc(64, static_cast<size_t>(block.bytes)));
    if (block.memory == nullptr) std::abort();
  }
  return block.memory.get();
}

}  // namespace octavo::cpu
