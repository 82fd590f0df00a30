#include "tests/eval/datasets.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/eval/vector_cache.h"

namespace octavo::eval {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DatasetsTest : public ::testing::Test {
 protected:
  DatasetsTest() {
    std::string name = ::testing::TempDir() + "/octavo-eval-XXXXXX";
    directory_ = mkdtemp(name.data());
    fs::create_directory(directory_ + "/qrels");
    Write("corpus.jsonl",
          "{\"_id\": \"d1\", \"title\": \"One\", \"text\": \"first\"}\n"
          "{\"_id\": \"d2\", \"title\": \"\", \"text\": \"second\"}\n"
          "{\"_id\": 3, \"text\": \"third\"}\n");
    Write("queries.jsonl",
          "{\"_id\": \"q1\", \"text\": \"a\"}\n{\"_id\": \"q2\", \"text\": \"b\"}\n"
          "{\"_id\": \"q3\", \"text\": \"c\"}\n{\"_id\": \"q4\", \"text\": \"never judged\"}\n");
    Write("qrels/test.tsv",
          "query-id\tcorpus-id\tscore\nq2\td2\t1\nq1\td1\t2\nq1\t3\t1\nq3\td1\t0\n");
  }
  ~DatasetsTest() override { fs::remove_all(directory_); }

  void Write(const std::string& name, const std::string& content) {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << content;
  }

  std::string directory_;
};

TEST_F(DatasetsTest, ReadsBeirLayout) {
  auto set = ReadRetrievalSet(directory_ + "/", "test");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->name, fs::path(directory_).filename());
  EXPECT_EQ(set->sha256.size(), 64u);
  EXPECT_THAT(set->document_ids, ElementsAre("d1", "d2", "3"));
  EXPECT_THAT(set->documents, ElementsAre("One first", "second", "third"));
  // q3 has no relevant document and q4 no judgment: neither counts.
  EXPECT_THAT(set->query_ids, ElementsAre("q1", "q2"));
  EXPECT_EQ(set->judgments[0].at("3"), 1);

  // q1 finds its best document second, q2 its only one first.
  const Matrix documents{3, 2, {0, 1, 1, 0, -1, 0}};
  const Matrix queries{2, 2, {.8f, .6f, 1, 0}};
  const RetrievalScores scores = ScoreRetrieval(*set, documents, queries);
  // q1: d2, d1, 3: (2 / log2(3) + 1 / 2) / (2 + 1 / log2(3)).
  EXPECT_NEAR(scores.ndcg_at_10, (1.761859507142915 / 2.630929753571458 + 1) / 2, 1e-12);
  EXPECT_EQ(scores.recall_at_100, 1);
}

TEST_F(DatasetsTest, NamesWhatIsWrong) {
  EXPECT_EQ(ReadRetrievalSet(directory_, "train").status().code(), absl::StatusCode::kNotFound);
  Write("qrels/test.tsv", "header\nq1\td1\n");
  EXPECT_THAT(std::string(ReadRetrievalSet(directory_, "test").status().message()),
              HasSubstr("test.tsv line 2"));
  Write("qrels/test.tsv", "header\nq9\td1\t1\n");
  EXPECT_THAT(std::string(ReadRetrievalSet(directory_, "test").status().message()),
              HasSubstr("query q9"));
  Write("qrels/test.tsv", "header\n");
  EXPECT_FALSE(ReadRetrievalSet(directory_, "test").ok());
  Write("corpus.jsonl", "{\"_id\": \"d1\", \"text\": \"x\"}\n{\"_id\": \"d2\"}\n");
  EXPECT_THAT(std::string(ReadRetrievalSet(directory_, "test").status().message()),
              HasSubstr("corpus.jsonl line 2"));
}

TEST(CsvTest, SplitsQuotedFields) {
  const auto rows =
      ParseCsv("a,b,1\r\n\"x, y\",\"say \"\"hi\"\"\",2.5\n\n,\"\",\n\"two\nlines\",c");
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_THAT(rows[0], ElementsAre("a", "b", "1"));
  EXPECT_THAT(rows[1], ElementsAre("x, y", "say \"hi\"", "2.5"));
  EXPECT_THAT(rows[2], ElementsAre("", "", ""));
  EXPECT_THAT(rows[3], ElementsAre("two\nlines", "c"));
  EXPECT_THAT(ParseCsv(""), IsEmpty());
}

