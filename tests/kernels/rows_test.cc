// Every row of RowFunctionTable against float64, with poisoned memory around the valid rows.
#include "kernels/cpu/rows.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/instruction_sets.h"
#include "tests/kernels/random_vector.h"
#include "tests/reference/reference.h"

namespace octavo::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kColumns[] = {1, 2, 7, 8, 15, 16, 24, 63, 64, 65, 384, 385, 1000};
constexpr int64_t kRows = 5;
constexpr int64_t kPadding = 3;  // columns of poison after each row

// Rows of different magnitude and mean, [kRows, columns + kPadding], NaN in the padding.
std::vector<float> RandomRows(int64_t columns, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(kRows * (columns + kPadding), kNan);
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t c = 0; c < columns; ++c) {
      x[row * (columns + kPadding) + c] =
          std::ldexp(normal(random) + 0.5f * row, static_cast<int>(row * 3) - 6);
    }
  }
  return x;
}

class RowsTest : public testing::TestWithParam<RowFunctions> {
 protected:
  void SetUp() override {
    const uint32_t lacking = GetParam().instruction_sets & ~DetectedInstructionSets();
    if (lacking != 0) {
      GTEST_SKIP() << GetParam().name << ": this processor lacks " << InstructionSetNames(lacking);
    }
  }
};

void ExpectPaddingUntouched(const std::vector<float>& x, int64_t columns) {
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t c = columns; c < columns + kPadding; ++c) {
      EXPECT_TRUE(std::isnan(x[row * (columns + kPadding) + c])) << row << " " << c;
    }
  }
}

// What EncodeRows defines, plainly.
void NaiveInt8(const float* x, int64_t columns, std::vector<int>* q, float* scale, int* sum) {
  float largest = 0;
  bool finite = true;
  for (int64_t c = 0; c < columns; ++c) {
    finite = finite && std::isfinite(x[c]);
    largest = std::max(largest, std::abs(x[c]));
  }
  q->assign(columns, 0);
  *sum = 0;
  *scale = finite ? largest / 127.0f : kNan;
  if (!finite) return;
  if (largest < std::ldexp(1.0f, -100)) {
    *scale = 0;
    return;
  }
  const float inverse = 127.0f / largest;
  for (int64_t c = 0; c < columns; ++c) {
    (*q)[c] = static_cast<int>(std::nearbyint(x[c] * inverse));  // default mode: half to even
    *sum += (*q)[c];
  }
}

TEST_P(RowsTest, EncodesInt8ExactlyAsDefined) {
  for (int64_t columns : kColumns) {
    std::vector<float> x = RandomRows(columns, 1);
    const int64_t stride = columns + kPadding;
    for (int64_t c = 0; c < columns; ++c) x[1 * stride + c] = 0;
    for (int64_t c = 0; c < columns; ++c) {  // halves: q = 0.5, 1.5, 2.5, ...
      x[2 * stride + c] = static_cast<float>(c % 127) + 0.5f;
    }
    x[2 * stride + columns - 1] = -127.0f;
    x[3 * stride + columns / 2] = 1e6f;  // an outlier
    std::vector<int8_t> q(kRows * stride, 99);
    std::vector<float> scales(kRows + 1, 99.0f);
    std::vector<int32_t> sums(kRows + 1, 99);
    const Matrix output{q.data(), stride, Element::kInt8, scales.data(), sums.data()};
    GetParam().encode(x.data(), stride, kRows, columns, output);
    for (int64_t row = 0; row < kRows; ++row) {
      std::vector<int> want;
      float scale;
      int sum;
      NaiveInt8(&x[row * stride], columns, &want, &scale, &sum);
      EXPECT_EQ(scales[row], scale) << row;
      EXPECT_EQ(sums[row], sum) << row;
      for (int64_t c = 0; c < columns; ++c) ASSERT_EQ(q[row * stride + c], want[c]) << row << c;
      for (int64_t c = columns; c < stride; ++c) EXPECT_EQ(q[row * stride + c], 99);
    }
    EXPECT_EQ(scales[kRows], 99.0f);
    EXPECT_EQ(sums[kRows], 99);
  }
}

TEST_P(RowsTest, ShowsValuesThatAreNotFinite) {
  for (float bad : {kNan, kInfinity, -kInfinity}) {
    for (int64_t at : {0, 17, 39}) {
      std::vector<float> x = RandomVector(40, 2);
      x[at] = bad;
      std::vector<int8_t> q(40, 99);
      float scale = 0;
      int32_t sum = 99;
      GetParam().encode(x.data(), 40, 1, 40, Matrix{q.data(), 40, Element::kInt8, &scale, &sum});
      EXPECT_FALSE(std::isfinite(scale)) << bad << " at " << at;
      EXPECT_EQ(sum, 0);
    }
  }
}

