// What the CPU backend can compute: one table a kind of kernel. To see which kernels exist, open
// linear_table.cc and attention_table.cc.
#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/linear.h"

namespace octavo::cpu {

// Fastest first within a format. Static storage.
std::span<const LinearKernel> LinearKernels();
std::span<const AttentionKernel> AttentionKernels();

}  // namespace octavo::cpu
