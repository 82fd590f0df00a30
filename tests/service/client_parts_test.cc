// The parts of octavo-client that need no server: search, decoding, progress, display.
#include <bit>
#include <chrono>
#include <cmath>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "service/client/documents.h"
#include "service/client/progress.h"
#include "service/client/search.h"
#include "service/client/vectors.h"

namespace octavo::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int64_t> Rows(const std::vector<Hit>& hits) {
  std::vector<int64_t> rows;
  for (const Hit& hit : hits) rows.push_back(hit.row);
  return rows;
}

TEST(SearchTest, OrdersByScoreThenRow) {
  const std::vector<float> vectors = {0, 1, 1, 0, 0, 1, -1, 0, 1, 0};
  const std::vector<float> query = {1, 0};
  EXPECT_THAT(Rows(Search(vectors, query, 5)), ElementsAre(1, 4, 0, 2, 3));
  EXPECT_THAT(Rows(Search(vectors, query, 2)), ElementsAre(1, 4));
  EXPECT_EQ(Search(vectors, query, 100).size(), 5u);
  EXPECT_TRUE(Search(vectors, query, 0).empty());
  EXPECT_TRUE(Search({}, query, 3).empty());
}

TEST(SearchTest, AgreesWithDoubleArithmetic) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const int dimensions : {1, 7, 16, 33, 384}) {
    for (const int rows : {1, 3, 4, 9}) {
      std::vector<float> vectors(rows * dimensions), query(dimensions);
      for (float& value : vectors) value = normal(random);
      for (float& value : query) value = normal(random);
      for (const Hit& hit : Search(vectors, query, rows)) {
        double expected = 0, size = 0;
        for (int i = 0; i < dimensions; ++i) {
          const double term = static_cast<double>(vectors[hit.row * dimensions + i]) * query[i];
          expected += term;
          size += std::fabs(term);
        }
        EXPECT_NEAR(hit.score, expected, size * 1e-6) << dimensions << " " << rows;
      }
    }
  }
}

TEST(VectorsTest, DecodesEveryType) {
  octavo::v1::Vectors vectors;
  vectors.set_dimensions(8);
  const auto append16 = [&](uint16_t bits) {
    *vectors.mutable_data() += static_cast<char>(bits & 255);
    *vectors.mutable_data() += static_cast<char>(bits >> 8);
  };
  vectors.set_type(octavo::v1::DATA_TYPE_FLOAT16);
  for (const uint16_t bits : {0x0000, 0x3c00, 0xc000, 0x0001, 0x7bff, 0x8000, 0x3555, 0x0400}) {
    append16(bits);
  }
  ASSERT_TRUE(CheckVectors(vectors, 1).ok());
  EXPECT_THAT(DecodeRow(vectors, 0), ElementsAre(0.0f, 1.0f, -2.0f, std::ldexp(1.0f, -24), 65504.0f,
                                                 -0.0f, 0.333251953125f, std::ldexp(1.0f, -14)));

  vectors.clear_data();
  vectors.set_type(octavo::v1::DATA_TYPE_BFLOAT16);
  for (const uint16_t bits : {0x3f80, 0xc000, 0, 0x3f81, 0x7f7f, 0x0001, 0, 0}) append16(bits);
  EXPECT_EQ(DecodeRow(vectors, 0)[0], 1.0f);
  EXPECT_EQ(DecodeRow(vectors, 0)[1], -2.0f);
  EXPECT_EQ(DecodeRow(vectors, 0)[3], 1.0078125f);

  vectors.set_type(octavo::v1::DATA_TYPE_INT8);
  *vectors.mutable_data() =
      std::string("\x7f\x81\0\1\2\3\4\5", 8) + std::string("\x01\xff\0\0\0\0\0\0", 8);
  EXPECT_FALSE(CheckVectors(vectors, 2).ok());  // no scales
  vectors.add_scales(0.5f);
  vectors.add_scales(2.0f);
  ASSERT_TRUE(CheckVectors(vectors, 2).ok());
  EXPECT_THAT(DecodeRow(vectors, 0), ElementsAre(63.5f, -63.5f, 0, .5f, 1, 1.5f, 2, 2.5f));
  EXPECT_THAT(DecodeRow(vectors, 1), ElementsAre(2, -2, 0, 0, 0, 0, 0, 0));

  vectors.clear_scales();
  vectors.set_type(octavo::v1::DATA_TYPE_BINARY);
  *vectors.mutable_data() = "\xa1";
  ASSERT_TRUE(CheckVectors(vectors, 1).ok());
  EXPECT_THAT(DecodeRow(vectors, 0), ElementsAre(1, 0, 1, 0, 0, 0, 0, 1));
  EXPECT_FALSE(CheckVectors(vectors, 2).ok());  // too few bytes
  vectors.set_type(octavo::v1::DATA_TYPE_UNSPECIFIED);
  EXPECT_FALSE(CheckVectors(vectors, 1).ok());
}

