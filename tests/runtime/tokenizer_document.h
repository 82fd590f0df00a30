// Small tokenizer.json documents, to be changed at will.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/tokenizer.h"

namespace octavo {

// A tokenizer.json of BERT's form with these tokens after "[PAD]" (0), "[UNK]" (1), "[CLS]" (2),
// "[SEP]" (3) and "[MASK]" (4), which are also added tokens; ids count up from 5.
nlohmann::json TokenizerDocument(const std::vector<std::string>& tokens);

// An entry of added_tokens with all flags false.
nlohmann::json AddedTokenEntry(const std::string& content);

// The tokenizer; its document must be a good one.
std::unique_ptr<Tokenizer> Load(const nlohmann::json& document);

// Ids without special tokens.
std::vector<int32_t> Ids(const Tokenizer& tokenizer, const std::string& text);

// The document's tokens for those ids, separated by spaces.
std::string Tokens(const nlohmann::json& document, const std::string& text);

}  // namespace octavo
