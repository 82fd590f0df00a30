#include "kernels/cpu/vector_math_avx512.h"

#include "kernels/cpu/instruction_sets.h"
#include "tests/kernels/vector_math_cases.h"

namespace octavo::cpu {
namespace {

template <__m512 (*function)(__m512)>
void Apply(const float* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) _mm512_storeu_ps(y + i, function(_mm512_loadu_ps(x + i)));
}

void ToBf16(const float* x, uint16_t* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + i), avx512::ToBf16(_mm512_loadu_ps(x + i)));
  }
}

void FromBf16(const uint16_t* x, float* y, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    _mm512_storeu_ps(y + i, avx512::FromBf16(words));
  }
}

}  // namespace

const VectorMath kVectorMathAvx512 = {
    "avx512",
    kAvx512,
    Apply<avx512::Exp>,
    Apply<avx512::Exp2>,
    Apply<avx512::Exp2Coarse>,
    Apply<avx512::Gelu>,
    Apply<avx512::GeluCoarse>,
    Apply<avx512::GeluTanh>,
    Apply<avx512::Silu>,
    ToBf16,
    FromBf16,
};

}  // namespace octavo::cpu
