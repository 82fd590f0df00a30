// The vector functions of one instruction set, over arrays: each vector_math_SET.cc is compiled
// for its set, so the test itself runs anywhere.
#pragma once

#include <cstdint>

namespace octavo::cpu {

struct VectorMath {
  const char* name;
  uint32_t instruction_sets;
  // `count` is a multiple of 16.
  void (*exp)(const float* x, float* y, int64_t count);
  void (*exp2)(const float* x, float* y, int64_t count);
  void (*exp2_coarse)(const float* x, float* y, int64_t count);
  void (*gelu)(const float* x, float* y, int64_t count);
  void (*gelu_coarse)(const float* x, float* y, int64_t count);
  void (*gelu_tanh)(const float* x, float* y, int64_t count);
  void (*silu)(const float* x, float* y, int64_t count);
  void (*to_bf16)(const float* x, uint16_t* y, int64_t count);
  void (*from_bf16)(const uint16_t* x, float* y, int64_t count);
};

extern const VectorMath kVectorMathPortable;
extern const VectorMath kVectorMathAvx2;
extern const VectorMath kVectorMathAvx512;

}  // namespace octavo::cpu
