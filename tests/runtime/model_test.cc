// all-MiniLM-L6-v2 with its real weights and real texts: against sentence-transformers' vectors
// (tests/golden), and each format against itself in other batches.
//
// Needs OCTAVO_MODEL (a directory of that model) and OCTAVO_DATA (the evaluation data); skipped, by
// name, without them.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <numeric>
#include <string>
#include <unordered_map>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "quant/half.h"
#include "tests/reference/reference.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::Load;
using ::octavo::testing::LoadedModel;

constexpr int kDimensions = 384;
constexpr int kDocuments = 1000;
constexpr int kRows = 2000;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kRowStep = 25;  // sanitizers are ten times slower; the release preset takes every row
#else
constexpr int kRowStep = 1;
#endif

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<nlohmann::json> ReadLines(const std::string& path) {
  std::ifstream stream(path);
  EXPECT_TRUE(stream) << path;
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

// The texts of the golden rows, in row order.
std::vector<std::string> GoldenTexts(const nlohmann::json& manifest, const std::string& data) {
  std::vector<std::string> texts;
  std::unordered_map<std::string, std::string> by_id;
  for (const auto& line :
       ReadLines(data + "/" + manifest["documents"]["file"].get<std::string>())) {
    by_id[line["_id"].get<std::string>()] =
        line["title"].get<std::string>() + " " + line["text"].get<std::string>();
  }
  for (const auto& id : manifest["documents"]["ids"]) texts.push_back(by_id.at(id));
  const auto questions = ReadLines(data + "/" + manifest["questions"]["file"].get<std::string>());
  for (const auto& line : manifest["questions"]["lines"]) {
    texts.push_back(questions.at(line.get<size_t>())["question"]);
  }
  return texts;
}

class ModelTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* model = std::getenv("OCTAVO_MODEL");
    const char* data = std::getenv("OCTAVO_DATA");
    if (model == nullptr || data == nullptr) return;
    auto checkpoint = Checkpoint::Open(model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const std::string golden = OCTAVO_GOLDEN_DIRECTORY "/minilm_scifact_nq";
    const auto manifest = nlohmann::json::parse(ReadFile(golden + ".json"));
    const std::string bytes = ReadFile(golden + ".f16");
    ASSERT_EQ(bytes.size(), size_t{2} * kRows * kDimensions);
    const std::vector<std::string> texts = GoldenTexts(manifest, data);
    ASSERT_EQ(texts.size(), size_t{kRows});
    checkpoint_ = checkpoint->release();
    for (int row = 0; row < kRows; row += kRowStep) {
      auto ids = checkpoint_->tokenizer()->Encode(texts[row], checkpoint_->spec().max_tokens,
                                                  Truncation::kEnd);
      ASSERT_TRUE(ids.ok()) << ids.status();
      (row < kDocuments ? documents_ : questions_).push_back(row);
      sequences_[row] = ids->ids;
      std::vector<float>& want = golden_[row];
      for (int i = 0; i < kDimensions; ++i) {
        const size_t at = 2 * (static_cast<size_t>(row) * kDimensions + i);
        want.push_back(F16ToFloat(static_cast<uint16_t>(static_cast<uint8_t>(bytes[at]) |
                                                        static_cast<uint8_t>(bytes[at + 1]) << 8)));
      }
    }
  }

  static void TearDownTestSuite() {
    delete checkpoint_;
    checkpoint_ = nullptr;
  }

  void SetUp() override {
    if (std::getenv("OCTAVO_MODEL") == nullptr) {
      GTEST_SKIP() << "OCTAVO_MODEL is not set: needs all-MiniLM-L6-v2";
    }
    if (std::getenv("OCTAVO_DATA") == nullptr) {
      GTEST_SKIP() << "OCTAVO_DATA is not set: needs the evaluation data";
    }
    ASSERT_NE(checkpoint_, nullptr);
  }

  // Cosine to the golden vector of each of `rows`, embedded in batches of `batch`.
  static std::vector<double> CosinesToGolden(const LoadedModel& model, const std::vector<int>& rows,
                                             size_t batch) {
    std::vector<double> cosines;
    for (size_t begin = 0; begin < rows.size(); begin += batch) {
      std::vector<std::vector<int32_t>> sequences;
      const size_t end = std::min(rows.size(), begin + batch);
      for (size_t i = begin; i < end; ++i) sequences.push_back(sequences_.at(rows[i]));
      const auto vectors = model.Embed(sequences, 64);
      for (size_t i = begin; i < end; ++i) {
        cosines.push_back(reference::Cosine(vectors[i - begin], golden_.at(rows[i])));
      }
    }
    return cosines;
  }

  static Checkpoint* checkpoint_;
  static std::vector<int> documents_, questions_;  // golden rows
  static std::unordered_map<int, std::vector<int32_t>> sequences_;
  static std::unordered_map<int, std::vector<float>> golden_;
};

