#include "quant/e4m3.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace octavo {
namespace {

// By the definition: 4 exponent bits of bias 7, 3 mantissa bits.
double Value(int code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

TEST(E4m3Test, DecodesByTheDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float x = E4m3ToFloat(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(x)) << code;
    } else {
      EXPECT_EQ(x, Value(code)) << code;
    }
    EXPECT_EQ(std::signbit(x), code >= 0x80) << code;
  }
}

TEST(E4m3Test, EveryValueEncodesToItself) {
  for (int code = 0; code < 256; ++code) {
    EXPECT_EQ(FloatToE4m3(E4m3ToFloat(static_cast<uint8_t>(code))), code);
  }
}

TEST(E4m3Test, RoundsToNearestEven) {
  for (int sign : {0, 0x80}) {
    for (int code = 0; code < 0x7e; ++code) {
      const double low = Value(code), high = Value(code + 1);
      const auto encode = [&](double x) {
        return FloatToE4m3(static_cast<float>(sign != 0 ? -x : x)) ^ sign;
      };
      const double middle = (low + high) / 2;  // exact in f32
      EXPECT_EQ(encode(middle), code % 2 == 0 ? code : code + 1) << code;
      EXPECT_EQ(encode(std::nextafter(static_cast<float>(middle), 0.0f)), code) << code;
      EXPECT_EQ(encode(std::nextafter(static_cast<float>(middle), 1e9f)), code + 1) << code;
    }
  }
}

TEST(E4m3Test, SaturatesAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float x : {448.0f, 464.0f, 465.0f, 1e9f, infinity}) {
    EXPECT_EQ(FloatToE4m3(x), 0x7e) << x;
    EXPECT_EQ(FloatToE4m3(-x), 0xfe) << x;
  }
  EXPECT_EQ(FloatToE4m3(nan), 0x7f);
  EXPECT_EQ(FloatToE4m3(std::copysign(nan, -1.0f)), 0xff);
  EXPECT_EQ(FloatToE4m3(-0.0f), 0x80);
}

}  // namespace
}  // namespace octavo
