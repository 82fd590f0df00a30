#include "tests/runtime/tokenizer_document.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

namespace octavo {

using Json = nlohmann::json;

Json AddedTokenEntry(const std::string& content) {
  return {{"id", 0},         {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", false}};
}

Json TokenizerDocument(const std::vector<std::string>& tokens) {
  Json document = Json::parse(R"({
    "version": "1.0",
    "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 128}},
    "added_tokens": [],
    "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                   "strip_accents": null, "lowercase": true},
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {
      "type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
      "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                         "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
    "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
              "max_input_chars_per_word": 100, "vocab": {}}})");
  Json& vocabulary = document["model"]["vocab"];
  for (const char* token : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    Json entry = AddedTokenEntry(token);
    entry["special"] = true;
    entry["id"] = vocabulary.size();
    document["added_tokens"].push_back(entry);
    vocabulary[token] = vocabulary.size();
  }
  for (const std::string& token : tokens) vocabulary[token] = vocabulary.size();
  return document;
}

std::unique_ptr<Tokenizer> Load(const Json& document) {
  auto tokenizer = LoadTokenizer(document.dump());
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.status().ToString().c_str());
    std::abort();
  }
  return *std::move(tokenizer);
}

std::vector<int32_t> Ids(const Tokenizer& tokenizer, const std::string& text) {
  std::vector<int32_t> ids;
  tokenizer.EncodeOrdinary(text, &ids);
  return ids;
}

std::string Tokens(const Json& document, const std::string& text) {
  std::map<int32_t, std::string> token_of;
  for (const auto& [token, id] : document["model"]["vocab"].items()) token_of[id] = token;
  std::string joined;
  for (const int32_t id : Ids(*Load(document), text)) {
    if (!joined.empty()) joined += ' ';
    joined += token_of.contains(id) ? token_of[id] : std::string("#").append(std::to_string(id));
  }
  return joined;
}

}  // namespace octavo
