#include "quant/half.h"

#include <bit>
#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace octavo {
namespace {

// The value of a 16-bit float of the given field widths, by its definition.
double Defined(uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

struct HalfType {
  int exponent_bits;
  int mantissa_bits;
  float (*widen)(uint16_t);
  uint16_t (*round)(float);
};

class HalfTest : public testing::TestWithParam<HalfType> {};

TEST_P(HalfTest, WidensEveryBitPatternAndComesBack) {
  const HalfType& type = GetParam();
  for (int bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const double want = Defined(half, type.exponent_bits, type.mantissa_bits);
    const float got = type.widen(half);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_TRUE(std::isnan(type.widen(type.round(got)))) << bits;
      ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(got), want) << bits;
    ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
    ASSERT_EQ(type.round(got), half) << bits;
  }
}

// Rounding is monotonic, so it is right everywhere if it is right on and beside every midpoint.
TEST_P(HalfTest, RoundsToNearestEvenAtEveryMidpoint) {
  const HalfType& type = GetParam();
  const int infinity = ((1 << type.exponent_bits) - 1) << type.mantissa_bits;
  for (int bits = 0; bits < infinity; ++bits) {
    const double low = Defined(static_cast<uint16_t>(bits), type.exponent_bits, type.mantissa_bits);
    // The step to infinity is as wide as the one below it.
    const double high =
        bits + 1 < infinity
            ? Defined(static_cast<uint16_t>(bits + 1), type.exponent_bits, type.mantissa_bits)
            : 2 * low -
                  Defined(static_cast<uint16_t>(bits - 1), type.exponent_bits, type.mantissa_bits);
    const float middle = static_cast<float>((low + high) / 2);
    ASSERT_EQ(static_cast<double>(middle), (low + high) / 2);
    const int even = bits % 2 == 0 ? bits : bits + 1;
    for (const int sign : {0, 0x8000}) {
      const float direction = sign == 0 ? 1.0f : -1.0f;
      ASSERT_EQ(type.round(direction * middle), even | sign) << bits;
      ASSERT_EQ(type.round(direction * std::nextafter(middle, 0.0f)), bits | sign) << bits;
      const float above = std::nextafter(middle, std::numeric_limits<float>::infinity());
      ASSERT_EQ(type.round(direction * above), (bits + 1) | sign) << bits;
    }
  }
}

TEST_P(HalfTest, KeepsWhatIsNotFinite) {
  const HalfType& type = GetParam();
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(type.widen(type.round(infinity)), infinity);
  EXPECT_EQ(type.widen(type.round(-infinity)), -infinity);
  // Payloads whose high bits are zero must not turn into infinity.
  for (const uint32_t nan : {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu}) {
    const float widened = type.widen(type.round(std::bit_cast<float>(nan)));
    EXPECT_TRUE(std::isnan(widened)) << nan;
    EXPECT_EQ(std::signbit(widened), (nan & 0x80000000u) != 0) << nan;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, HalfTest,
                         testing::Values(HalfType{5, 10, F16ToFloat, FloatToF16},
                                         HalfType{8, 7, Bf16ToFloat, FloatToBf16}),
                         [](const testing::TestParamInfo<HalfType>& info) {
                           return info.param.exponent_bits == 5 ? "F16" : "Bf16";
                         });

}  // namespace
}  // namespace octavo
