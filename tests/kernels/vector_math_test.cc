// Sweeps float bit patterns against the functions in double.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/instruction_sets.h"
#include "tests/kernels/vector_math_cases.h"

namespace octavo::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every `step`-th float of [low, high] in order of bits, both signs where the range has them, and
// the ends. A multiple of 16 long, the last repeated.
std::vector<float> Sweep(float low, float high, uint32_t step) {
  std::vector<float> x = {low, high};
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += step) {
    for (uint32_t sign : {0u, 0x80000000u}) {
      const float value = std::bit_cast<float>(bits | sign);
      if (value >= low && value <= high) x.push_back(value);
    }
  }
  while (x.size() % 16 != 0) x.push_back(high);
  return x;
}

class VectorMathTest : public testing::TestWithParam<const VectorMath*> {
 protected:
  void SetUp() override {
    const uint32_t needed = GetParam()->instruction_sets;
    if ((DetectedInstructionSets() & needed) != needed) {
      GTEST_SKIP() << GetParam()->name << ": this processor lacks "
                   << InstructionSetNames(needed & ~DetectedInstructionSets());
    }
  }

  template <typename Error>
  static double LargestError(void (*function)(const float*, float*, int64_t),
                             const std::vector<float>& x, const Error& error) {
    std::vector<float> y(x.size());
    function(x.data(), y.data(), x.size());
    double largest = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double e = error(static_cast<double>(x[i]), static_cast<double>(y[i]));
      EXPECT_FALSE(std::isnan(e)) << x[i];
      largest = std::max(largest, e);
    }
    return largest;
  }

  // f of one value, checked to be the same in every lane.
  static float At(void (*function)(const float*, float*, int64_t), float x) {
    float in[16], out[16];
    std::fill_n(in, 16, x);
    function(in, out, 16);
    for (int lane = 1; lane < 16; ++lane) {
      EXPECT_EQ(std::bit_cast<uint32_t>(out[0]), std::bit_cast<uint32_t>(out[lane])) << x;
    }
    return out[0];
  }
};

double ExactGelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

double ExactGeluTanh(double x) {
  const double y = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
  return x / (1 + std::exp(-2 * y));
}