TEST_F(DatasetsTest, ReadsSentencePairs) {
  Write("pairs.csv", "one,two,2.5\nnot a pair\n\"a, b\",c,5\n");
  auto pairs = ReadSentencePairs(directory_ + "/pairs.csv");
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_THAT(pairs->first, ElementsAre("one", "a, b"));
  EXPECT_THAT(pairs->second, ElementsAre("two", "c"));
  EXPECT_THAT(pairs->scores, ElementsAre(2.5, 5));
  Write("pairs.csv", "one,two,three\n");
  EXPECT_FALSE(ReadSentencePairs(directory_ + "/pairs.csv").ok());
}

TEST_F(DatasetsTest, KeepsVectors) {
  const VectorCache cache(directory_ + "/vectors");
  const VectorKey key{"revision", "dataset", "document", "a8w8_int8", "rtn"};
  EXPECT_FALSE(cache.Read(key, 2, 3).ok());
  const Matrix matrix{2, 3, {1, 2, 3, 4, 5, 6}};
  ASSERT_TRUE(cache.Write(key, matrix).ok());
  auto read = cache.Read(key, 2, 3);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->values, matrix.values);
  EXPECT_FALSE(cache.Read(key, 3, 3).ok());  // another shape
  for (VectorKey other : {VectorKey{"revision2", "dataset", "document", "a8w8_int8", "rtn"},
                          VectorKey{"revision", "dataset2", "document", "a8w8_int8", "rtn"},
                          VectorKey{"revision", "dataset", "query", "a8w8_int8", "rtn"},
                          VectorKey{"revision", "dataset", "document", "f32", "rtn"},
                          VectorKey{"revision", "dataset", "document", "a8w8_int8", "hqq"}}) {
    EXPECT_FALSE(cache.Read(other, 2, 3).ok());
  }
  const VectorCache none("");
  EXPECT_TRUE(none.Write(key, matrix).ok());
  EXPECT_FALSE(none.Read(key, 2, 3).ok());
}

TEST(SpotCheckTest, NoticesStaleVectors) {
  EXPECT_THAT(SpotCheckRows(10, 3), ElementsAre(0, 3, 6));
  EXPECT_THAT(SpotCheckRows(2, 3), ElementsAre(0, 1));
  EXPECT_THAT(SpotCheckRows(0, 3), IsEmpty());
  const Matrix stored{3, 2, {1, 0, 0, 1, .6f, .8f}};
  const Matrix same{2, 2, {1, 0, .6f, .8f}};
  const Matrix close{2, 2, {1, 1e-6f, .6f, .8f}};
  const Matrix stale{2, 2, {1, 0, .7f, .7f}};
  EXPECT_TRUE(SpotCheckPasses(stored, {0, 2}, same, true, 1));
  EXPECT_FALSE(SpotCheckPasses(stored, {0, 2}, close, true, 0));
  EXPECT_TRUE(SpotCheckPasses(stored, {0, 2}, close, false, 0.999999));
  EXPECT_FALSE(SpotCheckPasses(stored, {0, 2}, stale, false, 0.999999));
}

// The reference scores were measured over exactly these sets.
TEST(EvaluationDataTest, HasTheCountsOfBeir) {
  const char* data = std::getenv("OCTAVO_DATA");
  if (data == nullptr) GTEST_SKIP() << "OCTAVO_DATA names no folder of evaluation data";
  auto scifact = ReadRetrievalSet(std::string(data) + "/scifact", "test");
  ASSERT_TRUE(scifact.ok()) << scifact.status();
  EXPECT_EQ(scifact->documents.size(), 5183u);
  EXPECT_EQ(scifact->queries.size(), 300u);
  auto cranfield = ReadRetrievalSet(std::string(data) + "/cranfield", "test");
  ASSERT_TRUE(cranfield.ok()) << cranfield.status();
  EXPECT_EQ(cranfield->documents.size(), 1400u);
  EXPECT_EQ(cranfield->queries.size(), 225u);
  auto pairs = ReadSentencePairs(std::string(data) + "/stsb/stsb-en-test.csv");
  ASSERT_TRUE(pairs.ok()) << pairs.status();
  EXPECT_EQ(pairs->scores.size(), 1379u);
}

}  // namespace
}  // namespace octavo::eval
