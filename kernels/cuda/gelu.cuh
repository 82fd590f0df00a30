// GELU with the error function for 16- and 8-bit outputs.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace octavo::cuda {

// Propagates NaN, which fmaxf drops.
__device__ __forceinline__ float MaxOrNan(float a, float b) {
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
}

// x * Phi(x) within 6e-5: max(x, 0) - u * tail(u), u = |x|, where tail(u) = erfc(u / sqrt 2) / 2 is
// the eighth power of a polynomial (kernels/cpu/vector_math_coefficients.h, kGeluCoarse). Ten
// instructions, none of them on the special function unit, which takes a quarter of the rate.
__device__ __forceinline__ float Gelu(float x) {
  const float u = fminf(fabsf(x), 4.5f);
  float tail = fmaf(0.000527787139f, u, 0.00259394152f);
  tail = fmaf(tail, u, -0.0359037519f);
  tail = fmaf(tail, u, -0.0895448849f);
  tail = fmaf(tail, u, 0.916727841f);
  tail *= tail;
  tail *= tail;
  tail *= tail;
  return fmaf(-tail, u, MaxOrNan(x, 0.0f));
}

__device__ __forceinline__ __half2 BothHalves(uint16_t bits) {
  return __half2half2(__ushort_as_half(bits));
}

// Of two values in f16, for 8-bit outputs: within 7e-4 beside the rounding of the result. As above,
// the tail the fourth power of a polynomial whose coefficients were searched for in f16, clamped at
// 3.8. Nine instructions for two values.
__device__ __forceinline__ __half2 Gelu(__half2 x) {
  const __half2 u = __hmin2(__habs2(x), BothHalves(0x439a));  // drops NaN, which max keeps
  __half2 tail = __hfma2(BothHalves(0x226a), u, BothHalves(0xaac6));
  tail = __hfma2(tail, u, BothHalves(0xb17c));
  tail = __hfma2(tail, u, BothHalves(0x3abe));
  tail = __hmul2(tail, tail);
  tail = __hmul2(tail, tail);
  return __hfma2(__hneg2(tail), u, __hmax2_nan(x, BothHalves(0)));
}

}  // namespace octavo::cuda