Checkpoint* ModelTest::checkpoint_ = nullptr;
std::vector<int> ModelTest::documents_, ModelTest::questions_;
std::unordered_map<int, std::vector<int32_t>> ModelTest::sequences_;
std::unordered_map<int, std::vector<float>> ModelTest::golden_;

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST_F(ModelTest, Float32IsSentenceTransformers) {
  const LoadedModel model = Load(*checkpoint_, "f32", 2);
  for (const std::vector<int>* rows : {&documents_, &questions_}) {
    const std::vector<double> cosines = CosinesToGolden(model, *rows, 8);
    for (size_t i = 0; i < cosines.size(); ++i) {
      EXPECT_GE(cosines[i], 0.99999) << "golden row " << (*rows)[i];
    }
  }
}

// What is known of plain quantization of this model (the issue that improves it raises these).
TEST_F(ModelTest, QuantizedFormatsStayNear) {
  const std::vector<int> documents(documents_.begin(),
                                   documents_.begin() + std::min<size_t>(documents_.size(), 100));
  const LoadedModel int8 = Load(*checkpoint_, "a8w8_int8", 2);
  EXPECT_GE(Mean(CosinesToGolden(int8, documents, 16)), 0.995);
  EXPECT_GE(Mean(CosinesToGolden(int8, questions_, 16)), 0.994);
  const LoadedModel bf16 = Load(*checkpoint_, "bf16", 2);
  EXPECT_GE(Mean(CosinesToGolden(bf16, questions_, 16)), 0.9998);
  const LoadedModel int4 = Load(*checkpoint_, "a16w4_int4", 2);
  EXPECT_GE(Mean(CosinesToGolden(int4, questions_, 16)), 0.96);
}

struct BatchCase {
  const char* format;
  double least_cosine;  // 1: bit-identical
};

class ModelBatchTest : public ModelTest, public ::testing::WithParamInterface<BatchCase> {};

TEST_P(ModelBatchTest, SameAloneAndInAFullBatch) {
  const LoadedModel model = Load(*checkpoint_, GetParam().format, 2);
  const LoadedModel single = Load(*checkpoint_, GetParam().format, 1);
  std::vector<std::vector<int32_t>> sequences;
  for (size_t i = 0; i < 12; ++i) {
    sequences.push_back(sequences_.at(documents_[i]));
    sequences.push_back(sequences_.at(questions_[i]));
  }
  const auto together = model.Embed(sequences, 96);
  for (size_t s = 0; s < sequences.size(); ++s) {
    for (const LoadedModel* other : {&model, &single}) {
      const std::vector<float> alone = other->Embed({sequences[s]}, 32)[0];
      if (GetParam().least_cosine == 1.0) {
        EXPECT_EQ(alone, together[s]) << "text " << s;
      } else {
        EXPECT_GE(reference::Cosine(alone, together[s]), GetParam().least_cosine) << "text " << s;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ModelBatchTest,
                         ::testing::Values(BatchCase{"f32", 0.9999999}, BatchCase{"bf16", 0.9999},
                                           BatchCase{"a8w8_int8", 1.0},
                                           BatchCase{"a16w4_int4", 0.9999}),
                         [](const auto& info) { return std::string(info.param.format); });

}  // namespace
}  // namespace octavo
