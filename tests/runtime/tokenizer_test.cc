// What the tokenizer makes of texts, by hand. That it is the Hugging Face library's result on
// everything else is tokenizer_parity.py's to show.

#include "runtime/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "tests/runtime/tokenizer_document.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

std::string Repeat(const std::string& text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

Json Normalizer(Json document, const Json& options) {
  document["normalizer"].update(options);
  return document;
}

TEST(WordPieceTest, TakesTheLongestPieceFirst) {
  const Json document = TokenizerDocument({"un", "unwant", "##want", "##ed", "##e", "runn", "##d"});
  EXPECT_EQ(Tokens(document, "unwanted"), "unwant ##ed");
  EXPECT_EQ(Tokens(document, "unwantd"), "unwant ##d");
  EXPECT_EQ(Tokens(document, "und"), "un ##d");
}

TEST(WordPieceTest, AWordThatDoesNotFitIsUnknownAsAWhole) {
  const Json document = TokenizerDocument({"un", "##want", "a"});
  EXPECT_EQ(Tokens(document, "unwantx a"), "[UNK] a");
  EXPECT_EQ(Tokens(document, "wantun a"), "[UNK] a");
  // The greedy choice is not taken back: "ab" leaves "c", though "a" and "##bc" would do.
  EXPECT_EQ(Tokens(TokenizerDocument({"a", "ab", "##bc"}), "abc"), "[UNK]");
}

TEST(WordPieceTest, TheContinuationPrefixIsTheFiles) {
  Json document = TokenizerDocument({"un", "@@want", "##want"});
  document["model"]["continuing_subword_prefix"] = "@@";
  EXPECT_EQ(Tokens(document, "unwant"), "un @@want");
  document = TokenizerDocument({"un", "want"});
  document["model"]["continuing_subword_prefix"] = "";
  EXPECT_EQ(Tokens(document, "unwantun"), "un want un");
}

TEST(WordPieceTest, CountsCharactersOfTooLongWords) {
  const Json document = TokenizerDocument({"a", "##a", "д", "##д", "b"});
  EXPECT_EQ(Ids(*Load(document), Repeat("a", 100)).size(), 100u);
  EXPECT_EQ(Tokens(document, Repeat("a", 101)), "[UNK]");
  EXPECT_EQ(Tokens(document, Repeat("a", 5000) + " b" + Repeat("a", 101)), "[UNK] [UNK]");
  EXPECT_EQ(Ids(*Load(document), Repeat("Д", 100)).size(), 100u);
  EXPECT_EQ(Tokens(document, Repeat("Д", 101) + " b"), "[UNK] b");
  // Marks that are stripped do not count, jamo of a decomposed syllable do.
  EXPECT_EQ(Ids(*Load(document), Repeat("a\u0301", 100)).size(), 100u);
  Json none = document;
  none["model"]["max_input_chars_per_word"] = 0;
  EXPECT_EQ(Tokens(none, "a b"), "[UNK] [UNK]");
}

TEST(WordsTest, SpaceSeparatesAndPunctuationStandsAlone) {
  const Json document = TokenizerDocument({"a", "b", "##b", ",", "-", "$", "…", "«"});
  EXPECT_EQ(Tokens(document, "a,b"), "a , b");
  EXPECT_EQ(Tokens(document, "a--b$"), "a - - b $");
  EXPECT_EQ(Tokens(document, "a…b«"), "a … b «");
  EXPECT_EQ(Tokens(document, " \t a\u00a0b\u3000b\n\r"), "a b b");
  EXPECT_EQ(Tokens(document, "ab"), "a ##b");
  EXPECT_EQ(Tokens(document, ""), "");
}

TEST(NormalizerTest, CleansControlCharacters) {
  const Json document = TokenizerDocument({"a", "b", "##b", "##\x01", "##\u200d"});
  EXPECT_EQ(Tokens(document, std::string("a\0b", 3)), "a ##b");
  EXPECT_EQ(Tokens(document,
                   "a\x01\u200d\ufffd\x7f\u00ad"
                   "b"),
            "a ##b");
  const Json kept = Normalizer(document, {{"clean_text", false}});
  EXPECT_EQ(Tokens(kept, "a\x01"), "a ##\x01");
  EXPECT_EQ(Tokens(kept, "a\u200d"), "a ##\u200d");
  EXPECT_EQ(Tokens(kept, std::string("b\0b b", 5)), "[UNK] b");
  EXPECT_EQ(Tokens(kept,
                   "a\x0b"
                   "b"),
            "a b");
}

TEST(NormalizerTest, SetsChineseCharactersApart) {
  const Json document = TokenizerDocument({"中", "文", "a", "##a", "##文", "か", "##な", "豈"});
  EXPECT_EQ(Tokens(document, "a中文a"), "a 中 文 a");
  EXPECT_EQ(Tokens(document, "かな"), "か ##な");
  EXPECT_EQ(Tokens(document, "\uf900"), "豈");  // a compatibility ideograph
  EXPECT_EQ(Tokens(Normalizer(document, {{"handle_chinese_chars", false}}), "中文a"),
            "中 ##文 ##a");
}

TEST(NormalizerTest, StripsAccentsWhenLowercasingUnlessTold) {
  const Json document = TokenizerDocument({"cafe", "café", "cafe\u0301", "Cafe", "Café"});
  EXPECT_EQ(Tokens(document, "Café cafe\u0301"), "cafe cafe");
  EXPECT_EQ(Tokens(Normalizer(document, {{"strip_accents", false}}), "CAFÉ cafe\u0301"),
            "café cafe\u0301");
  EXPECT_EQ(Tokens(Normalizer(document, {{"lowercase", false}}), "Café"), "Café");
  EXPECT_EQ(Tokens(Normalizer(document, {{"lowercase", false}, {"strip_accents", true}}), "Café"),
            "Cafe");
}

TEST(NormalizerTest, LowersEachCharacterByItself) {
  const Json document = TokenizerDocument({"σ", "##α", "##σ", "ß", "i", "i\u0307", "ⅷ"});
  EXPECT_EQ(Tokens(document, "ΣΑΣ"), "σ ##α ##σ");  // no final sigma
  EXPECT_EQ(Tokens(document, "ẞ"), "ß");
  EXPECT_EQ(Tokens(document, "İ"), "i");
  EXPECT_EQ(Tokens(Normalizer(document, {{"strip_accents", false}}), "İ"), "i\u0307");
  EXPECT_EQ(Tokens(document, "Ⅷ"), "ⅷ");
}

TEST(NormalizerTest, DecomposesHangul) {
  const Json document = TokenizerDocument({"\u1112", "##\u1161", "##\u11ab", "한", "하"});
  EXPECT_EQ(Tokens(document, "한"), "\u1112 ##\u1161 ##\u11ab");
  EXPECT_EQ(Tokens(document, "하"), "\u1112 ##\u1161");
  EXPECT_EQ(Tokens(Normalizer(document, {{"strip_accents", false}}), "한"), "한");
}

TEST(NormalizerTest, OrdersTheMarksItKeeps) {
  // U+1D165 (class 216) and U+302E (class 224) are spacing marks, which are not stripped.
  const std::string stem = "\U0001d165", dot = "\u302e";
  const Json document = TokenizerDocument({"a" + stem + dot, "a" + dot, "##x", stem});
  EXPECT_EQ(Tokens(document, "a" + dot + stem), "a" + stem + dot);
  EXPECT_EQ(Tokens(document, "a" + dot + "\u0301" + stem), "a" + stem + dot);
  // A control character is removed before; a space, though it is all that is between, is not.
  EXPECT_EQ(Tokens(document, "a" + dot + "\x02" + stem), "a" + stem + dot);
  EXPECT_EQ(Tokens(document, "a" + dot + " " + stem), "a" + dot + " " + stem);
  EXPECT_EQ(Tokens(document, "a" + dot + "x"), "a" + dot + " ##x");
}

TEST(AddedTokensTest, AreFoundInsideTextAsTheyAre) {
  const Json document = TokenizerDocument({"a", "b", "[", "]", "mask", "##b"});
  EXPECT_EQ(Tokens(document, "a[MASK]b"), "a [MASK] b");
  EXPECT_EQ(Tokens(document, "[MASK][MASK]"), "[MASK] [MASK]");
  EXPECT_EQ(Tokens(document, "[mask]"), "[ mask ]");
  EXPECT_EQ(Tokens(document, "[[MASK]"), "[ [MASK]");
  EXPECT_EQ(Tokens(document, "[MASK"), "[ mask");
}

TEST(AddedTokensTest, TheLongestWins) {
  Json document = TokenizerDocument({"x", "abc", "c"});
  document["added_tokens"].push_back(AddedTokenEntry("abc"));
  document["added_tokens"].push_back(AddedTokenEntry("ab"));
  EXPECT_EQ(Tokens(document, "xabcabc"), "x abc abc");
  EXPECT_EQ(Tokens(document, "xabx"), "x #8 x");  // not in the vocabulary: its size is the next id
}

TEST(AddedTokensTest, DoNotOverlap) {
  Json document = TokenizerDocument({"ab", "aba", "##x", "b", "x"});
  document["added_tokens"].push_back(AddedTokenEntry("aba"));
  EXPECT_EQ(Tokens(document, "ababa"), "aba [UNK]");
  EXPECT_EQ(Tokens(document, "abaaba"), "aba aba");
  document["added_tokens"].back()["single_word"] = true;
  EXPECT_EQ(Tokens(document, "ababab x"), "[UNK] x");  // what is not taken is passed over whole
}

TEST(AddedTokensTest, SingleWord) {
  Json document = TokenizerDocument({"foo", "x", "##foo", "é", "_"});
  Json token = AddedTokenEntry("Foo");
  token["single_word"] = true;
  document["added_tokens"].push_back(token);
  EXPECT_EQ(Tokens(document, "Foo"), "#10");
  EXPECT_EQ(Tokens(document, "x Foo x"), "x #10 x");
  EXPECT_EQ(Tokens(document, "xFoo"), "x ##foo");
  EXPECT_EQ(Tokens(document, "_Foo"), "_ foo");
  EXPECT_EQ(Tokens(document, "Fooé"), "[UNK]");
}

TEST(AddedTokensTest, StripsSpaceBesideIt) {
  Json document = TokenizerDocument({"x"});
  for (const char* flag : {"lstrip", "rstrip"}) {
    Json token = AddedTokenEntry(flag);
    token[flag] = true;
    document["added_tokens"].push_back(token);
  }
  // Without a normalizer a space would be dropped anyway; a token of spaces shows the stripping.
  document["added_tokens"].push_back(AddedTokenEntry("  "));
  EXPECT_EQ(Tokens(document, "x  x"), "x #8 x");
  EXPECT_EQ(Tokens(document, "x \u3000lstrip  x"), "x #6 #8 x");
  EXPECT_EQ(Tokens(document, "x rstrip \u3000\t x"), "x #7 x");
}

TEST(AddedTokensTest, NormalizedTokensAreMatchedInNormalizedText) {
  Json document = TokenizerDocument({"x", "new", "york", "y"});
  Json token = AddedTokenEntry("Néw York");
  token["normalized"] = true;
  document["added_tokens"].push_back(token);
  EXPECT_EQ(Tokens(document, "x NEW YORK y"), "x #9 y");
  EXPECT_EQ(Tokens(document, "x new\tYórk, y"), "x #9 [UNK] y");
  EXPECT_EQ(Tokens(document, "new  york"), "new york");
  EXPECT_EQ(Tokens(document, "new [MASK] york"), "new [MASK] york");
}

TEST(EncodeTest, AddsTheFilesSpecialTokens) {
  Json document = TokenizerDocument({"a", "b"});
  EXPECT_THAT(Load(document)->Encode("a b", 16, Truncation::kEnd)->ids, ElementsAre(2, 5, 6, 3));
  EXPECT_EQ(Load(document)->special_tokens(), 2);
  EXPECT_EQ(Load(document)->vocabulary_size(), 7);
  document["post_processor"] =
      Json::parse(R"({"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 0]})");
  EXPECT_THAT(Load(document)->Encode("a b", 16, Truncation::kEnd)->ids, ElementsAre(0, 5, 6, 4));
  document["post_processor"] = nullptr;
  EXPECT_THAT(Load(document)->Encode("a b", 16, Truncation::kEnd)->ids, ElementsAre(5, 6));
  EXPECT_EQ(Load(document)->special_tokens(), 0);
  document["model"]["vocab"]["far"] = 1000;
  EXPECT_EQ(Load(document)->vocabulary_size(), 1001);
}

