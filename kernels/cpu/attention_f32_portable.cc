#include "kernels/cpu/attention_vector.h"
#include "kernels/cpu/epilogue_portable.h"

namespace octavo::cpu {
namespace {

struct F32Vector : PortableVector {
  static constexpr int kQueries = 4;
  static constexpr int kPerWord = 1;
  using W = float;

  // The second if either is not a number, as the vector instructions do.
  static F Max(F a, F b) { return a > b ? a : b; }
  static F Fma(F a, F b, F c) { return a * b + c; }
  static F Exp2(F x) { return portable::Exp2(x); }
  static float First(F x) { return x; }
  static float MaxOfLanes(F x) { return x; }
  static float SumOfLanes(F x) { return x; }
  static F LoadLanes(const float* from, int64_t low, int64_t high) {
    return low <= 0 && high >= 1 ? *from : 0.0f;
  }
  static F KeepLanes(int64_t low, int64_t high, F x, F other) {
    return low <= 0 && high >= 1 ? x : other;
  }
  static W LoadWords(const uint32_t* from) { return portable::FromBits(*from); }
  static W BroadcastWord(const uint32_t* from) { return portable::FromBits(*from); }
  static F Dot(F sum, W word, W words) { return sum + word * words; }
  static void StoreWeights(uint32_t* to, int64_t vector, F x) { to[vector] = portable::Bits(x); }
  static void TransposeWords(const char* from, int64_t, int, int, uint32_t* to, int64_t) {
    __builtin_memcpy(to, from, 4);
  }
  static void PackValues(const char* from, int64_t stride, int64_t keys, int head_size,
                         uint32_t* to) {
    for (int64_t j = 0; j < keys; ++j) {
      __builtin_memcpy(to + j * head_size, from + j * stride,
                       static_cast<unsigned long>(head_size) * 4);
    }
  }
};

}  // namespace

void AttendF32Portable(const AttentionBlock& block) { AttendWith<F32Vector>(block); }

}  // namespace octavo::cpu
