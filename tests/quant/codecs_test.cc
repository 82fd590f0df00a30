// Byte layouts against bytes worked out by hand, and the error of every format's round trip.
#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/format.h"
#include "quant/half.h"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

EncodedMatrix Encode(std::string_view format, const std::vector<float>& weights, int64_t rows,
                     int64_t columns, Method method = Method::kRoundToNearest) {
  return *EncodeMatrix(**FindFormat(format), method, weights, rows, columns);
}

TEST(CodecsTest, StoresFloatsLittleEndian) {
  const std::vector<float> weights = {1.0f, -2.5f};
  EXPECT_THAT(Encode("f32", weights, 1, 2).values,
              ElementsAre(0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x20, 0xc0));
  EXPECT_THAT(Encode("f16", weights, 1, 2).values, ElementsAre(0x00, 0x3c, 0x00, 0xc1));
  EXPECT_THAT(Encode("bf16", weights, 1, 2).values, ElementsAre(0x80, 0x3f, 0x20, 0xc0));
}

TEST(CodecsTest, Int8HasOneScaleARow) {
  const EncodedMatrix matrix =
      Encode("a8w8_int8", {127.0f, -127.0f, 1.5f, 2.5f, 254.0f, 0.0f, -3.0f, 1.0f}, 2, 4);
  EXPECT_THAT(matrix.scales, ElementsAre(1.0f, 2.0f));
  // 1.5 and 2.5 both round to the even 2; -3 / 2 to -2; 1 / 2 to 0.
  EXPECT_THAT(matrix.values, ElementsAre(127, 0x81, 2, 2, 127, 0, 0xfe, 0));
}

TEST(CodecsTest, E4m3HasOneScaleARow) {
  const EncodedMatrix matrix =
      Encode("a8w8_fp8", {448.0f, -448.0f, 17.0f, 19.0f, 896.0f, 0.0f, -3.0f, 0x1p-9f}, 2, 4);
  EXPECT_THAT(matrix.scales, ElementsAre(1.0f, 2.0f));
  // 17 and 19 lie half way between 16, 18 and 20: both to the even mantissa. -3 / 2 is -1.5; 2^-10
  // is half the smallest subnormal, to the even 0.
  EXPECT_THAT(matrix.values, ElementsAre(0x7e, 0xfe, 0x58, 0x5a, 0x7e, 0x00, 0xbc, 0x00));
}

TEST(CodecsTest, SymmetricInt4StoresQPlus8EvenColumnLow) {
  // Largest magnitude 7.5: scale 1. 7.5 is clipped to 7, stored 15.
  std::vector<float> weights(2 * 33, 0.0f);
  weights[0] = -7.5f;
  weights[1] = 1.0f;
  weights[2] = 7.5f;
  weights[3] = -0.5f;
  weights[32] = 15.0f;       // the row's second group, scale 2
  weights[33 + 31] = 3.75f;  // the second row's first group, scale 0.5
  weights[33 + 30] = -3.0f;
  const EncodedMatrix matrix = Encode("a16w4_int4_g32", weights, 2, 33);
  ASSERT_EQ(matrix.row_bytes(), 17);
  ASSERT_EQ(matrix.groups(), 2);
  EXPECT_THAT(matrix.scales, ElementsAre(1.0f, 2.0f, 0.5f, kSmallestF16));
  EXPECT_TRUE(matrix.zeros.empty());
  std::vector<uint8_t> want(2 * 17, 0x88);
  want[0] = 0x90;  // columns 0 and 1: -8 + 8 and 1 + 8 (-7.5 rounds to the even -8)
  want[1] = 0x8f;  // columns 2 and 3: 7 + 8 and 0 + 8 (-0.5 rounds to 0)
  want[16] = 0x0f;
  want[17 + 15] = 0xf2;  // columns 30 and 31: -6 + 8 and 7 + 8
  want[17 + 16] = 0x08;
  EXPECT_THAT(matrix.values, ElementsAreArray(want));
}

