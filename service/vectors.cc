#include "service/vectors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace octavo {
namespace {

void PutLittleEndian16(uint16_t value, uint8_t* output) {
  output[0] = static_cast<uint8_t>(value);
  output[1] = static_cast<uint8_t>(value >> 8);
}

void PutLittleEndian32(uint32_t value, uint8_t* output) {
  PutLittleEndian16(static_cast<uint16_t>(value), output);
  PutLittleEndian16(static_cast<uint16_t>(value >> 16), output + 2);
}

// Round to nearest, ties to even; the value is finite.
uint16_t ToBfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Round to nearest, ties to even; the value is finite.
uint16_t ToFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const float magnitude = std::fabs(value);
  // 65520 is halfway between the largest half, 65504, and the next power of two.
  if (magnitude >= 65520.0f) return sign | 0x7C00;
  if (magnitude < 0x1p-14f) {
    // Subnormal halves are multiples of 2^-24; adding 1.0 * 2^-1 makes the f32 adder round there.
    const float shifted = magnitude + 0.5f;
    return sign |
           static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5f));
  }
  // Drop 13 bits of the significand and rebias the exponent from 127 to 15.
  const uint32_t magnitude_bits = bits & 0x7FFFFFFF;
  const uint32_t rounded = magnitude_bits + 0xFFF + ((magnitude_bits >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - ((127u - 15u) << 23)) >> 13);
}

float EncodeInt8(std::span<const float> row, uint8_t* output) {
  float largest = 0;
  for (float x : row) largest = std::max(largest, std::fabs(x));
  const float scale = largest / 127.0f;
  for (size_t i = 0; i < row.size(); ++i) {
    // nearbyint rounds half to even in the default rounding mode. A denormal scale can overshoot.
    const float q = scale > 0 ? std::nearbyint(row[i] / scale) : 0.0f;
    output[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f)));
  }
  return scale;
}

}  // namespace

std::span<const v1::DataType> OutputTypes() {
  static constexpr v1::DataType kTypes[] = {v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_FLOAT16,
                                            v1::DATA_TYPE_BFLOAT16, v1::DATA_TYPE_INT8,
                                            v1::DATA_TYPE_BINARY};
  return kTypes;
}

size_t RowBytes(v1::DataType type, int dimensions) {
  const size_t n = static_cast<size_t>(dimensions);
  switch (type) {
    case v1::DATA_TYPE_FLOAT16:
    case v1::DATA_TYPE_BFLOAT16:
      return 2 * n;
    case v1::DATA_TYPE_INT8:
      return n;
    case v1::DATA_TYPE_BINARY:
      return n / 8;
    default:
      return 4 * n;
  }
}

void CutAndNormalize(std::span<const float> row, int dimensions, bool normalize,
                     std::span<float> output) {
  const size_t n = static_cast<size_t>(dimensions);
  double squares = 0;
  if (normalize) {
    for (size_t i = 0; i < n; ++i) squares += static_cast<double>(row[i]) * row[i];
  }
  const double factor = squares > 0 ? 1.0 / std::sqrt(squares) : 1.0;
  for (size_t i = 0; i < n; ++i) output[i] = static_cast<float>(row[i] * factor);
}

float EncodeVector(v1::DataType type, std::span<const float> row, uint8_t* output) {
  switch (type) {
    case v1::DATA_TYPE_FLOAT16:
      for (size_t i = 0; i < row.size(); ++i) PutLittleEndian16(ToFloat16(row[i]), output + 2 * i);
      return 0;
    case v1::DATA_TYPE_BFLOAT16:
      for (size_t i = 0; i < row.size(); ++i) PutLittleEndian16(ToBfloat16(row[i]), output + 2 * i);
      return 0;
    case v1::DATA_TYPE_INT8:
      return EncodeInt8(row, output);
    case v1::DATA_TYPE_BINARY:
      std::memset(output, 0, row.size() / 8);
      for (size_t i = 0; i < row.size(); ++i) {
        if (row[i] > 0) output[i / 8] |= static_cast<uint8_t>(0x80u >> (i % 8));
      }
      return 0;
    default:
      for (size_t i = 0; i < row.size(); ++i) {
        PutLittleEndian32(std::bit_cast<uint32_t>(row[i]), output + 4 * i);
      }
      return 0;
  }
}

}  // namespace octavo
