// Text to token ids, as the Hugging Face tokenizers library does it, id for id.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

enum class Truncation : uint8_t { kNone, kEnd, kStart };

struct TokenizedText {
  std::vector<int32_t> ids;  // special tokens included
  bool truncated = false;
};

// Thread-safe: immutable after Load.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Encodes valid UTF-8 with the file's special tokens around it. `max_tokens` counts special
  // tokens and is at least 1 more than their number; too long is cut at the end or the start (the
  // special tokens stay), or with kNone is INVALID_ARGUMENT that names both lengths. Work is
  // bounded: with kEnd a text far longer than max_tokens is not tokenized to its end.
  // Text that is not UTF-8 is INVALID_ARGUMENT naming the byte offset.
  virtual absl::StatusOr<TokenizedText> Encode(std::string_view text, int max_tokens,
                                               Truncation truncation) const = 0;

  // Ids without special tokens or limit, appended to `ids` (parity tests, benches). Appends nothing
  // for text that is not UTF-8.
  virtual void EncodeOrdinary(std::string_view text, std::vector<int32_t>* ids) const = 0;

  virtual int vocabulary_size() const = 0;  // 1 more than the largest id
  virtual int special_tokens() const = 0;   // how many Encode adds
};

// Parses the bytes of a tokenizer.json. The file's own truncation and padding are ignored.
// INVALID_ARGUMENT with a path into the document for anything malformed; UNIMPLEMENTED names the
// supported models, normalizers, pre-tokenizers and post-processors for anything not supported.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(std::string_view json);

}  // namespace octavo
