#include "kernels/cuda/stream.h"

#include <algorithm>
#include <cassert>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/team.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace octavo::cuda {
namespace {}  // namespace

absl::StatusOr<std::unique_ptr<Stream>> CudaStream::Open(int device) {
  return Open(device, /*urgent=*/false);
}

absl::StatusOr<std::unique_ptr<Stream>> CudaStream::Open(int device, bool urgent) {
  if (absl::Status status = CheckDevice(device); !status.ok()) return status;
  std::unique_ptr<CudaStream> stream(new CudaStream(device));
  if (absl::Status status = stream->Initialize(urgent); !status.ok()) return status;
  return stream;
}

absl::StatusOr<std::unique_ptr<Stream>> CudaStream::OpenUrgent() {
  return Open(device_, /*urgent=*/true);
}

absl::Status CudaStream::Initialize(bool urgent) {
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
  int least_priority = 0, greatest_priority = 0;
  if (error == cudaSuccess) {
    error = cudaDeviceGetStreamPriorityRange(&least_priority, &greatest_priority);
  }
  if (error == cudaSuccess) {
    error = cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                         urgent ? greatest_priority : least_priority);
  }
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaEventCreateWithFlags(&copied_, cudaEventDisableTiming);
  for (cudaEvent_t& event : events_) {
    if (error == cudaSuccess) error = cudaEventCreate(&event);
  }
  if (error != cudaSuccess) return ToStatus(error, "opening a CUDA stream");
  absl::StatusOr<Buffer> counters = Allocate(kCounters * sizeof(int32_t));
  if (!counters.ok()) return counters.status();
  counters_ = *std::move(counters);
  if (Workspace(kCublasLtWorkspace) == nullptr) return status_;
  return cublaslt_plans_.Open(*cublaslt_);
}

CudaStream::~CudaStream() {
  cudaSetDevice(device_);
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  if (copies_ != nullptr) cudaStreamDestroy(copies_);
  if (copied_ != nullptr) cudaEventDestroy(copied_);
  for (cudaEvent_t event : events_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

void* CudaStream::Workspace(int64_t bytes) {
  if (failed()) return nullptr;
  if (bytes <= workspace_.bytes()) return workspace_.as<void>();
  Record(cudaStreamSynchronize(stream_), "waiting for the GPU");
  if (failed()) return nullptr;
  if (captured_) outgrown_.push_back(std::move(workspace_));
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

void CudaStream::UploadBeside(void* device, const void* host, int64_t bytes) {
  Record(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, copies_),
         "copying to the GPU");
  Record(cudaEventRecord(copied_, copies_), "cudaEventRecord");
  Record(cudaStreamWaitEvent(stream_, copied_), "cudaStreamWaitEvent");
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

std::chrono::nanoseconds CudaStream::Between(uint64_t from, uint64_t to) {
  if (failed()) return std::chrono::nanoseconds(0);
  float milliseconds = 0;
  Record(cudaEventElapsedTime(&milliseconds, events_[from % kMarks], events_[to % kMarks]),
         "cudaEventElapsedTime");
  return std::chrono::nanoseconds(static_cast<int64_t>(milliseconds * 1e6));
}

absl::Status CudaStream::Finish() {
  if (!failed()) Record(cudaStreamSynchronize(stream_), "running kernels");
  if (!failed()) Record(cudaGetLastError(), "running kernels");
  reached_ = marked_;
  return status_;
}

namespace {

class CudaGraph final : public Stream::Graph {
 public:
  ~CudaGraph() override {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
  }
  cudaGraphExec_t executable = nullptr;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Stream::Graph>> CudaStream::Capture(absl::FunctionRef<void()> body) {
  constexpr char kWhat[] = "capturing a graph";
  auto result = std::make_unique<CudaGraph>();
  captured_ = true;
  // Thread-local: what other threads do with the device meanwhile is no part of it.
  Record(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), kWhat);
  if (failed()) return status_;
  body();
  cudaGraph_t graph = nullptr;
  Record(cudaStreamEndCapture(stream_, &graph), kWhat);
  if (!failed()) Record(cudaGraphInstantiate(&result->executable, graph, 0), kWhat);
  if (graph != nullptr) cudaGraphDestroy(graph);
  if (!failed()) Record(cudaGraphUpload(result->executable, stream_), kWhat);
  if (failed()) return status_;
  return result;
}

void CudaStream::Replay(Graph& graph) {
  Record(cudaGraphLaunch(static_cast<CudaGraph&>(graph).executable, stream_), "launching a graph");
}

void CudaStream::Bind() { Record(cudaSetDevice(device_), "cudaSetDevice"); }

}  // namespace octavo::cuda
