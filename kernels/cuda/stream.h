// A CUDA backend's stream: work is submitted in order and done by the device later.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/stream.h"

namespace octavo::cuda {

class CudaStream final : public Stream {
 public:
  // UNAVAILABLE says what is missing: a driver, a device, a library, code for its architecture.
  static absl::StatusOr<std::unique_ptr<Stream>> Open(int device);
  ~CudaStream() override;
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  cudaStream_t handle() const { return stream_; }
  int device() const { return device_; }
  int multiprocessors() const { return multiprocessors_; }
  const CublasLt& cublaslt() const { return *cublaslt_; }
  CublasLtPlans& cublaslt_plans() { return cublaslt_plans_; }

  // Scratch for one call's intermediates, 256-byte aligned, not zeroed; valid until the next call
  // of Workspace on this stream, whose work comes after this one's, and in graphs for ever. Null
  // once the device failed.
  // May allocate, and then waits for the stream: not while a graph is captured.
  void* Workspace(int64_t bytes);
  // kCounters integers for semaphores, zero; whoever uses them leaves them zero.
  static constexpr int64_t kCounters = 16384;
  int32_t* Counters() { return counters_.as<int32_t>(); }

  // Keeps the first error, which ends the batch: give it the result of every launch.
  void Record(cudaError_t error, const char* what);
  void Record(const absl::Status& status);
  bool failed() const { return !status_.ok(); }

  // Stream:
  std::string processor() const override { return processor_; }
  int slots() const override { return 1; }
  void ForEachBlock(int64_t blocks,
                    absl::FunctionRef<void(int64_t block, int slot, Stream& inner)> body) override;
  void ForEachTask(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) override;
  void Upload(void* device, const void* host, int64_t bytes) override;
  void Download(void* host, const void* device, int64_t bytes) override;
  void UploadBeside(void* device, const void* host, int64_t bytes) override;
  uint64_t Mark() override;
  bool Reached(uint64_t mark) override;
  std::chrono::nanoseconds Between(uint64_t from, uint64_t to) override;
  absl::Status status() const override { return status_; }
  absl::Status Finish() override;
  bool captures() const override { return true; }
  absl::StatusOr<std::unique_ptr<Graph>> Capture(absl::FunctionRef<void()> body) override;
  void Replay(Graph& graph) override;
  absl::StatusOr<std::unique_ptr<Stream>> OpenUrgent() override;
  void Bind() override;

 private:
  explicit CudaStream(int device) : device_(device) {}
  static absl::StatusOr<std::unique_ptr<Stream>> Open(int device, bool urgent);
  absl::Status Initialize(bool urgent);

  const int device_;
  std::string processor_;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaStream_t copies_ = nullptr;    // of UploadBeside
  cudaEvent_t copied_ = nullptr;     // the last of them
  cudaEvent_t events_[kMarks] = {};  // of mark m at m % kMarks
  uint64_t marked_ = 0;              // the last mark made
  uint64_t reached_ = 0;             // all up to this one are reached
  Buffer workspace_;
  std::vector<Buffer> outgrown_;  // workspaces that graphs use
  bool captured_ = false;         // there may be graphs
  Buffer counters_;
  const CublasLt* cublaslt_ = nullptr;
  CublasLtPlans cublaslt_plans_;
  absl::Status status_;
};

}  // namespace octavo::cuda
