#include "kernels/cuda/stream.h"

#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/team.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kLeastWorkspace = int64_t{32} << 20;  // what cuBLASLt asks for on Hopper

}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> CudaStream::Open(int device) {
  if (absl::Status status = CheckDevice(device); !status.ok()) return status;
  std::unique_ptr<CudaStream> stream(new CudaStream(device));
  if (absl::Status status = stream->Initialize(); !status.ok()) return status;
  return stream;
}

absl::Status CudaStream::Initialize() {
  if (absl::Status status = ToStatus(cudaSetDevice(device_), "cudaSetDevice"); !status.ok()) {
    return status;
  }
  cudaDeviceProp properties;
  if (absl::Status status =
          ToStatus(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
      !status.ok()) {
    return status;
  }
  processor_ = properties.name;
  absl::StatusOr<const CublasLt*> cublaslt = CublasLt::Load();
  if (!cublaslt.ok()) return cublaslt.status();
  cublaslt_ = *cublaslt;
  cudaError_t error =
      cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device_);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  for (cudaEvent_t& event : events_) {
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  }
  if (error != cudaSuccess) return ToStatus(error, "opening a CUDA stream");
  absl::StatusOr<Buffer> counters = Allocate(kCounters * sizeof(int32_t));
  if (!counters.ok()) return counters.status();
  counters_ = *std::move(counters);
  if (Workspace(kLeastWorkspace) == nullptr) return status_;
  return cublaslt_plans_.Open(*cublaslt_);
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  for (cudaEvent_t event : events_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

void* CudaStream::Workspace(int64_t bytes) {
  if (failed()) return nullptr;
  if (bytes <= workspace_.bytes()) return workspace_.as<void>();
  Record(cudaStreamSynchronize(stream_), "waiting for the GPU");
  if (failed()) return nullptr;
  workspace_ = Buffer();
  absl::StatusOr<Buffer> larger = Allocate(std::max(bytes, bytes / 4 * 5));
  if (!larger.ok()) {
    Record(larger.status());
    return nullptr;
  }
  workspace_ = *std::move(larger);
  return workspace_.as<void>();
}

void CudaStream::Record(cudaError_t error, const char* what) {
  if (error != cudaSuccess) Record(ToStatus(error, what));
}

void CudaStream::Record(const absl::Status& status) {
  if (status_.ok() && !status.ok()) {
    status_ = absl::UnavailableError(absl::StrCat("cuda:", device_, " failed: ", status.message()));
  }
}

void CudaStream::ForEachBlock(int64_t blocks, absl::FunctionRef<void(int64_t, int, Stream&)> body) {
  for (int64_t block = 0; block < blocks; ++block) body(block, 0, *this);
}

void CudaStream::ForEachTask(int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
  const int64_t processors = cpu::AvailableProcessors();
  cpu::Team team(static_cast<int>(std::max<int64_t>(1, std::min(tasks, processors))));
  team.ForEachTask(tasks, [&](int64_t task) {
    cudaSetDevice(device_);
    body(task);
  });
}

void CudaStream::Upload(void* device, const void* host, int64_t bytes) {
  Record(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_),
         "copying to the GPU");
}

void CudaStream::Download(void* host, const void* device, int64_t bytes) {
  Record(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_),
         "copying from the GPU");
}

uint64_t CudaStream::Mark() {
  ++marked_;
  Record(cudaEventRecord(events_[marked_ % kMarks], stream_), "cudaEventRecord");
  return marked_;
}

bool CudaStream::Reached(uint64_t mark) {
  assert(mark <= marked_ && marked_ - mark < kMarks);
  if (mark <= reached_ || failed()) return true;
  const cudaError_t error = cudaEventQuery(events_[mark % kMarks]);
  if (error == cudaErrorNotReady) return false;
  Record(error, "running kernels");
  reached_ = mark;
  return true;
}

absl::Status CudaStream::Finish() {
  if (!failed()) Record(cudaStreamSynchronize(stream_), "running kernels");
  if (!failed()) Record(cudaGetLastError(), "running kernels");
  reached_ = marked_;
  return status_;
}

void CudaStream::Bind() { Record(cudaSetDevice(device_), "cudaSetDevice"); }

}  // namespace octavo::cuda
