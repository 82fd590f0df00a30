// The Tokenizer of BERT's family: added tokens, BERT normalization, words, WordPiece.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer.h"
#include "runtime/tokenizer_added_tokens.h"
#include "runtime/tokenizer_json.h"
#include "runtime/tokenizer_normalizer.h"
#include "runtime/wordpiece.h"

namespace octavo {

// What normalization and word splitting make of each byte of ASCII, looked up on the hot path.
struct AsciiTable {
  enum Kind : uint8_t { kWord, kSpace, kPunctuation, kDropped, kOther, kNotAscii };
  std::array<Kind, 256> kind;
  std::array<char, 256> normalized;  // of kWord: never 0; 0 for all others

  explicit AsciiTable(const NormalizerOptions& options);
};

class WordPieceTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(TokenizerDescription description);

  absl::StatusOr<TokenizedText> Encode(std::string_view text, int max_tokens,
                                       Truncation truncation) const override;
  void EncodeOrdinary(std::string_view text, std::vector<int32_t>* ids) const override;
  int vocabulary_size() const override { return vocabulary_size_; }
  int special_tokens() const override {
    return static_cast<int>(ids_before_.size() + ids_after_.size());
  }

 private:
  class WordSink;

  WordPieceTokenizer(const TokenizerDescription& description, WordPiece model,
                     AddedTokenMatcher raw_tokens, AddedTokenMatcher normalized_tokens);
  void EncodeText(std::string_view text, WordSink* sink) const;
  void EncodeBetweenTokens(std::string_view text, WordSink* sink) const;

  const NormalizerOptions normalizer_;
  const WordPiece model_;
  const AddedTokenMatcher raw_tokens_;         // matched in the text as it came
  const AddedTokenMatcher normalized_tokens_;  // matched in the normalized text
  const std::vector<int32_t> ids_before_;
  const std::vector<int32_t> ids_after_;
  const int vocabulary_size_;
  const AsciiTable ascii_;             // with normalizer_
  const AsciiTable normalized_ascii_;  // for text that is normalized already
};

}  // namespace octavo