TEST(CodecsTest, Int4WithZeroPointCoversTheRange) {
  // [-1.5, 6]: scale 0.5, zero 3.
  std::vector<float> weights(32, 0.0f);
  weights[0] = -1.5f;
  weights[1] = 6.0f;
  weights[2] = 0.5f;
  weights[31] = 1.25f;  // 5.5 rounds to the even 6
  const EncodedMatrix matrix = Encode("a16w4_int4_g32z", weights, 1, 32);
  EXPECT_THAT(matrix.scales, ElementsAre(0.5f));
  EXPECT_THAT(matrix.zeros, ElementsAre(3.0f));
  std::vector<uint8_t> want(16, 0x33);
  want[0] = 0xf0;
  want[1] = 0x34;
  want[15] = 0x63;
  EXPECT_THAT(matrix.values, ElementsAreArray(want));
}

std::vector<float> HeavyTailed(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> distribution(4.0f);
  std::vector<float> values(count);
  for (float& value : values) value = 0.05f * distribution(random);
  return values;
}

TEST(CodecsTest, RoundTripStaysWithinTheFormatsBound) {
  for (const Format& format : Formats()) {
    for (const float magnitude : {1e-6f, 1e-3f, 1.0f, 300.0f}) {
      const int64_t rows = 8;
      const int64_t columns = 200;
      std::vector<float> weights = HeavyTailed(rows * columns, 7);
      // Rows apart in magnitude and in offset, so that a scale or zero point of another row shows.
      for (int64_t i = 0; i < rows * columns; ++i) {
        const int64_t r = i / columns;
        weights[i] = (weights[i] + 0.02f * static_cast<float>(r)) * magnitude *
                     std::ldexp(1.0f, static_cast<int>(r) - 4);
      }
      const EncodedMatrix matrix =
          *EncodeMatrix(format, Method::kRoundToNearest, weights, rows, columns);
      const std::vector<float> decoded = DecodeMatrix(format, matrix);
      for (int64_t i = 0; i < rows * columns; ++i) {
        double bound;
        if (matrix.scales.empty()) {
          const double eps = format.weight.element == Element::kF32   ? 0.0
                             : format.weight.element == Element::kF16 ? 0x1p-11
                                                                      : 0x1p-8;
          bound = eps * std::abs(weights[i]) + 0x1p-25 * (eps == 0x1p-11);
        } else {
          const int64_t group = format.weight.group_columns;
          const int64_t g = group == 0 ? 0 : i % columns / group;
          bound = format.encode_error_bound * matrix.scales[i / columns * matrix.groups() + g];
        }
        ASSERT_LE(std::abs(static_cast<double>(decoded[i]) - weights[i]), bound)
            << format.name << " at " << i << " x " << magnitude;
      }
    }
  }
}

TEST(CodecsTest, ScalesAndZeroPointsAreRoundedToF16) {
  for (const char* name : {"a16w4_int4_g64", "a16w4_int4_g64z"}) {
    const EncodedMatrix matrix = Encode(name, HeavyTailed(4 * 256, 3), 4, 256);
    for (const float scale : matrix.scales) EXPECT_EQ(F16ToFloat(FloatToF16(scale)), scale);
    for (const float zero : matrix.zeros) EXPECT_EQ(F16ToFloat(FloatToF16(zero)), zero);
  }
}

