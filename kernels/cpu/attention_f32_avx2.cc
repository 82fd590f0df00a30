#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/epilogue_avx2.h"

namespace octavo::cpu {
namespace {

struct F32Vector : Avx2Vector {
  static constexpr int kQueries = 6;  // 12 sums, 2 vectors of keys and a broadcast in 16 registers
  static constexpr int kPerWord = 1;
  using W = __m256;

  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Exp2(F x) { return avx2::Exp2(x); }
  static float First(F x) { return _mm256_cvtss_f32(x); }
  static float MaxOfLanes(F x) {
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
  }
  static float SumOfLanes(F x) {
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
  }
  static __m256i Lanes(int64_t low, int64_t high) {
    const int first = low < 0 ? 0 : low > 8 ? 8 : static_cast<int>(low);
    const int end = high < 0 ? 0 : high > 8 ? 8 : static_cast<int>(high);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_and_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane),
                            _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(first - 1)));
  }
  static F LoadLanes(const float* from, int64_t low, int64_t high) {
    return _mm256_maskload_ps(from, Lanes(low, high));
  }
  static F KeepLanes(int64_t low, int64_t high, F x, F other) {
    return _mm256_blendv_ps(other, x, _mm256_castsi256_ps(Lanes(low, high)));
  }

  static W LoadWords(const uint32_t* from) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
  static W BroadcastWord(const uint32_t* from) {
    return _mm256_broadcast_ss(reinterpret_cast<const float*>(from));
  }
  static F Dot(F sum, W word, W words) { return _mm256_fmadd_ps(word, words, sum); }
  static void StoreWeights(uint32_t* to, int64_t vector, F x) {
    _mm256_storeu_ps(reinterpret_cast<float*>(to) + vector * 8, x);
  }

  static void TransposeWords(const char* from, int64_t stride, int rows, int words, uint32_t* to,
                             int64_t to_stride) {
    const __m256i read = Lanes(0, words);
    __m256 a[8], b[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      const float* row = reinterpret_cast<const float*>(from + r * stride);
      a[r] = r < rows ? _mm256_maskload_ps(row, read) : _mm256_setzero_ps();
    }
#pragma GCC unroll 4
    for (int r = 0; r < 8; r += 2) {
      b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
      b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
    }
#pragma GCC unroll 2
    for (int r = 0; r < 8; r += 4) {
      a[r] = _mm256_shuffle_ps(b[r], b[r + 2], 0x44);
      a[r + 1] = _mm256_shuffle_ps(b[r], b[r + 2], 0xee);
      a[r + 2] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0x44);
      a[r + 3] = _mm256_shuffle_ps(b[r + 1], b[r + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm256_permute2f128_ps(a[i], a[4 + i], 0x20);
      b[4 + i] = _mm256_permute2f128_ps(a[i], a[4 + i], 0x31);
    }
    for (int w = 0; w < words; ++w) {
      _mm256_storeu_ps(reinterpret_cast<float*>(to + w * to_stride), b[w]);
    }
  }
  static void PackValues(const char* from, int64_t stride, int64_t keys, int head_size,
                         uint32_t* to) {
    for (int64_t j = 0; j < keys; ++j) {  // a head is whole vectors
      __builtin_memcpy(to + j * head_size, from + j * stride,
                       static_cast<unsigned long>(head_size) * 4);
    }
  }
};

}  // namespace

void AttendF32Avx2(const AttentionBlock& block) { AttendWith<F32Vector>(block); }

}  // namespace octavo::cpu
