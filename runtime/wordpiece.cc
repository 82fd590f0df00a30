#include "runtime/wordpiece.h"

#include "absl/strings/str_cat.h"

namespace octavo {

absl::StatusOr<WordPiece> WordPiece::Create(const WordPieceOptions& options) {
  const std::string_view prefix = options.continuing_subword_prefix;
  std::vector<ByteTrie::Entries> tries(2);
  for (const auto& [token, id] : options.vocabulary) {
    const std::string_view text = token;
    if (text.empty()) continue;  // no part of a word is empty
    tries[kWordStart].emplace_back(text, id);
    if (text.size() > prefix.size() && text.substr(0, prefix.size()) == prefix) {
      tries[kContinuation].emplace_back(text.substr(prefix.size()), id);
    }
  }
  WordPiece result;
  if (!result.trie_.Build(tries)) {
    return absl::InvalidArgumentError("model.vocab: the vocabulary is too large");
  }
  const std::optional<int32_t> unknown = result.Find(options.unknown_token);
  if (!unknown.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.unk_token: \"", options.unknown_token, "\" is not in model.vocab"));
  }
  result.unknown_id_ = *unknown;
  result.max_characters_per_word_ = options.max_characters_per_word;
  return result;
}

}  // namespace octavo
