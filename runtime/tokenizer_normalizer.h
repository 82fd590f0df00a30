// BERT's text normalization as a stream of characters: clean text, Chinese characters, canonical
// decomposition and accents, lower case, in that order, in one pass.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/unicode.h"

namespace octavo {

// All off: text passes unchanged.
struct NormalizerOptions {
  bool clean_text = false;
  bool handle_chinese_characters = false;
  bool strip_accents = false;
  bool lowercase = false;
};

// Feeds the normalized characters of a text to `Sink`, which has
//   void Character(char32_t c, const CharacterClass& character_class);
//   const char* Ascii(const char* p, const char* end);  // takes a run of ASCII, at least one byte,
//                                                       // normalizing it itself
//   bool done() const;                                  // stop early
// One object normalizes any number of texts, one after the other.
template <typename Sink>
class CharacterNormalizer {
 public:
  CharacterNormalizer(const NormalizerOptions& options, Sink* sink)
      : options_(options), sink_(*sink) {}

  // `text` is well-formed UTF-8.
  void Run(std::string_view text) {
    const char* p = text.data();
    const char* const end = p + text.size();
    while (p < end && !sink_.done()) {
      if (static_cast<uint8_t>(*p) < 0x80 && marks_.empty()) {
        p = sink_.Ascii(p, end);
      } else {
        const char32_t c = DecodeUtf8(p);
        Clean(c, ClassOf(c));
      }
    }
    ReleaseMarks();
  }

 private:
  struct OrderedMark {
    char32_t c;
    const CharacterClass* character_class;
  };

  void Clean(char32_t c, const CharacterClass& character_class) {
    if (options_.clean_text && (character_class.flags & (kControl | kCleanSpace)) != 0) {
      if ((character_class.flags & kControl) != 0) return;
      Decompose(U' ', ClassOf(U' '));
      return;
    }
    if (options_.handle_chinese_characters && (character_class.flags & kChinese) != 0) {
      Decompose(U' ', ClassOf(U' '));
      Decompose(c, character_class);
      Decompose(U' ', ClassOf(U' '));
      return;
    }
    Decompose(c, character_class);
  }

  void Decompose(char32_t c, const CharacterClass& character_class) {
    if (!options_.strip_accents) {
      Lower(c, character_class);
    } else if ((character_class.flags & kDecomposes) != 0) {
      int32_t hangul[3];
      for (const int32_t part : Decomposition(c, hangul)) {
        const auto part_character = static_cast<char32_t>(part);
        StripAndOrder(part_character, ClassOf(part_character));
      }
    } else {
      StripAndOrder(c, character_class);
    }
  }

  // Canonical ordering is a stable sort of each run of non-starters, so marks that are stripped
  // can be left out before it. Those that remain are rare.
  void StripAndOrder(char32_t c, const CharacterClass& character_class) {
    if (character_class.rank != 0) {
      if ((character_class.flags & kMark) == 0) marks_.push_back({c, &character_class});
      return;
    }
    if (!marks_.empty()) ReleaseMarks();
    if ((character_class.flags & kMark) == 0) Lower(c, character_class);
  }

  void ReleaseMarks() {
    std::stable_sort(marks_.begin(), marks_.end(), [](const OrderedMark& a, const OrderedMark& b) {
      return a.character_class->rank < b.character_class->rank;
    });
    for (const OrderedMark& mark : marks_) Lower(mark.c, *mark.character_class);
    marks_.clear();
  }

  void Lower(char32_t c, const CharacterClass& character_class) {
    if (!options_.lowercase ||
        (character_class.lower_delta == 0 && (character_class.flags & kLowerExpands) == 0)) {
      sink_.Character(c, character_class);
    } else if ((character_class.flags & kLowerExpands) != 0) {
      for (const int32_t part : LowerExpansion(c)) {
        sink_.Character(static_cast<char32_t>(part), ClassOf(static_cast<char32_t>(part)));
      }
    } else {
      const auto lower =
          static_cast<char32_t>(static_cast<int32_t>(c) + character_class.lower_delta);
      sink_.Character(lower, ClassOf(lower));
    }
  }

  const NormalizerOptions options_;
  Sink& sink_;
  std::vector<OrderedMark> marks_;  // the run of non-starters not yet released
};

// The normalized text, for matching added tokens in it.
std::string NormalizeText(const NormalizerOptions& options, std::string_view text);

}  // namespace octavo
