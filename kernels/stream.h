// Where a backend runs work.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace octavo {

// A CPU backend's stream is a team of threads (kernels/cpu/team.h); a CUDA backend's is a CUDA
// stream. Kernels downcast to their own backend's type. Not thread-safe: one caller at a time.
class Stream {
 public:
  virtual ~Stream() = default;

  // How many blocks of rows run side by side here, each with a workspace of its own. A CPU team:
  // its threads. A device that spreads every kernel over itself: 1.
  virtual int slots() const = 0;

  // Calls body(block, slot, inner) for every block, each once; slot is in [0, slots()) and no two
  // bodies run in one slot at a time. Kernels in the body run on `inner`. A single block gets the
  // whole stream as `inner`.
  virtual void ForEachBlock(
      int64_t blocks, absl::FunctionRef<void(int64_t block, int slot, Stream& inner)> body) = 0;
};

}  // namespace octavo
