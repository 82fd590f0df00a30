// WordPiece (Y. Wu et al., 2016, section 4.1; BERT's greedy form): a word is the longest entry of
// the vocabulary it begins with, then the longest continuations, or else the unknown token.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer_trie.h"

namespace octavo {

struct WordPieceOptions {
  // Sorted by token (unsigned bytes), no repeats; ids in [0, ByteTrie::kMaxValue].
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  std::string unknown_token;
  std::string continuing_subword_prefix;
  // Words of more characters are unknown.
  int max_characters_per_word = 0;
};

// Immutable; thread-safe.
class WordPiece {
 public:
  static absl::StatusOr<WordPiece> Create(const WordPieceOptions& options);

  // Appends the ids of a word of at most max_characters_per_word characters, not empty.
  void Tokenize(const char* begin, const char* end, std::vector<int32_t>* ids) const {
    const size_t before = ids->size();
    int root = kWordStart;
    do {
      const ByteTrie::Match match = trie_.LongestPrefix(root, begin, end);
      if (match.value < 0) {
        ids->resize(before);
        ids->push_back(unknown_id_);
        return;
      }
      ids->push_back(match.value);
      begin += match.length;
      root = kContinuation;
    } while (begin < end);
  }

  int32_t unknown_id() const { return unknown_id_; }
  int max_characters_per_word() const { return max_characters_per_word_; }
  std::optional<int32_t> Find(std::string_view token) const {
    return trie_.Find(kWordStart, token);
  }

 private:
  static constexpr int kWordStart = 0;     // root of the trie of all entries
  static constexpr int kContinuation = 1;  // root of those with the prefix, which is cut off

  WordPiece() = default;
  ByteTrie trie_;
  int32_t unknown_id_ = 0;
  int max_characters_per_word_ = 0;
};

}  // namespace octavo
