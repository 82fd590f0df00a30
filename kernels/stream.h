// Where a backend runs work.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo {

// A CPU backend's stream is a team of threads (kernels/cpu/team.h); a CUDA backend's is a CUDA
// stream. Kernels downcast to their own backend's type. Not thread-safe: one caller at a time.
class Stream {
 public:
  virtual ~Stream() = default;

  // The model of what computes, as its maker names it.
  virtual std::string processor() const = 0;

  // How many blocks of rows run side by side here, each with a workspace of its own. A CPU team:
  // its threads. A device that spreads every kernel over itself: 1.
  virtual int slots() const = 0;

  // Calls body(block, slot, inner) for every block, each once; slot is in [0, slots()) and no two
  // bodies run in one slot at a time. Kernels in the body run on `inner`. A single block gets the
  // whole stream as `inner`.
  virtual void ForEachBlock(
      int64_t blocks, absl::FunctionRef<void(int64_t block, int slot, Stream& inner)> body) = 0;

  // Copies between the host and the device's memory, after the work before and before the work
  // after. Host memory from Backend::allocate_host may still be read or written until the mark
  // after it is reached; other memory is done with on return.
  virtual void Upload(void* device, const void* host, int64_t bytes) = 0;
  virtual void Download(void* host, const void* device, int64_t bytes) = 0;
  // As Upload, but beside the work before, none of which may use that memory.
  virtual void UploadBeside(void* device, const void* host, int64_t bytes) {
    Upload(device, host, bytes);
  }

  // A place in the stream's work: Reached(mark) is true once everything before it is done, which
  // on a CPU is at once, or the device has failed. Marks ascend; the last kMarks can be asked for.
  static constexpr uint64_t kMarks = 16;
  virtual uint64_t Mark() = 0;
  virtual bool Reached(uint64_t mark) = 0;
  // The device's time from one reached mark to another.
  virtual std::chrono::nanoseconds Between(uint64_t from, uint64_t to) = 0;
  // UNAVAILABLE: the device was seen to fail; it stays so. Does not wait.
  virtual absl::Status status() const = 0;
  // Waits for all work, then as status().
  virtual absl::Status Finish() = 0;

  // Work recorded once, to be given to the device as one piece again and again.
  class Graph {
   public:
    virtual ~Graph() = default;
  };
  // Whether the device gains by it. Otherwise the two below are not called.
  virtual bool captures() const { return false; }
  // Records what `body` gives this stream, which is not done now. `body` has run here before, only
  // gives work (no marks, nothing waited for), and its memory lives as long as the graph.
  virtual absl::StatusOr<std::unique_ptr<Graph>> Capture(absl::FunctionRef<void()> body) {
    body();
    return nullptr;
  }
  virtual void Replay(Graph&) {}

  // Calls body(task) for every task in [0, tasks), each once, spread over the host's processors:
  // for work on the host, at load. Bodies may allocate on the device.
  virtual void ForEachTask(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) = 0;

  // Another stream of the same device, whose work the device prefers to what waits here. Null if
  // the device does one thing after another: then it would gain nothing.
  virtual absl::StatusOr<std::unique_ptr<Stream>> OpenUrgent() { return nullptr; }

  // Makes the calling thread the one that uses this stream.
  virtual void Bind() {}
};

}  // namespace octavo