// Groups that leave a scale or zero point no room: zeros, constants, offsets, tiny and huge values.
TEST(CodecsTest, OddGroupsDecodeWell) {
  std::vector<std::vector<float>> groups;
  for (const float constant : {0.0f, 1.0f, -0.3f, 2e-5f, -1e-9f, 1000.0f, -40000.0f}) {
    groups.emplace_back(32, constant);
  }
  groups.emplace_back(32, 100.0f);
  for (int i = 0; i < 32; ++i) groups.back()[i] += 1e-3f * static_cast<float>(i);
  groups.emplace_back(32, -1e-7f);
  groups.back()[5] = 3e-6f;
  groups.emplace_back(32, 1e-30f);
  groups.emplace_back(32, 0.01f);
  groups.back()[31] = 4e5f;
  for (const char* name : {"a16w4_int4_g32", "a16w4_int4_g32z"}) {
    for (const Method method : {Method::kRoundToNearest, Method::kHqq}) {
      const Format& format = **FindFormat(name);
      if (method == Method::kHqq && format.weight.zero == Zero::kNone) continue;
      for (size_t g = 0; g < groups.size(); ++g) {
        const EncodedMatrix matrix = *EncodeMatrix(format, method, groups[g], 1, 32);
        ASSERT_TRUE(std::isfinite(matrix.scales[0]) && matrix.scales[0] > 0.0f) << name << g;
        const std::vector<float> decoded = DecodeMatrix(format, matrix);
        float low = 0.0f;
        float high = 0.0f;
        for (const float x : groups[g]) {
          low = std::min(low, x);
          high = std::max(high, x);
        }
        // Half a step of the widest range that includes zero, or f16's own granularity.
        const float step =
            format.weight.zero == Zero::kNone ? std::max(high, -low) / 7.5f : (high - low) / 15.0f;
        for (int i = 0; i < 32; ++i) {
          EXPECT_LE(std::abs(decoded[i] - groups[g][i]), 0.52f * step + kSmallestF16)
              << name << " group " << g << " value " << i;
        }
      }
    }
  }
}

TEST(CodecsTest, ConstantGroupsWithAZeroPointKeepF16Precision) {
  for (const float constant : {0.7071f, -0.0123f, 333.3f}) {
    const std::vector<float> weights(64, constant);
    const std::vector<float> decoded =
        DecodeMatrix(**FindFormat("a16w4_int4_g64z"), Encode("a16w4_int4_g64z", weights, 1, 64));
    for (const float x : decoded) EXPECT_LE(std::abs(x / constant - 1.0f), 0x1p-11f);
  }
}

TEST(CodecsTest, Int8HoldsZerosAndTheSmallestAndLargestFloats) {
  const Format& format = **FindFormat("a8w8_int8");
  for (const float x : {0.0f, std::numeric_limits<float>::denorm_min(), 1e-38f, 3.4e38f}) {
    const std::vector<float> weights = {x, -x, 0.0f, x / 2};
    const std::vector<float> decoded =
        DecodeMatrix(format, *EncodeMatrix(format, Method::kRoundToNearest, weights, 1, 4));
    for (int i = 0; i < 4; ++i) {
      EXPECT_LE(std::abs(decoded[i] - weights[i]),
                0.51f * std::max(x / 127.0f, std::numeric_limits<float>::min()));
    }
  }
}

TEST(CodecsTest, TheSameWeightsGiveTheSameBytes) {
  const std::vector<float> weights = HeavyTailed(16 * 384, 11);
  for (const Format& format : Formats()) {
    for (const Method method : {Method::kRoundToNearest, Method::kHqq}) {
      const auto first = EncodeMatrix(format, method, weights, 16, 384);
      if (!first.ok()) continue;
      const auto again = EncodeMatrix(format, method, weights, 16, 384);
      EXPECT_EQ(first->values, again->values) << format.name;
      EXPECT_EQ(first->scales, again->scales) << format.name;
      EXPECT_EQ(first->zeros, again->zeros) << format.name;
      // A row's encoding does not depend on the rows around it.
      const auto row =
          EncodeMatrix(format, method, std::span(weights).subspan(5 * 384, 384), 1, 384);
      EXPECT_TRUE(std::equal(row->values.begin(), row->values.end(),
                             first->values.begin() + 5 * first->row_bytes()))
          << format.name;
    }
  }
}

}  // namespace
}  // namespace octavo
