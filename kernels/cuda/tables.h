// The CUDA backend's tables and the backend itself.
#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/linear.h"

namespace octavo::cuda {

// linear_table.cc, attention_table.cc: fastest first within a format.
std::span<const LinearKernel> LinearKernels();
std::span<const AttentionKernel> AttentionKernels();

// backend_cuda.cc.
extern const Backend kBackend;

}  // namespace octavo::cuda
