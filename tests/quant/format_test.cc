#include "quant/format.h"

#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/half.h"

namespace octavo {
namespace {

using testing::HasSubstr;

const Format& Named(std::string_view name) { return **FindFormat(name); }

TEST(FormatTest, FindsEveryFormatByItsFullName) {
  std::set<std::string_view> names;
  for (const Format& format : Formats()) {
    EXPECT_TRUE(names.insert(format.name).second) << format.name;
    const absl::StatusOr<const Format*> found = FindFormat(format.name);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, &format);
  }
  for (const char* name :
       {"f32", "f16", "bf16", "a8w8_int8", "a8w8_fp8", "a16w4_int4_g32", "a16w4_int4_g64",
        "a16w4_int4_g128", "a16w4_int4_g32z", "a16w4_int4_g64z", "a16w4_int4_g128z"}) {
    EXPECT_EQ(names.count(name), 1u) << name;
  }
}

TEST(FormatTest, NamesSayTheLayout) {
  for (const Format& format : Formats()) {
    if (format.weight.element != Element::kInt4) continue;
    std::string name = "a16w4_int4_g" + std::to_string(format.weight.group_columns);
    if (format.weight.zero != Zero::kNone) name += "z";
    EXPECT_EQ(format.name, name);
    EXPECT_EQ(format.weight.scale, ScaleElement::kF16);
    EXPECT_EQ(format.activation.when, When::kPerCall);
    EXPECT_EQ(format.weight.when, When::kStored);
  }
}

TEST(FormatTest, AliasesStandForFormatsOfTheTable) {
  for (const FormatAlias& alias : FormatAliases()) {
    EXPECT_EQ(Named(alias.alias).name, alias.name);
  }
  EXPECT_LE(EncodeMatrix(Named("a16w4_int4"), Method::kRoundToNearest,
                         std::vector<float>(128 * 128, 1.0f), 128, 128)
                ->bits_per_weight(),
            5.0);
}

TEST(FormatTest, UnknownNamesListTheKnownOnes) {
  const absl::Status format = FindFormat("int3").status();
  EXPECT_EQ(format.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(format.message()), HasSubstr("int3"));
  EXPECT_THAT(std::string(format.message()), HasSubstr("a16w4_int4_g64z"));
  const absl::Status method = FindMethod("gptq").status();
  EXPECT_EQ(method.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(method.message()), HasSubstr("hqq"));
  EXPECT_EQ(*FindMethod("rtn"), Method::kRoundToNearest);
  EXPECT_EQ(*FindMethod("hqq"), Method::kHqq);
}

TEST(FormatTest, CountsBits) {
  const std::vector<float> weights(4 * 256, 0.5f);
  const auto bits = [&](std::string_view name) {
    return EncodeMatrix(Named(name), Method::kRoundToNearest, weights, 4, 256)->bits_per_weight();
  };
  EXPECT_EQ(bits("f32"), 32.0);
  EXPECT_EQ(bits("f16"), 16.0);
  EXPECT_EQ(bits("bf16"), 16.0);
  EXPECT_EQ(bits("a8w8_int8"), 8.0 + 32.0 / 256);
  EXPECT_EQ(bits("a8w8_fp8"), 8.0 + 32.0 / 256);
  EXPECT_EQ(bits("a16w4_int4_g32"), 4.5);
  EXPECT_EQ(bits("a16w4_int4_g64"), 4.25);
  EXPECT_EQ(bits("a16w4_int4_g128"), 4.125);
  EXPECT_EQ(bits("a16w4_int4_g32z"), 5.0);
  EXPECT_EQ(bits("a16w4_int4_g64z"), 4.5);
  EXPECT_EQ(bits("a16w4_int4_g128z"), 4.25);
}

TEST(FormatTest, RefusesValuesThatAreNotFiniteAndSaysWhere) {
  for (const Format& format : Formats()) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
          -std::numeric_limits<float>::infinity()}) {
      std::vector<float> weights(3 * 40, 0.25f);
      weights[2 * 40 + 7] = bad;
      const absl::Status status =
          EncodeMatrix(format, Method::kRoundToNearest, weights, 3, 40).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << format.name;
      EXPECT_THAT(std::string(status.message()), HasSubstr("[2, 7]"));
    }
  }
}

TEST(FormatTest, RefusesMagnitudesTheFormatCannotHold) {
  std::vector<float> weights(64, 1.0f);
  weights[3] = 70000.0f;
  EXPECT_EQ(EncodeMatrix(Named("f16"), Method::kRoundToNearest, weights, 1, 64).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(EncodeMatrix(Named("bf16"), Method::kRoundToNearest, weights, 1, 64).ok());
  EXPECT_TRUE(EncodeMatrix(Named("a16w4_int4_g32z"), Method::kRoundToNearest, weights, 1, 64).ok());
  weights[3] = 5e5f;
  EXPECT_EQ(EncodeMatrix(Named("a16w4_int4_g32z"), Method::kHqq, weights, 1, 64).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FormatTest, RefusesShapesThatDoNotMatch) {
  const std::vector<float> weights(64, 1.0f);
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 63}, {2, 64}, {0, 64}, {-1, -64}, {int64_t{1} << 62, 64}}) {
    EXPECT_EQ(
        EncodeMatrix(Named("f32"), Method::kRoundToNearest, weights, rows, columns).status().code(),
        absl::StatusCode::kInvalidArgument);
  }
}

TEST(FormatTest, HqqNeedsAFloatZeroPointOrNoScale) {
  const std::vector<float> weights(2 * 128, 0.5f);
  for (const Format& format : Formats()) {
    const absl::Status status = EncodeMatrix(format, Method::kHqq, weights, 2, 128).status();
    const bool applies =
        format.weight.zero == Zero::kF16 || format.weight.scale == ScaleElement::kNone;
    EXPECT_EQ(status.ok(), applies) << format.name;
    if (!applies) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(format.name)));
    }
  }
}

}  // namespace
}  // namespace octavo
