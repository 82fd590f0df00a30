// Malformed and unsupported tokenizer.json files: an error that says where, never a crash.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "runtime/tokenizer.h"
#include "tests/runtime/tokenizer_document.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Good() { return TokenizerDocument({"a", "b", "##b"}); }

struct Case {
  std::string name;
  std::function<void(Json&)> change;
  std::string message;  // part of the error
};

void ExpectErrors(const std::vector<Case>& cases, absl::StatusCode code) {
  for (const Case& test : cases) {
    Json document = Good();
    test.change(document);
    const auto tokenizer = LoadTokenizer(document.dump());
    EXPECT_EQ(tokenizer.status().code(), code) << test.name << ": " << tokenizer.status();
    EXPECT_THAT(std::string(tokenizer.status().message()), HasSubstr(test.message)) << test.name;
  }
}

// Sets the value at a JSON pointer.
std::function<void(Json&)> Set(const std::string& pointer, Json value) {
  return [=](Json& document) { document[Json::json_pointer(pointer)] = value; };
}

std::function<void(Json&)> Erase(const std::string& parent, const std::string& name) {
  return [=](Json& document) { document[Json::json_pointer(parent)].erase(name); };
}

TEST(TokenizerJsonTest, TheGoodDocumentLoads) { EXPECT_TRUE(LoadTokenizer(Good().dump()).ok()); }

TEST(TokenizerJsonTest, TheFilesTruncationAndPaddingAreIgnored) {
  Json document = Good();
  document["truncation"] = "nonsense";
  document["padding"] = Json::array({1, 2});
  document["decoder"] = Json::array();
  const auto tokenizer = Load(document);
  EXPECT_EQ(tokenizer->Encode("a a a a a a a a", 64, Truncation::kNone)->ids.size(), 10u);
}

TEST(TokenizerJsonTest, MalformedFieldsAreNamed) {
  ExpectErrors(
      {
          {"version", Set("/version", "2.0"), "version: must be \"1.0\""},
          {"no model", Erase("", "model"), "model: must be an object"},
          {"model", Set("/model", 3), "model: must be an object"},
          {"type", Set("/model/type", 3), "model.type: must be a string"},
          {"unknown", Erase("/model", "unk_token"), "model.unk_token: must be a string"},
          {"unknown", Set("/model/unk_token", "[NO]"), "\"[NO]\" is not in model.vocab"},
          {"unknown", Set("/model/unk_token", ""), "model.unk_token"},
          {"prefix", Set("/model/continuing_subword_prefix", nullptr),
           "model.continuing_subword_prefix: must be a string"},
          {"characters", Set("/model/max_input_chars_per_word", -1),
           "model.max_input_chars_per_word: must be an integer from 0 to"},
          {"characters", Set("/model/max_input_chars_per_word", 1e9), "must be an integer"},
          {"characters", Set("/model/max_input_chars_per_word", 65537), "from 0 to 65536"},
          {"vocabulary", Erase("/model", "vocab"), "model.vocab: must be an object"},
          {"vocabulary", Set("/model/vocab", Json::array({"a"})), "model.vocab: must be an object"},
          {"empty", Set("/model/vocab", Json::object()), "model.vocab: is empty"},
          {"negative", Set("/model/vocab/a", -1), "the id of \"a\" must be an integer"},
          {"large", Set("/model/vocab/a", 16777216), "the id of \"a\" must be an integer"},
          {"huge", Set("/model/vocab/a", 18446744073709551615u), "the id of \"a\""},
          {"fraction", Set("/model/vocab/a", 1.5), "the id of \"a\" must be an integer"},
          {"text", Set("/model/vocab/a", "1"), "the id of \"a\" must be an integer"},
          {"normalizer", Set("/normalizer", "BertNormalizer"), "normalizer: must be an object"},
          {"clean", Erase("/normalizer", "clean_text"),
           "normalizer.clean_text: must be true or false"},
          {"accents", Set("/normalizer/strip_accents", 1), "normalizer.strip_accents"},
          {"lowercase", Set("/normalizer/lowercase", nullptr), "normalizer.lowercase"},
          {"added tokens", Set("/added_tokens", Json::object()), "added_tokens: must be an array"},
          {"entry", Set("/added_tokens/1", 7), "added_tokens[1]: must be an object"},
          {"content", Erase("/added_tokens/2", "content"), "added_tokens[2].content"},
          {"flag", Erase("/added_tokens/2", "lstrip"), "added_tokens[2].lstrip"},
          {"id", Set("/added_tokens/0/id", -4), "added_tokens[0].id"},
          {"pieces", Set("/post_processor/single", 1), "post_processor.single: must be an array"},
          {"piece", Set("/post_processor/single/0", 1), "post_processor.single[0]"},
          {"no sequence", Set("/post_processor/single", Json::array()), "the sequence \"A\" once"},
          {"sequence B", Set("/post_processor/single/1/Sequence/id", "B"), "no sequence but \"A\""},
          {"twice", Set("/post_processor/single/0", Good()["post_processor"]["single"][1]),
           "the sequence \"A\" once"},
          {"unknown special", Set("/post_processor/single/0/SpecialToken/id", "[X]"),
           "post_processor.special_tokens.[X]"},
          {"ids", Set("/post_processor/special_tokens/[SEP]/ids", "3"), "must be an array"},
          {"id", Set("/post_processor/special_tokens/[SEP]/ids/0", -3), "must be an integer"},
          {"beyond", Set("/post_processor/special_tokens/[SEP]/ids/0", 8), "beyond the vocabulary"},
          {"pair", Set("/post_processor", Json::parse(R"({"type": "BertProcessing", "sep": [3],
                                                          "cls": ["[CLS]", 2]})")),
           "post_processor.sep"},
      },
      absl::StatusCode::kInvalidArgument);
}

