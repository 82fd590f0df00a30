// Added tokens: texts such as "[MASK]" that are found before (or after) normalization and never
// split.
#pragma once

#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizer_trie.h"

namespace octavo {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;  // not beside a word character (\w)
  bool left_strip = false;   // swallows white space before it
  bool right_strip = false;  // and after it
  bool normalized = false;   // is matched in the normalized text, in its normalized form
  bool special = false;
};

// Finds added tokens in a text: leftmost first, then longest. Immutable; thread-safe.
class AddedTokenMatcher {
 public:
  // Contents must differ and not be empty.
  static absl::StatusOr<AddedTokenMatcher> Create(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // Calls text_between(std::string_view) and token(int32_t id) in the order of `text`; either
  // returns false to stop.
  template <typename TextBetween, typename Token>
  void Split(std::string_view text, TextBetween text_between, Token token) const {
    size_t position = 0;  // all before is dealt with
    size_t search = 0;
    while (!tokens_.empty()) {
      const Found found = Next(text, search);
      if (found.token == nullptr) break;
      search = found.end;
      size_t start = found.start;
      size_t stop = found.end;
      if (found.token->single_word && BesideWordCharacter(text, start, stop)) continue;
      if (found.token->left_strip) {
        start = start > position ? SpaceBefore(text, start, position) : position;
      }
      if (found.token->right_strip) stop = SpaceAfter(text, stop);
      if (position < start && !text_between(text.substr(position, start - position))) return;
      if (!token(found.token->id)) return;
      position = stop;
    }
    if (position < text.size()) text_between(text.substr(position));
  }

 private:
  struct Found {
    const AddedToken* token = nullptr;  // null: none
    size_t start = 0;
    size_t end = 0;
  };

  AddedTokenMatcher() = default;
  Found Next(std::string_view text, size_t from) const;
  static bool BesideWordCharacter(std::string_view text, size_t start, size_t stop);
  // The start of the white space that ends at `end`, at least `from`.
  static size_t SpaceBefore(std::string_view text, size_t end, size_t from);
  static size_t SpaceAfter(std::string_view text, size_t start);

  std::vector<AddedToken> tokens_;
  ByteTrie trie_;  // content to index in tokens_
  std::bitset<256> first_bytes_;
  int only_first_byte_ = -1;  // if all begin with the same byte
};

}  // namespace octavo
