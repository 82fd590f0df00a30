#include "kernels/cuda/memory.h"

#include <memory>

#include "absl/strings/str_cat.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kOverrun = 256;

absl::Status OutOfMemory(int64_t bytes) {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = total = 0;
  return absl::ResourceExhaustedError(
      absl::StrCat("the GPU is out of memory: ", (bytes >> 20) + 1, " MiB more are needed, ",
                   free >> 20, " of its ", total >> 20,
                   " MiB are free; lower --document_max_batch_tokens, choose formats of ",
                   "fewer bits, or stop what else runs there"));
}

}  // namespace

absl::Status ToStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat(what, ": ", cudaGetErrorString(error));
  if (error == cudaErrorMemoryAllocation) return absl::ResourceExhaustedError(message);
  return absl::UnavailableError(message);
}

absl::StatusOr<Buffer> Allocate(int64_t bytes) {
  void* data = nullptr;
  const int64_t held = bytes + kOverrun;
  const cudaError_t error = cudaMalloc(&data, held);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return OutOfMemory(bytes);
  }
  if (error != cudaSuccess) return ToStatus(error, "cudaMalloc");
  // Done before any stream of ours, none of which waits for the default stream, uses the memory.
  cudaError_t cleared = cudaMemset(data, 0, held);
  if (cleared == cudaSuccess) cleared = cudaStreamSynchronize(cudaStreamLegacy);
  if (absl::Status status = ToStatus(cleared, "cudaMemset"); !status.ok()) {
    cudaFree(data);
    return status;
  }
  return Buffer(data, bytes, [](void* held_data) { cudaFree(held_data); });
}

absl::StatusOr<Buffer> AllocatePinned(int64_t bytes) {
  void* data = nullptr;
  if (absl::Status status = ToStatus(cudaMallocHost(&data, bytes == 0 ? 1 : bytes),
                                     "pinned host memory (cudaMallocHost)");
      !status.ok()) {
    cudaGetLastError();
    return status;
  }
  return Buffer(data, bytes, [](void* held_data) { cudaFreeHost(held_data); });
}

absl::Status UploadWeight(const Format& format, const EncodedMatrix& weight, const void* host,
                          int64_t bytes, PackedWeight* packed) {
  absl::StatusOr<Buffer> buffer = Allocate(bytes);
  if (!buffer.ok()) return buffer.status();
  if (absl::Status status =
          ToStatus(cudaMemcpy(buffer->as<void>(), host, bytes, cudaMemcpyHostToDevice),
                   "copying a weight to the GPU");
      !status.ok()) {
    return status;
  }
  const auto held = std::make_shared<const Buffer>(*std::move(buffer));
  packed->format = &format;
  packed->shape = {.n = weight.rows, .k = weight.columns};
  packed->bytes = bytes;
  packed->data = std::shared_ptr<const void>(held, held->as<void>());
  return absl::OkStatus();
}

}  // namespace octavo::cuda
