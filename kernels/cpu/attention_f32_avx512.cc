#include "kernels/cpu/attention_avx512.h"

namespace octavo::cpu {
namespace {

struct F32Vector : Avx512Attention {
  static constexpr int kPerWord = 1;
  using W = __m512;

  static F Exp2(F x) { return avx512::Exp2(x); }
  static W LoadWords(const uint32_t* from) { return _mm512_loadu_ps(from); }
  static W BroadcastWord(const uint32_t* from) {
    return _mm512_set1_ps(*reinterpret_cast<const float*>(from));
  }
  static F Dot(F sum, W word, W words) { return _mm512_fmadd_ps(word, words, sum); }
  static void StoreWeights(uint32_t* to, int64_t vector, F x) {
    _mm512_storeu_ps(to + vector * 16, x);
  }
  static void PackValues(const char* from, int64_t stride, int64_t keys, int head_size,
                         uint32_t* to) {
    const int64_t padded = (head_size + 15) / 16 * 16;
    for (int64_t j = 0; j < keys; ++j) {
      for (int64_t c = 0; c < padded; c += 16) {
        const F x = _mm512_maskz_loadu_ps(Lanes(0, head_size - c), from + j * stride + c * 4);
        _mm512_storeu_ps(to + j * padded + c, x);
      }
    }
  }
};

}  // namespace

void AttendF32Avx512(const AttentionBlock& block) { AttendWith<F32Vector>(block); }

}  // namespace octavo::cpu