TEST_P(VectorMathTest, Exp) {
  const auto relative = [](double x, double y) { return std::abs(y / std::exp(x) - 1); };
  const double error = LargestError(GetParam()->exp, Sweep(-87.0f, 88.7f, 397), relative);
  RecordProperty("largest_relative_error", std::to_string(error * 1e9) + "e-9");
  EXPECT_LE(error, 2e-7);
  EXPECT_EQ(At(GetParam()->exp, 0.0f), 1.0f);
  EXPECT_EQ(At(GetParam()->exp, -87.001f), 0.0f);
  EXPECT_EQ(At(GetParam()->exp, -1e30f), 0.0f);
  EXPECT_EQ(At(GetParam()->exp, -kInfinity), 0.0f);
  EXPECT_EQ(At(GetParam()->exp, 89.0f), kInfinity);
  EXPECT_EQ(At(GetParam()->exp, kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(At(GetParam()->exp, kNan)));
}

TEST_P(VectorMathTest, Exp2) {
  const auto relative = [](double x, double y) { return std::abs(y / std::exp2(x) - 1); };
  const std::vector<float> x = Sweep(-126.0f, 0.0f, 397);
  EXPECT_LE(LargestError(GetParam()->exp2, x, relative), 2e-7);
  EXPECT_LE(LargestError(GetParam()->exp2_coarse, x, relative), 1.1e-4);
  for (auto function : {GetParam()->exp2, GetParam()->exp2_coarse}) {
    EXPECT_EQ(At(function, 0.0f), 1.0f);
    for (float x : {-126.01f, -140.5f}) EXPECT_LE(std::abs(At(function, x)), 0x1p-126f);
    for (float x : {-200.0f, -1e30f, -3e38f}) EXPECT_EQ(At(function, x), 0.0f);
    EXPECT_TRUE(std::isnan(At(function, kNan)));
  }
}

TEST_P(VectorMathTest, Gelu) {
  const auto absolute = [](double x, double y) { return std::abs(y - ExactGelu(x)); };
  const std::vector<float> x = Sweep(-100.0f, 8.0f, 997);
  const double error = LargestError(GetParam()->gelu, x, absolute);
  RecordProperty("largest_error", std::to_string(error * 1e9) + "e-9");
  EXPECT_LE(error, 1e-6);
  EXPECT_LE(LargestError(GetParam()->gelu_coarse, x, absolute), 1e-4);
  const auto relative = [](double x, double y) { return std::abs(y / x - 1); };
  const std::vector<float> large = Sweep(8.0f, 3e38f, 997);
  EXPECT_LE(LargestError(GetParam()->gelu, large, relative), 1.2e-7);
  EXPECT_LE(LargestError(GetParam()->gelu_tanh, large, relative), 1.2e-7);
  EXPECT_LE(LargestError(GetParam()->gelu_coarse, large, relative), 1e-5);
  for (auto function : {GetParam()->gelu, GetParam()->gelu_coarse, GetParam()->gelu_tanh}) {
    EXPECT_EQ(At(function, 1e6f), 1e6f);
    EXPECT_EQ(At(function, 0.0f), 0.0f);
    EXPECT_EQ(At(function, kInfinity), kInfinity);
    EXPECT_NEAR(At(function, -kInfinity), 0.0f, 1e-4f);
    EXPECT_TRUE(std::isnan(At(function, kNan)));
  }
}

TEST_P(VectorMathTest, GeluTanh) {
  const auto absolute = [](double x, double y) { return std::abs(y - ExactGeluTanh(x)); };
  EXPECT_LE(LargestError(GetParam()->gelu_tanh, Sweep(-100.0f, 8.0f, 997), absolute), 1e-6);
}

// The two forms of GELU differ by up to 4.7e-4: neither may stand in for the other.
TEST_P(VectorMathTest, GeluFormsDiffer) {
  const auto difference = [](double x, double y) { return std::abs(y - ExactGeluTanh(x)); };
  EXPECT_GT(LargestError(GetParam()->gelu, Sweep(-8.0f, 8.0f, 9973), difference), 3e-4);
}

TEST_P(VectorMathTest, Silu) {
  const auto scaled = [](double x, double y) {
    return std::abs(y - x / (1 + std::exp(-x))) / std::max(1.0, std::abs(x));
  };
  EXPECT_LE(LargestError(GetParam()->silu, Sweep(-1000.0f, 1000.0f, 997), scaled), 1e-6);
  EXPECT_TRUE(std::isnan(At(GetParam()->silu, kNan)));
}

// The nearest bf16 by exhaustive comparison of its two neighbours, ties to even.
uint16_t NearestBf16(float x) {
  if (std::isnan(x)) return 0x7fc0;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t low = static_cast<uint16_t>(bits >> 16);
  if ((bits & 0xffff) == 0) return low;
  // Distance in units of the discarded bits; one step up may be infinity, as IEEE rounds.
  const uint32_t below = bits & 0xffff, above = 0x10000 - below;
  if (below != above) return below < above ? low : low + 1;
  return (low & 1) == 0 ? low : low + 1;
}

TEST_P(VectorMathTest, Bf16) {
  std::vector<float> x;
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 773) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (uint32_t high = 0; high < 0x10000; high += 7) {
    for (uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      x.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  while (x.size() % 16 != 0) x.push_back(kInfinity);
  std::vector<uint16_t> y(x.size());
  GetParam()->to_bf16(x.data(), y.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(y[i], NearestBf16(x[i])) << std::bit_cast<uint32_t>(x[i]);
  }
  std::vector<uint16_t> all(0x10000);
  for (uint32_t bits = 0; bits < all.size(); ++bits) all[bits] = static_cast<uint16_t>(bits);
  std::vector<float> wide(all.size());
  GetParam()->from_bf16(all.data(), wide.data(), wide.size());
  for (uint32_t bits = 0; bits < all.size(); ++bits) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[bits]), bits << 16);
  }
}

const VectorMath* const kAll[] = {
    &kVectorMathPortable,
#if defined(__x86_64__)
    &kVectorMathAvx2,
    &kVectorMathAvx512,
#endif
};

INSTANTIATE_TEST_SUITE_P(Sets, VectorMathTest, testing::ValuesIn(kAll),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace octavo::cpu
