// Conversions between f32 and e4m3 (OCP 8-bit floating point, 4 exponent and 3 mantissa bits, no
// infinities): round to nearest even, magnitudes beyond 448 saturate, NaN keeps its sign. Integer
// arithmetic, so that every machine gives the same bits.
//
// Not for files compiled for one instruction set: an inline function emitted there could be the
// copy the linker keeps.
#pragma once

#include <bit>
#include <cstdint>

namespace octavo {

constexpr float kLargestE4m3 = 448.0f;
constexpr float kSmallestE4m3 = 0x1p-9f;  // subnormal

inline float E4m3ToFloat(uint8_t value) {
  const uint32_t sign = static_cast<uint32_t>(value & 0x80u) << 24;
  const uint32_t magnitude = value & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude >= 0x08u) return std::bit_cast<float>(sign | ((magnitude << 20) + 0x3c000000u));
  const float subnormal = static_cast<float>(magnitude) * kSmallestE4m3;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(subnormal));
}

inline uint8_t FloatToE4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t code;
  if (magnitude > 0x7f800000u) {
    code = 0x7fu;
  } else if (magnitude >= 0x43e00000u) {  // 448 and above
    code = 0x7eu;
  } else if (magnitude >= 0x3c800000u) {  // normal, 2^-6 and above
    code = (magnitude - 0x3c000000u + 0x0007ffffu + ((magnitude >> 20) & 1u)) >> 20;
  } else {
    // Adding 2^14 leaves the value as a multiple of 2^-9 in the low mantissa bits, rounded by the
    // addition itself.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    code = std::bit_cast<uint32_t>(shifted) - 0x46800000u;
  }
  return static_cast<uint8_t>(sign | code);
}

}  // namespace octavo
