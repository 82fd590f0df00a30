// Where a backend runs work.
#pragma once

namespace octavo {

// A CPU backend's stream is a team of threads (kernels/cpu/team.h); a CUDA backend's is a CUDA
// stream. Kernels downcast to their own backend's type. Not thread-safe: one caller at a time.
class Stream {
 public:
  virtual ~Stream() = default;
};

}  // namespace octavo
