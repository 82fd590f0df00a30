#include "kernels/cpu/attention_avx512.h"

namespace octavo::cpu {
namespace {

// Products of bf16 pairs summed in f32 (vdpbf16ps); weights are rounded to bf16, their sum is not.
struct Bf16Vector : Avx512Attention {
  static constexpr int kPerWord = 2;
  using W = __m512i;

  static F Exp2(F x) { return avx512::Exp2Coarse(x); }
  static W LoadWords(const uint32_t* from) { return _mm512_loadu_si512(from); }
  static W BroadcastWord(const uint32_t* from) {
    return _mm512_set1_epi32(static_cast<int>(*from));
  }
  static F Dot(F sum, W word, W words) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(words),
                            reinterpret_cast<__m512bh>(word));
  }
  static void StoreWeights(uint32_t* to, int64_t vector, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + vector * 8),
                        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
  // Pairs of rows: word (j, c) holds columns c of keys 2j and 2j + 1.
  static void PackValues(const char* from, int64_t stride, int64_t keys, int head_size,
                         uint32_t* to) {
    const int64_t padded = (head_size + 15) / 16 * 16;
    for (int64_t j = 0; j < keys; j += 2) {
      const char* even = from + j * stride;
      for (int64_t c = 0; c < padded; c += 16) {
        const __mmask16 read = Lanes(0, head_size - c);
        const __m256i low = _mm256_maskz_loadu_epi16(read, even + c * 2);
        const __m256i high = j + 1 < keys ? _mm256_maskz_loadu_epi16(read, even + stride + c * 2)
                                          : _mm256_setzero_si256();
        const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                              _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
        _mm512_storeu_si512(to + j / 2 * padded + c, pairs);
      }
    }
  }
};

}  // namespace

void AttendBf16Avx512Bf16(const AttentionBlock& block) { AttendWith<Bf16Vector>(block); }

}  // namespace octavo::cpu
