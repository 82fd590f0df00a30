#include "kernels/cpu/e4m3.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/epilogue.h"
#include "quant/e4m3.h"

namespace octavo::cpu {

void EncodeE4m3Row(const float* x, int64_t columns, uint8_t* q, float* scales,
                   int64_t scale_stride) {
  for (int64_t begin = 0; begin < columns; begin += kE4m3ScaleColumns) {
    const int64_t end = std::min(columns, begin + kE4m3ScaleColumns);
    uint32_t largest_bits = 0;
    for (int64_t c = begin; c < end; ++c) {
      largest_bits = std::max(largest_bits, std::bit_cast<uint32_t>(std::abs(x[c])));
    }
    const float largest = std::bit_cast<float>(largest_bits);
    const bool zeros = largest_bits < kTinyBits || largest_bits >= kInfinityBits;
    scales[begin / kE4m3ScaleColumns * scale_stride] =
        largest_bits < kTinyBits ? 0.0f : largest / kLargestE4m3;
    const float inverse = zeros ? 0.0f : kLargestE4m3 / largest;
    for (int64_t c = begin; c < end; ++c) q[c] = zeros ? 0 : FloatToE4m3(x[c] * inverse);
  }
}

void DecodeE4m3Row(const uint8_t* q, int64_t columns, const float* scales, int64_t scale_stride,
                   float* x) {
  for (int64_t c = 0; c < columns; ++c) {
    x[c] = E4m3ToFloat(q[c]) * scales[c / kE4m3ScaleColumns * scale_stride];
  }
}

}  // namespace octavo::cpu
