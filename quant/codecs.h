// Row encoders and decoders of each family of elements: the functions format.cc's table points to.
// Arguments as in Format::encode_row and Format::decode_row.
#pragma once

#include <cstdint>
#include <span>

#include "quant/format.h"

namespace octavo::quant {

// float.cc: little-endian values, no scale.
void EncodeF32(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
               std::span<float> scales, std::span<float> zeros);
void DecodeF32(const Encoding& encoding, std::span<const uint8_t> values,
               std::span<const float> scales, std::span<const float> zeros, std::span<float> row);
void EncodeF16(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
               std::span<float> scales, std::span<float> zeros);
void DecodeF16(const Encoding& encoding, std::span<const uint8_t> values,
               std::span<const float> scales, std::span<const float> zeros, std::span<float> row);
void EncodeBf16(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float> zeros);
void DecodeBf16(const Encoding& encoding, std::span<const uint8_t> values,
                std::span<const float> scales, std::span<const float> zeros, std::span<float> row);

// int8.cc: one scale a row, max|x| / 127, q in [-127, 127], round half to even.
void EncodeInt8(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float> zeros);
void DecodeInt8(const Encoding& encoding, std::span<const uint8_t> values,
                std::span<const float> scales, std::span<const float> zeros, std::span<float> row);

// e4m3.cc: one scale a row, max|x| / 448, round to nearest even.
void EncodeE4m3(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float> zeros);
void DecodeE4m3(const Encoding& encoding, std::span<const uint8_t> values,
                std::span<const float> scales, std::span<const float> zeros, std::span<float> row);

// int4.cc: groups along the row. Symmetric: scale = max|x| / 7.5, q in [-8, 7], stored q + 8.
// With a zero point: scale = (max - min) / 15, zero = -min / scale, q in [0, 15].
void EncodeInt4(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float> zeros);
void DecodeInt4(const Encoding& encoding, std::span<const uint8_t> values,
                std::span<const float> scales, std::span<const float> zeros, std::span<float> row);

// hqq.cc: int4 with a float zero point, fitted by half-quadratic optimization.
void EncodeInt4Hqq(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                   std::span<float> scales, std::span<float> zeros);

}  // namespace octavo::quant