TEST(TokenizerJsonTest, WhatIsNotSupportedSaysWhatIs) {
  ExpectErrors(
      {
          {"model", Set("/model/type", "BPE"), "model: \"BPE\" is not supported; supported: WordP"},
          {"model", Erase("/model", "type"), "supported: WordPiece"},
          {"normalizer", Set("/normalizer/type", "NFKC"), "supported: BertNormalizer"},
          {"pre-tokenizer", Set("/pre_tokenizer/type", "Metaspace"), "supported: BertPreTokenizer"},
          {"pre-tokenizer", Set("/pre_tokenizer", nullptr), "supported: BertPreTokenizer"},
          {"post-processor", Set("/post_processor/type", "ByteLevel"),
           "supported: TemplateProcessing, BertProcessing"},
      },
      absl::StatusCode::kUnimplemented);
}

TEST(TokenizerJsonTest, AddedTokensMustDifferOnceNormalized) {
  Json document = Good();
  for (const char* content : {"Éa", "ea"}) {
    Json token = AddedTokenEntry(content);
    token["normalized"] = true;
    document["added_tokens"].push_back(token);
  }
  EXPECT_EQ(LoadTokenizer(document.dump()).status().code(), absl::StatusCode::kInvalidArgument);
  document = Good();
  Json token = AddedTokenEntry("\u0301");
  token["normalized"] = true;
  document["added_tokens"].push_back(token);
  EXPECT_THAT(std::string(LoadTokenizer(document.dump()).status().message()),
              HasSubstr("empty once normalized"));
}

TEST(TokenizerJsonTest, RepeatedIdsAndTokensAreTakenAsTheLibraryDoes) {
  Json document = Good();
  document["model"]["vocab"]["b"] = document["model"]["vocab"]["a"];
  document["added_tokens"].push_back(document["added_tokens"][4]);
  document["added_tokens"].push_back(AddedTokenEntry(""));
  EXPECT_EQ(Ids(*Load(document), "a b[MASK]"), (std::vector<int32_t>{5, 5, 4}));
}

TEST(TokenizerJsonTest, EveryTruncatedFileIsAnError) {
  const std::string json = Good().dump();
  for (size_t size = 0; size < json.size(); ++size) {
    EXPECT_EQ(LoadTokenizer(json.substr(0, size)).status().code(),
              absl::StatusCode::kInvalidArgument)
        << size;
  }
}

TEST(TokenizerJsonTest, HostileDocuments) {
  const std::string json = Good().dump();
  const std::string deep(1000000, '[');
  for (const std::string& text :
       {std::string("null"), std::string("[]"), std::string("1e999"), std::string("\"\xff\""),
        std::string("{\"model\": 1e400}"), std::string("{\"a\": \"\\ud800\"}"), deep,
        deep + std::string(1000000, ']'), "{\"added_tokens\":" + deep, json + "}", json + json}) {
    EXPECT_EQ(LoadTokenizer(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text.substr(0, 50);
  }
  EXPECT_THAT(std::string(LoadTokenizer(deep).status().message()), HasSubstr("nested deeper"));
  const std::string large(size_t{65} << 20, ' ');
  EXPECT_THAT(std::string(LoadTokenizer(large).status().message()), HasSubstr("bytes, at most"));
  // Brackets inside a string are no nesting.
  Json brackets = Good();
  brackets["model"]["vocab"][std::string(1000, '[') + "\"\\"] = 8;
  EXPECT_TRUE(LoadTokenizer(brackets.dump()).ok());
}

}  // namespace
}  // namespace octavo
