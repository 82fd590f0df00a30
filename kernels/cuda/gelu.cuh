// GELU with the error function for 16- and 8-bit outputs.
#pragma once

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

}  // namespace octavo::cuda
