// Device memory and the words for what went wrong with it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace octavo::cuda {

// OK, RESOURCE_EXHAUSTED (out of memory) or UNAVAILABLE: "WHAT: the driver's words".
absl::Status ToStatus(cudaError_t error, const char* what);

// As Backend::allocate and Backend::allocate_host; on the thread's current device, 256-byte
// aligned, zeroed.
absl::StatusOr<Buffer> Allocate(int64_t bytes);
absl::StatusOr<Buffer> AllocatePinned(int64_t bytes);

// Makes `packed` the weight's layout at `host`, in device memory: `bytes` of it, then 256 zero
// bytes, so that a vector load that begins inside may end past it. Waits for the copy.
// RESOURCE_EXHAUSTED.
absl::Status UploadWeight(const Format& format, const EncodedMatrix& weight, const void* host,
                          int64_t bytes, PackedWeight* packed);

}  // namespace octavo::cuda
