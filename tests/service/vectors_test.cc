#include "service/vectors.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace octavo {
namespace {

// An IEEE binary16 by its definition.
double HalfValue(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t Encode16(v1::DataType type, float value) {
  uint8_t bytes[2];
  EncodeVector(type, {&value, 1}, bytes);
  return static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
}

TEST(Float16, EveryHalfKeepsItsValueAndTiesGoToEven) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const float exact = static_cast<float>(HalfValue(static_cast<uint16_t>(bits)));
    ASSERT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, exact), bits);
    ASSERT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, -exact), bits | 0x8000);
    if (bits == 0x7BFF) break;
    const double next = HalfValue(static_cast<uint16_t>(bits + 1));
    const float middle = static_cast<float>((exact + next) / 2);  // exact in f32
    ASSERT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, middle), bits + (bits & 1)) << bits;
    ASSERT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, std::nextafter(middle, 1e9f)), bits + 1) << bits;
    ASSERT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, std::nextafter(middle, -1e9f)), bits) << bits;
  }
  EXPECT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, 65519.0f), 0x7BFF);
  EXPECT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, 65520.0f), 0x7C00);
  EXPECT_EQ(Encode16(v1::DATA_TYPE_FLOAT16, -1e30f), 0xFC00);
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, 1.0f), 0x3F80);
  const auto from_bits = [](uint32_t bits) { return std::bit_cast<float>(bits); };
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, from_bits(0x3F808000)), 0x3F80);  // tie, even below
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, from_bits(0x3F818000)), 0x3F82);  // tie, even above
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, from_bits(0x3F808001)), 0x3F81);
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, from_bits(0x3F807FFF)), 0x3F80);
  EXPECT_EQ(Encode16(v1::DATA_TYPE_BFLOAT16, from_bits(0xBF818000)), 0xBF82);
}

TEST(Float32, IsLittleEndian) {
  const float row[] = {1.0f, -2.5f};
  uint8_t bytes[8];
  EXPECT_EQ(EncodeVector(v1::DATA_TYPE_FLOAT32, row, bytes), 0.0f);
  const uint8_t expected[] = {0, 0, 0x80, 0x3F, 0, 0, 0x20, 0xC0};
  EXPECT_EQ(std::memcmp(bytes, expected, 8), 0);
}

TEST(Int8, ScaleIsTheLargestOver127AndHalvesGoToEven) {
  const float row[] = {127.0f, -127.0f, 0.5f, 1.5f, -2.5f, 3.49f, 0.0f, 126.5f};
  uint8_t bytes[8];
  EXPECT_EQ(EncodeVector(v1::DATA_TYPE_INT8, row, bytes), 1.0f);
  const int8_t expected[] = {127, -127, 0, 2, -2, 3, 0, 126};
  for (int i = 0; i < 8; ++i) EXPECT_EQ(static_cast<int8_t>(bytes[i]), expected[i]) << i;

  const float small[] = {0.02f, -0.04f, 0.0f, 0.01f};
  const float scale = EncodeVector(v1::DATA_TYPE_INT8, small, bytes);
  EXPECT_EQ(scale, 0.04f / 127.0f);
  for (int i = 0; i < 4; ++i) {
    EXPECT_NEAR(static_cast<float>(static_cast<int8_t>(bytes[i])) * scale, small[i],
                scale * 0.5001f);
  }
  const float zeros[4] = {};
  EXPECT_EQ(EncodeVector(v1::DATA_TYPE_INT8, zeros, bytes), 0.0f);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(bytes[i], 0);
}

// As numpy.packbits(row > 0).
TEST(Binary, BitIsSetAboveZeroMostSignificantFirst) {
  const float row[16] = {1, 0, -1, 1e-30f, -0.0f, 2, -3, 4, 0, 0, 0, 0, 0, 0, 0, 5};
  uint8_t bytes[3] = {0xAA, 0xAA, 0xAA};
  EncodeVector(v1::DATA_TYPE_BINARY, row, bytes);
  EXPECT_EQ(bytes[0], 0b10010101);
  EXPECT_EQ(bytes[1], 0b00000001);
  EXPECT_EQ(bytes[2], 0xAA) << "wrote past the row";
}

TEST(Rows, SizesOfEachType) {
  EXPECT_EQ(RowBytes(v1::DATA_TYPE_FLOAT32, 384), 1536u);
  EXPECT_EQ(RowBytes(v1::DATA_TYPE_FLOAT16, 384), 768u);
  EXPECT_EQ(RowBytes(v1::DATA_TYPE_BFLOAT16, 384), 768u);
  EXPECT_EQ(RowBytes(v1::DATA_TYPE_INT8, 384), 384u);
  EXPECT_EQ(RowBytes(v1::DATA_TYPE_BINARY, 384), 48u);
}

TEST(Normalize, CutsFirst) {
  const float row[] = {3, 4, 100};
  float out[3];
  CutAndNormalize(row, 2, true, {out, 2});
  EXPECT_FLOAT_EQ(out[0], 0.6f);
  EXPECT_FLOAT_EQ(out[1], 0.8f);
  CutAndNormalize(row, 3, false, out);
  EXPECT_EQ(out[0], 3.0f);
  EXPECT_EQ(out[2], 100.0f);
  const float zeros[2] = {};
  CutAndNormalize(zeros, 2, true, {out, 2});
  EXPECT_EQ(out[0], 0.0f);
  EXPECT_EQ(out[1], 0.0f);
}

}  // namespace
}  // namespace octavo