TEST_P(RowsTest, EncodesBf16AndF32) {
  for (int64_t columns : kColumns) {
    const std::vector<float> x = RandomRows(columns, 3);
    const int64_t stride = columns + kPadding;
    std::vector<uint16_t> half(kRows * stride, 0x1234);
    GetParam().encode(x.data(), stride, kRows, columns, {half.data(), stride, Element::kBf16});
    std::vector<float> copy(kRows * stride, kNan);
    GetParam().encode(x.data(), stride, kRows, columns, {copy.data(), stride, Element::kF32});
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t c = 0; c < stride; ++c) {
        const int64_t i = row * stride + c;
        if (c >= columns) {
          EXPECT_EQ(half[i], 0x1234);
          continue;
        }
        EXPECT_EQ(copy[i], x[i]);
        const float decoded = std::bit_cast<float>(static_cast<uint32_t>(half[i]) << 16);
        EXPECT_LE(std::abs(decoded - x[i]), std::abs(x[i]) * 0x1p-8f);
      }
    }
    ExpectPaddingUntouched(copy, columns);
  }
}

TEST_P(RowsTest, LayerNorm) {
  constexpr float kEpsilon = 1e-6f;
  for (int64_t columns : kColumns) {
    if (columns == 1) continue;  // the variance is 0
    const int64_t stride = columns + kPadding;
    const std::vector<float> before = RandomRows(columns, 4);
    const std::vector<float> gain = RandomVector(columns, 5), bias = RandomVector(columns, 6);
    std::vector<float> x = before;
    GetParam().layer_norm(x.data(), stride, kRows, columns, gain.data(), bias.data(), kEpsilon,
                          nullptr);
    for (int64_t row = 0; row < kRows; ++row) {
      const std::vector<float> one(&before[row * stride], &before[row * stride] + columns);
      const std::vector<double> want = reference::LayerNorm(one, gain, bias, 1, columns, kEpsilon);
      double largest = 0;
      for (double value : want) largest = std::max(largest, std::abs(value));
      for (int64_t c = 0; c < columns; ++c) {
        EXPECT_NEAR(x[row * stride + c], want[c], 2e-6 * largest) << row << " " << c;
      }
    }
    ExpectPaddingUntouched(x, columns);
  }
}

TEST_P(RowsTest, LayerNormOfALargeMeanKeepsItsDigits) {
  constexpr int64_t kWidth = 384;
  std::vector<float> x = RandomVector(kWidth, 7);
  for (float& value : x) value += 1000.0f;
  const std::vector<float> ones(kWidth, 1.0f), zeros(kWidth, 0.0f);
  const std::vector<double> want = reference::LayerNorm(x, ones, zeros, 1, kWidth, 1e-12);
  GetParam().layer_norm(x.data(), kWidth, 1, kWidth, ones.data(), zeros.data(), 1e-12f, nullptr);
  // The mean itself is within 2^-24 * 1000 of the true one; a variance taken as E[x^2] - mean^2
  // would be off by 0.06.
  for (int64_t c = 0; c < kWidth; ++c) EXPECT_NEAR(x[c], want[c], 2e-4);
}

TEST_P(RowsTest, LayerNormEncodesWhatItNormalized) {
  constexpr int64_t kWidth = 385;
  const int64_t stride = kWidth + kPadding;
  const std::vector<float> gain = RandomVector(kWidth, 8), bias = RandomVector(kWidth, 9);
  for (Element element : {Element::kInt8, Element::kBf16, Element::kF32}) {
    std::vector<float> apart = RandomRows(kWidth, 10), fused = apart;
    std::vector<uint32_t> values_apart(kRows * kWidth), values_fused(kRows * kWidth);
    std::vector<float> scales_apart(kRows), scales_fused(kRows);
    std::vector<int32_t> sums_apart(kRows), sums_fused(kRows);
    GetParam().layer_norm(apart.data(), stride, kRows, kWidth, gain.data(), bias.data(), 1e-12f,
                          nullptr);
    GetParam().encode(
        apart.data(), stride, kRows, kWidth,
        {values_apart.data(), kWidth, element, scales_apart.data(), sums_apart.data()});
    const Matrix encoded{values_fused.data(), kWidth, element, scales_fused.data(),
                         sums_fused.data()};
    GetParam().layer_norm(fused.data(), stride, kRows, kWidth, gain.data(), bias.data(), 1e-12f,
                          &encoded);
    EXPECT_EQ(values_apart, values_fused);
    EXPECT_EQ(scales_apart, scales_fused);
    EXPECT_EQ(sums_apart, sums_fused);
    for (int64_t i = 0; i < kRows * stride; ++i) {
      EXPECT_TRUE(i % stride >= kWidth || apart[i] == fused[i]) << i;
    }
  }
}

