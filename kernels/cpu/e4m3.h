// Activations of a8w8_fp8 on the CPU, in plain code that every instruction set's rows share.
#pragma once

#include <cstdint>

namespace octavo::cpu {

// Values along a row that share a scale.
inline constexpr int64_t kE4m3ScaleColumns = 128;

// Encodes a row: for every 128 columns b the scale, max|x| / 448, to scales[b * scale_stride], and
// q = x * (448 / max|x|) rounded to nearest even. 128 values whose largest magnitude is below
// 2^-100 are zeros with scale 0; if one is not finite, zeros with a scale that is not finite.
void EncodeE4m3Row(const float* x, int64_t columns, uint8_t* q, float* scales,
                   int64_t scale_stride);

// The values of a row: q * scale.
void DecodeE4m3Row(const uint8_t* q, int64_t columns, const float* scales, int64_t scale_stride,
                   float* x);

}  // namespace octavo::cpu
