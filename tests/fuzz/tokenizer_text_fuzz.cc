// Any bytes as a text, for tokenizers with every kind of added token and normalization: cutting
// must give the ids of the whole text, cut; errors come for what is not UTF-8 and nothing else.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer.h"

namespace {

using octavo::Tokenizer;
using octavo::Truncation;

std::unique_ptr<Tokenizer> Make(const std::string& normalizer) {
  const std::string json = R"({"added_tokens": [
      {"id": 0, "content": "[MASK]", "single_word": false, "lstrip": true, "rstrip": false,
       "normalized": false, "special": true},
      {"id": 0, "content": "Ab", "single_word": true, "lstrip": false, "rstrip": true,
       "normalized": true, "special": false},
      {"id": 0, "content": "abé", "single_word": false, "lstrip": true, "rstrip": true,
       "normalized": true, "special": false}],
    "normalizer": )" + normalizer +
                           R"(, "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 2]},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
      "max_input_chars_per_word": 7, "vocab": {"[UNK]": 0, "[SEP]": 1, "[CLS]": 2, "a": 3, "b": 4,
      "##a": 5, "##b": 6, "##ba": 7, "##é": 8, "##e": 9, "中": 10, ",": 11, "abab": 12,
      "ᄒ": 13, "##ᅡ": 14, "##\u0001": 15, "##〮": 16}}})";
  auto tokenizer = octavo::LoadTokenizer(json);
  if (!tokenizer.ok()) std::abort();
  return *std::move(tokenizer);
}

void Check(const Tokenizer& tokenizer, std::string_view text, int limit) {
  std::vector<int32_t> all;
  tokenizer.EncodeOrdinary(text, &all);
  const auto whole = tokenizer.Encode(text, 1 << 30, Truncation::kNone);
  if (!whole.ok()) {
    if (!all.empty() || tokenizer.Encode(text, 1 << 30, Truncation::kEnd).ok()) std::abort();
    return;
  }
  if (whole->ids.size() != all.size() + 2) std::abort();
  const size_t kept = std::min(all.size(), static_cast<size_t>(limit));
  const auto end = tokenizer.Encode(text, limit + 2, Truncation::kEnd);
  const auto start = tokenizer.Encode(text, limit + 2, Truncation::kStart);
  if (!end.ok() || !start.ok()) std::abort();
  const bool truncated = all.size() > kept;
  if (end->truncated != truncated || start->truncated != truncated) std::abort();
  if (end->ids.size() != kept + 2 || start->ids.size() != kept + 2) std::abort();
  if (!std::equal(all.begin(), all.begin() + kept, end->ids.begin() + 1)) std::abort();
  if (!std::equal(all.end() - kept, all.end(), start->ids.begin() + 1)) std::abort();
  if (tokenizer.Encode(text, limit + 2, Truncation::kNone).ok() == truncated) std::abort();
  for (const int32_t id : whole->ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::unique_ptr<Tokenizer> kTokenizers[] = {
      Make("null"),
      Make(R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
               "strip_accents": null, "lowercase": true})"),
      Make(R"({"type": "BertNormalizer", "clean_text": false, "handle_chinese_chars": true,
               "strip_accents": true, "lowercase": false})")};
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  for (const auto& tokenizer : kTokenizers) Check(*tokenizer, text, 1 + data[0] % 16);
  return 0;
}
