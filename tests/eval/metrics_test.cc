#include "tests/eval/metrics.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo::eval {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Ranking = std::vector<std::string_view>;

TEST(NdcgTest, UsesTheGradeAsGain) {
  const Judgments judgments = {{"a", 3}, {"b", 1}, {"c", 2}};
  // Ideal: 3 + 2 / log2(3) + 1 / 2 = 4.761859507142915. Exponential gain would give other values.
  EXPECT_DOUBLE_EQ(NdcgAt(10, Ranking{"a", "c", "b"}, judgments), 1);
  // 1 + 2 / log2(3) + 3 / 2 = 3.761859507142915
  EXPECT_NEAR(NdcgAt(10, Ranking{"b", "c", "a"}, judgments), 3.761859507142915 / 4.761859507142915,
              1e-12);
  // A document not judged takes a rank and gains nothing: 3 / log2(3) = 1.892789260714372.
  EXPECT_NEAR(NdcgAt(10, Ranking{"x", "a"}, judgments), 1.892789260714372 / 4.761859507142915,
              1e-12);
}

TEST(NdcgTest, CountsOnlyTheFirstRanks) {
  const Judgments judgments = {{"a", 1}, {"b", 1}};
  EXPECT_DOUBLE_EQ(NdcgAt(1, Ranking{"x", "a", "b"}, judgments), 0);
  // At 1 the ideal has one document as well.
  EXPECT_DOUBLE_EQ(NdcgAt(1, Ranking{"a", "b"}, judgments), 1);
  Judgments many;
  std::vector<std::string> names;
  for (int i = 0; i < 20; ++i) names.emplace_back(1, static_cast<char>('a' + i));
  for (const std::string& name : names) many[name] = 1;
  EXPECT_DOUBLE_EQ(NdcgAt(10, Ranking(names.begin(), names.end()), many), 1);
}

TEST(NdcgTest, IsZeroWithoutRelevantDocuments) {
  EXPECT_EQ(NdcgAt(10, Ranking{"a"}, {}), 0);
  EXPECT_EQ(NdcgAt(10, Ranking{"a"}, {{"a", 0}}), 0);
  EXPECT_EQ(NdcgAt(10, Ranking{}, {{"a", 1}}), 0);
}

TEST(RecallTest, CountsRelevantDocuments) {
  const Judgments judgments = {{"a", 1}, {"b", 2}, {"c", 0}, {"missing", 1}};
  EXPECT_DOUBLE_EQ(RecallAt(100, Ranking{"c", "b", "x", "a"}, judgments), 2.0 / 3);
  EXPECT_DOUBLE_EQ(RecallAt(2, Ranking{"c", "b", "x", "a"}, judgments), 1.0 / 3);
  EXPECT_EQ(RecallAt(100, Ranking{"a"}, {}), 0);
  EXPECT_TRUE(HasRelevant(judgments));
  EXPECT_FALSE(HasRelevant({{"a", 0}}));
  EXPECT_FALSE(HasRelevant({}));
}

TEST(SpearmanTest, AgreesWithScipy) {
  const std::vector<double> a = {1, 2, 2, 3, 5, 5, 5, 8};
  const std::vector<double> b = {2, 1, 4, 4, 3, 9, 9, 7};
  EXPECT_NEAR(Spearman(a, b), 0.6895607149652165, 1e-12);
  const std::vector<double> c = {10, 20, 30, 40}, d = {1, 3, 2, 4};
  EXPECT_NEAR(Spearman(c, d), 0.8, 1e-12);
  const std::vector<double> reversed = {4, 3, 2, 1};
  EXPECT_NEAR(Spearman(c, reversed), -1, 1e-12);
}

TEST(SpearmanTest, IsUndefinedForConstants) {
  const std::vector<double> a = {1, 1, 1}, b = {1, 2, 3}, one = {1};
  EXPECT_TRUE(std::isnan(Spearman(a, b)));
  EXPECT_TRUE(std::isnan(Spearman(one, one)));
}

TEST(PercentileTest, InterpolatesAsNumpyDoes) {
  const std::vector<double> values = {3, 1, 4, 1, 5};
  EXPECT_DOUBLE_EQ(Percentile(values, 0), 1);
  EXPECT_DOUBLE_EQ(Percentile(values, 50), 3);
  EXPECT_DOUBLE_EQ(Percentile(values, 99), 4.96);
  EXPECT_DOUBLE_EQ(Percentile(values, 100), 5);
  EXPECT_TRUE(std::isnan(Percentile({}, 50)));
  EXPECT_EQ(Mean({}), 0);
}

TEST(CosineTest, IgnoresLength) {
  const std::vector<float> a = {3, 4}, b = {30, 40}, c = {-4, 3}, zero = {0, 0};
  EXPECT_DOUBLE_EQ(Cosine(a, b), 1);
  EXPECT_DOUBLE_EQ(Cosine(a, c), 0);
  EXPECT_EQ(Cosine(a, zero), 0);
  Matrix matrix{2, 2, {3, 4, 0, 0}};
  NormalizeRows(&matrix);
  EXPECT_THAT(matrix.values, ElementsAre(0.6f, 0.8f, 0, 0));
}

TEST(RankTest, BreaksTiesByRow) {
  const Matrix documents{5, 2, {0, 1, 1, 0, 0, 1, 2, 0, 1, 0}};
  const std::vector<float> query = {1, 0};
  EXPECT_THAT(Rank(documents, query, 5), ElementsAre(3, 1, 4, 0, 2));
  EXPECT_THAT(Rank(documents, query, 2), ElementsAre(3, 1));
  EXPECT_THAT(Rank(documents, query, 0), IsEmpty());
  EXPECT_EQ(Rank(documents, query, 100).size(), 5u);
}

TEST(RankTest, SumsEveryColumn) {
  for (const int columns : {1, 15, 16, 17, 40}) {
    Matrix documents{columns + 1, columns, std::vector<float>((columns + 1) * columns)};
    for (int i = 0; i < columns; ++i) documents.values[i * columns + i] = 1;  // row i: unit i
    for (int i = 0; i < columns; ++i) {
      std::vector<float> query(columns);
      query[i] = 1;
      EXPECT_EQ(Rank(documents, query, 1)[0], i) << columns;
    }
  }
}

}  // namespace
}  // namespace octavo::eval