TEST_P(RowsTest, EmbedAddsTheTablesThereAre) {
  for (int64_t columns : kColumns) {
    const int64_t stride = columns + kPadding;
    const std::vector<float> word = RandomVector(9 * columns, 11);
    const std::vector<float> position = RandomVector(6 * columns, 12);
    const std::vector<float> type = RandomVector(columns, 13);
    const std::vector<int32_t> ids = {8, 0, 3, 3, 7}, positions = {0, 1, 5, 0, 2};
    for (int parts = 0; parts < 4; ++parts) {
      const EmbeddingTables tables{word.data(), (parts & 1) ? position.data() : nullptr,
                                   (parts & 2) ? type.data() : nullptr};
      std::vector<float> hidden(kRows * stride, kNan);
      GetParam().embed(tables, ids.data(), positions.data(), kRows, columns, hidden.data(), stride);
      for (int64_t row = 0; row < kRows; ++row) {
        for (int64_t c = 0; c < columns; ++c) {
          float want = word[ids[row] * columns + c];
          if (parts & 1) want += position[positions[row] * columns + c];
          if (parts & 2) want += type[c];
          EXPECT_EQ(hidden[row * stride + c], want);
        }
      }
      ExpectPaddingUntouched(hidden, columns);
    }
  }
}

TEST_P(RowsTest, MeanPool) {
  for (int64_t columns : kColumns) {
    const int64_t stride = columns + kPadding;
    std::vector<float> x = RandomRows(columns, 14);
    for (int64_t rows : {int64_t{1}, int64_t{2}, kRows}) {
      std::vector<float> output(columns + 1, 99.0f);
      GetParam().mean_pool(x.data(), stride, rows, columns, output.data());
      for (int64_t c = 0; c < columns; ++c) {
        double sum = 0, magnitude = 0;
        for (int64_t row = 0; row < rows; ++row) {
          sum += x[row * stride + c];
          magnitude += std::abs(x[row * stride + c]);
        }
        EXPECT_NEAR(output[c], sum / rows, 1e-6 * magnitude);
      }
      EXPECT_EQ(output[columns], 99.0f);
    }
  }
}

// a8w8_int8 is to be the same on every processor.
TEST(RowsAgreementTest, EncodingsAreTheSameOnEveryInstructionSet) {
  for (int64_t columns : kColumns) {
    const std::vector<float> x = RandomRows(columns, 15);
    const int64_t stride = columns + kPadding;
    std::vector<int8_t> first_q;
    std::vector<float> first_scales;
    for (const RowFunctions& functions : RowFunctionTable()) {
      if ((functions.instruction_sets & ~DetectedInstructionSets()) != 0) continue;
      std::vector<int8_t> q(kRows * columns);
      std::vector<float> scales(kRows);
      std::vector<int32_t> sums(kRows);
      functions.encode(x.data(), stride, kRows, columns,
                       {q.data(), columns, Element::kInt8, scales.data(), sums.data()});
      if (first_q.empty()) {
        first_q = q;
        first_scales = scales;
      }
      EXPECT_EQ(q, first_q) << functions.name;
      EXPECT_EQ(scales, first_scales) << functions.name;
    }
  }
}

TEST(RowsChoiceTest, TakesTheFirstThatRunsHere) {
  // The public functions are one row of the table: compare bits on data where sums differ.
  const std::vector<float> before = RandomVector(1000, 16), ones(1000, 1.0f), zeros(1000, 0.0f);
  for (const RowFunctions& functions : RowFunctionTable()) {
    if ((functions.instruction_sets & ~DetectedInstructionSets()) != 0) continue;
    std::vector<float> direct = before, chosen = before;
    functions.layer_norm(direct.data(), 1000, 1, 1000, ones.data(), zeros.data(), 1e-12f, nullptr);
    LayerNormRows(chosen.data(), 1000, 1, 1000, ones.data(), zeros.data(), 1e-12f);
    EXPECT_EQ(direct, chosen) << functions.name;
    return;
  }
  FAIL() << "no row runs here";
}

INSTANTIATE_TEST_SUITE_P(Sets, RowsTest,
                         testing::ValuesIn(RowFunctionTable().begin(), RowFunctionTable().end()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace octavo::cpu