TEST(VectorsTest, NamesOfTypes) {
  for (const char* name : {"float32", "float16", "bfloat16", "int8", "binary"}) {
    auto type = ParseDataType(name);
    ASSERT_TRUE(type.ok());
    EXPECT_EQ(DataTypeName(*type), name);
  }
  EXPECT_FALSE(ParseDataType("unspecified").ok());
}

TEST(ProgressTest, WritesLinesElsewhereThanOnATerminal) {
  std::ostringstream out;
  Progress progress(out, false, std::chrono::milliseconds(1000));
  const auto start = Progress::Clock::now();
  progress.Update({10, 100, 0.1}, start + std::chrono::milliseconds(500));
  EXPECT_EQ(out.str(), "");
  progress.Update({2000, 40000, 0.25}, start + std::chrono::milliseconds(2000));
  EXPECT_THAT(out.str(), HasSubstr(" 25%  2,000 documents"));
  EXPECT_THAT(out.str(), HasSubstr(" documents/s  "));
  EXPECT_THAT(out.str(), HasSubstr(" tokens/s  ETA 0:0"));
  EXPECT_EQ(out.str().find('\r'), std::string::npos);
}

TEST(ProgressTest, RedrawsABarOnATerminal) {
  std::ostringstream out;
  Progress progress(out, true);
  const auto start = Progress::Clock::now();
  progress.Update({1, 5, 0.5}, start + std::chrono::seconds(2));
  progress.Note("a note");
  progress.Finish({2, 10, 1}, start + std::chrono::seconds(4));
  EXPECT_THAT(out.str(), HasSubstr("\r[############............]  50%  1 documents"));
  EXPECT_THAT(out.str(), HasSubstr("\ra note\n"));
  EXPECT_EQ(out.str().back(), '\n');
}

TEST(ProgressTest, GroupsDigits) {
  EXPECT_EQ(WithThousands(0), "0");
  EXPECT_EQ(WithThousands(999), "999");
  EXPECT_EQ(WithThousands(1000), "1,000");
  EXPECT_EQ(WithThousands(1234567), "1,234,567");
  EXPECT_EQ(WithThousands(-1000), "-1,000");
}

TEST(OneLineTest, NeverCutsACharacterAndDropsControls) {
  EXPECT_EQ(OneLine("  two\n\twords \x1b[1m ", 80), "two words [1m");
  EXPECT_EQ(OneLine("abcdefghij", 10), "abcdefghij");
  EXPECT_EQ(OneLine("abcdefghijk", 10), "abcdefg...");
  // Seven bytes would cut the third of these two-byte letters.
  EXPECT_EQ(OneLine("éééééééé", 10), "ééé...");
  EXPECT_EQ(OneLine("日本語日本語", 11), "日本...");
}

TEST(DocumentTest, JoinsTitleAndText) {
  EXPECT_EQ((Document{.title = "T", .text = "x"}.EmbeddedText()), "T x");
  EXPECT_EQ((Document{.text = " x\n"}.EmbeddedText()), "x");
}

}  // namespace
}  // namespace octavo::client