TEST(EncodeTest, EmptyTextIsTheSpecialTokens) {
  const auto tokenizer = Load(TokenizerDocument({"a"}));
  const auto encoded = tokenizer->Encode("", 3, Truncation::kNone);
  ASSERT_TRUE(encoded.ok());
  EXPECT_THAT(encoded->ids, ElementsAre(2, 3));
  EXPECT_FALSE(encoded->truncated);
}

TEST(EncodeTest, CutsAtTheEndOrTheStart) {
  const auto tokenizer = Load(TokenizerDocument({"a", "b", "c", "##c"}));
  for (const Truncation truncation : {Truncation::kEnd, Truncation::kStart, Truncation::kNone}) {
    const auto exact = tokenizer->Encode("a b cc", 6, truncation);
    ASSERT_TRUE(exact.ok());
    EXPECT_THAT(exact->ids, ElementsAre(2, 5, 6, 7, 8, 3));
    EXPECT_FALSE(exact->truncated);
  }
  const auto end = tokenizer->Encode("a b cc", 5, Truncation::kEnd);
  EXPECT_THAT(end->ids, ElementsAre(2, 5, 6, 7, 3));  // inside a word
  EXPECT_TRUE(end->truncated);
  const auto start = tokenizer->Encode("a b cc", 3, Truncation::kStart);
  EXPECT_THAT(start->ids, ElementsAre(2, 8, 3));
  EXPECT_TRUE(start->truncated);
  const auto none = tokenizer->Encode("a b cc", 5, Truncation::kNone);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("6 tokens"));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("at most 5"));
}

