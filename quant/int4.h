// What int4.cc and hqq.cc share: scales and zero points that f16 can hold, and nibble order.
#pragma once

#include <cstdint>
#include <span>

namespace octavo::quant {

// The f16 value nearest to a group's ideal scale, usable as a divisor: at least the smallest
// subnormal; below the normal range, where f16 is coarse, never less than `scale`, so that no
// value of the group is clipped; at most the largest finite value.
float RoundScale(float scale);

// The nearest f16, saturating.
float RoundZero(float zero);

struct GroupFit {
  float scale;
  float zero;  // in units of q
};

// Round-to-nearest's scale and zero point for values in [low, high], both already f16 values.
// A scale below max|x| / 255 would need a zero point that f16 cannot resolve, so a narrower range
// is widened to that; a constant group gets scale |x| and zero point -1 or 1.
GroupFit FitRange(float low, float high);

// Writes codes 0..15 two a byte, the even column in the low nibble.
void PackNibbles(std::span<const uint8_t> codes, std::span<uint8_t> bytes);

}  // namespace octavo::quant
