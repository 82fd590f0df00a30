// tokenizer.json, read and checked: what a WordPiece tokenizer is, as plain data.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer_added_tokens.h"
#include "runtime/tokenizer_normalizer.h"
#include "runtime/wordpiece.h"

namespace octavo {

struct TokenizerDescription {
  NormalizerOptions normalizer;
  WordPieceOptions model;
  std::vector<AddedToken> added_tokens;
  std::vector<int32_t> ids_before;  // special tokens around a text
  std::vector<int32_t> ids_after;
  int vocabulary_size = 0;  // 1 more than the largest id
};

// Limits: 64 MiB, 64 levels, ids up to ByteTrie::kMaxValue, 65,536 characters a word.
// INVALID_ARGUMENT names the place in the document; UNIMPLEMENTED what is supported there.
absl::StatusOr<TokenizerDescription> ParseTokenizerJson(std::string_view json);

}  // namespace octavo