TEST(EncodeTest, WhatNormalizesToNothingIsNotCut) {
  const auto tokenizer = Load(TokenizerDocument({"a", "b"}));
  const auto encoded = tokenizer->Encode("a b \u0301\x01 \n", 4, Truncation::kEnd);
  EXPECT_THAT(encoded->ids, ElementsAre(2, 5, 6, 3));
  EXPECT_FALSE(encoded->truncated);
  EXPECT_TRUE(tokenizer->Encode("a b[MASK]", 4, Truncation::kEnd)->truncated);
  EXPECT_TRUE(tokenizer->Encode("a b \u0301\x01 \n.", 4, Truncation::kEnd)->truncated);
}

TEST(EncodeTest, ALimitWithoutRoomIsAnError) {
  const auto tokenizer = Load(TokenizerDocument({"a"}));
  for (const int limit : {2, 0, -1, -2147483647}) {
    EXPECT_EQ(tokenizer->Encode("a", limit, Truncation::kEnd).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(tokenizer->Encode("a", 2147483647, Truncation::kEnd)->ids, ElementsAre(2, 5, 3));
}

TEST(EncodeTest, KeepsTheLastTokensOfALongText) {
  std::vector<std::string> tokens;
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  const auto tokenizer = Load(TokenizerDocument(tokens));
  std::string text;
  for (int i = 0; i < 100003; ++i)
    text += std::string(1, static_cast<char>('a' + i * 7 % 26)) + " ";
  const std::vector<int32_t> all = Ids(*tokenizer, text);
  ASSERT_EQ(all.size(), 100003u);
  for (const int limit : {1, 255, 4096, 5000, 100002, 100003}) {
    const auto encoded = tokenizer->Encode(text, limit + 2, Truncation::kStart);
    std::vector<int32_t> expected(all.end() - limit, all.end());
    expected.insert(expected.begin(), 2);
    expected.push_back(3);
    EXPECT_EQ(encoded->ids, expected) << limit;
    EXPECT_EQ(encoded->truncated, limit < 100003) << limit;
  }
  EXPECT_THAT(std::string(tokenizer->Encode(text, 16, Truncation::kNone).status().message()),
              HasSubstr("100005 tokens"));
}

TEST(EncodeTest, TextThatIsNotUtf8NamesTheByte) {
  const auto tokenizer = Load(TokenizerDocument({"a"}));
  const struct {
    std::string text;
    int offset;
  } kCases[] = {
      {"\x80", 0},              // a continuation byte alone
      {"aaaaaaaaa\xff", 9},     //
      {"a\xc3", 1},             // cut short
      {"a\xe4\xb8", 1},         //
      {"a\xf0\x9f\x98", 1},     //
      {"a\xc3(", 1},            //
      {"\xc0\x80", 0},          // overlong
      {"a\xc1\xbf", 1},         //
      {"\xe0\x9f\xbf", 0},      //
      {"\xf0\x8f\xbf\xbf", 0},  //
      {"ab\xed\xa0\x80", 2},    // a surrogate
      {"\xf4\x90\x80\x80", 0},  // beyond U+10FFFF
      {"\xf5\x80\x80\x80", 0},  //
      {"é中😀\xe4\xb8(", 9},     //
  };
  for (const auto& test : kCases) {
    const auto encoded = tokenizer->Encode(test.text, 16, Truncation::kEnd);
    EXPECT_EQ(encoded.status().code(), absl::StatusCode::kInvalidArgument) << test.offset;
    EXPECT_EQ(std::string(encoded.status().message()),
              "not UTF-8 at byte " + std::to_string(test.offset));
    EXPECT_THAT(Ids(*tokenizer, test.text), IsEmpty());
  }
  // Checked to the end, though the text is cut before.
  EXPECT_FALSE(tokenizer->Encode(Repeat("a ", 100) + "\xff", 4, Truncation::kEnd).ok());
  for (const char* good : {"\x7f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff",
                           "\U00010000", "\U0010ffff"}) {
    EXPECT_TRUE(tokenizer->Encode(good, 16, Truncation::kEnd).ok());
  }
}

TEST(EncodeTest, WorkOnATextMuchTooLongIsBounded) {
  const auto tokenizer = Load(TokenizerDocument({"a", "b"}));
  const std::string text = Repeat("abcde fghij. ", 1 << 20);
  const auto seconds = [&](int limit) {
    double best = 1e9;
    for (int i = 0; i < 3; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      EXPECT_TRUE(tokenizer->Encode(text, limit, Truncation::kEnd)->ids.size() > 2);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      best = std::min(best, taken.count());
    }
    return best;
  };
  EXPECT_LT(seconds(256), seconds(1 << 30) / 3);
}

TEST(EncodeTest, ManyThreadsShareOneTokenizer) {
  const auto tokenizer = Load(TokenizerDocument({"a", "b", "##b", "中"}));
  const std::string text = Repeat("ab 中é\u302e\U0001d165 [MASK] ", 50);
  const std::vector<int32_t> expected = Ids(*tokenizer, text);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) EXPECT_EQ(Ids(*tokenizer, text), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace octavo
