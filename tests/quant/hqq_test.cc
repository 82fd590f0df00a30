// What half-quadratic quantization promises over round-to-nearest.
#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "quant/format.h"
#include "tests/reference/reference.h"

namespace octavo {
namespace {

constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 384;

std::vector<float> HeavyTailed(uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> distribution(3.0f);
  std::vector<float> values(kRows * kColumns);
  for (float& value : values) value = 0.05f * distribution(random);
  return values;
}

std::vector<float> RoundTrip(const Format& format, Method method, const std::vector<float>& weights,
                             int64_t columns) {
  const int64_t rows = static_cast<int64_t>(weights.size()) / columns;
  return DecodeMatrix(format, *EncodeMatrix(format, method, weights, rows, columns));
}

double Error(std::span<const float> got, std::span<const float> want, double exponent) {
  double sum = 0.0;
  for (size_t i = 0; i < want.size(); ++i) {
    sum += std::pow(std::abs(static_cast<double>(got[i]) - want[i]), exponent);
  }
  return sum;
}

class HqqTest : public testing::TestWithParam<const char*> {};

TEST_P(HqqTest, BeatsRoundToNearestOnHeavyTails) {
  const Format& format = **FindFormat(GetParam());
  const std::vector<float> weights = HeavyTailed(1);
  const std::vector<float> nearest = RoundTrip(format, Method::kRoundToNearest, weights, kColumns);
  const std::vector<float> fitted = RoundTrip(format, Method::kHqq, weights, kColumns);
  EXPECT_LT(
      reference::Nmse(std::span<const float>(fitted), std::span<const float>(weights)),
      0.95 * reference::Nmse(std::span<const float>(nearest), std::span<const float>(weights)));
  EXPECT_LT(Error(fitted, weights, 0.7), Error(nearest, weights, 0.7));
  for (int64_t r = 0; r < kRows; ++r) {
    const auto row = [&](const std::vector<float>& m) {
      return std::span<const float>(m).subspan(r * kColumns, kColumns);
    };
    EXPECT_LT(Error(row(fitted), row(weights), 2.0), Error(row(nearest), row(weights), 2.0)) << r;
  }
}

TEST_P(HqqTest, IsNeverWorseThanRoundToNearestInAnyGroup) {
  const Format& format = **FindFormat(GetParam());
  const int64_t group = format.weight.group_columns;
  std::mt19937 random(2);
  // Offsets and magnitudes that strain scale and zero point, and a last group that is not full.
  for (int i = 0; i < 300; ++i) {
    const int64_t columns = 1 + static_cast<int64_t>(random() % (2 * group));
    const float spread = std::ldexp(1.0f, static_cast<int>(random() % 30) - 20);
    const float offset = static_cast<float>(static_cast<int>(random() % 9) - 4) * spread * 3.0f;
    std::normal_distribution<float> distribution(offset, spread);
    std::vector<float> weights(columns);
    for (float& value : weights) value = distribution(random);
    const std::vector<float> nearest = RoundTrip(format, Method::kRoundToNearest, weights, columns);
    const std::vector<float> fitted = RoundTrip(format, Method::kHqq, weights, columns);
    for (int64_t begin = 0; begin < columns; begin += group) {
      const int64_t count = std::min(group, columns - begin);
      const auto part = [&](const std::vector<float>& m) {
        return std::span<const float>(m).subspan(begin, count);
      };
      EXPECT_LE(Error(part(fitted), part(weights), 2.0),
                Error(part(nearest), part(weights), 2.0) * 1.0001)
          << "columns " << columns << " offset " << offset << " spread " << spread;
    }
  }
}

// 16 evenly spaced values are their own best fit.
TEST_P(HqqTest, FindsAnExactGrid) {
  const Format& format = **FindFormat(GetParam());
  std::vector<float> weights(format.weight.group_columns);
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = 0.25f * (static_cast<float>(i % 16) - 5.5f);
  }
  const std::vector<float> fitted =
      RoundTrip(format, Method::kHqq, weights, static_cast<int64_t>(weights.size()));
  for (size_t i = 0; i < weights.size(); ++i) EXPECT_EQ(fitted[i], weights[i]) << i;
}

INSTANTIATE_TEST_SUITE_P(Formats, HqqTest,
                         testing::Values("a16w4_int4_g32z", "a16w4_int4_g64z", "a16w4_int4_g128z"),
                         [](const testing::TestParamInfo<const char*>& info) {
                           return std::string(info.param);
                         });

}  // namespace
}  // namespace octavo
