// Programmatic dependent launch: a kernel's blocks start while the kernel before it in the stream
// still ends, and wait for its results on the device.
#pragma once

#include <cuda_runtime.h>

namespace octavo::cuda {

// What earlier kernels wrote may be read, and what they read be written, only after this. What the
// host copied before them may be read before.
__device__ inline void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Launches a kernel that calls WaitForPreviousKernel.
template <typename... Parameters>
cudaError_t LaunchDependent(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_bytes,
                            cudaStream_t stream, const Parameters&... arguments) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace octavo::cuda
