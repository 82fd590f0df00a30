// UTF-8 and the character properties tokenizers depend on, as the Hugging Face tokenizers library
// has them (observed from it by generate_unicode_tables.py; its Unicode versions are mixed).
// All functions are pure and thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace octavo {

enum CharacterFlag : uint16_t {
  kControl = 1,         // removed by BERT's clean_text
  kCleanSpace = 2,      // made a space by BERT's clean_text
  kChinese = 4,         // set apart by BERT's handle_chinese_chars
  kMark = 8,            // removed by BERT's strip_accents
  kWhitespace = 16,     // separates words in BertPreTokenizer
  kPunctuation = 32,    // a word of its own in BertPreTokenizer
  kWordCharacter = 64,  // \w, beside a single-word added token
  kRegexSpace = 128,    // \s, stripped by an added token
  kDecomposes = 256,    // has a canonical decomposition
  kLowerExpands = 512,  // its lower case is more than one code point
};

struct CharacterClass {
  uint16_t flags;
  uint8_t rank;         // order of the canonical combining class; 0: a starter
  int32_t lower_delta;  // lower case minus the code point, unless kLowerExpands
};

namespace unicode_tables {
#include "runtime/unicode_tables.inc"
}

// `c` is at most 0x10FFFF.
inline const CharacterClass& ClassOf(char32_t c) {
  namespace t = unicode_tables;
  const uint32_t block = t::kClassBlocks[c >> t::kClassShift];
  constexpr uint32_t kMask = (1u << t::kClassShift) - 1;
  return t::kClasses[t::kClassIndex[(block << t::kClassShift) | (c & kMask)]];
}

// The full canonical decomposition of a character with kDecomposes, in canonical order. Hangul
// syllables are computed into `hangul`; the result points there or to static storage.
std::span<const int32_t> Decomposition(char32_t c, int32_t (&hangul)[3]);

// The lower case of a character with kLowerExpands. Static storage.
std::span<const int32_t> LowerExpansion(char32_t c);

// The number of bytes before the first that is not part of well-formed UTF-8 (Unicode 15, table
// 3-7: no surrogates, no overlong forms); text.size() if there is none.
size_t ValidUtf8Prefix(std::string_view text);

// Decodes one code point of well-formed UTF-8 and advances `p` past it.
inline char32_t DecodeUtf8(const char*& p) {
  const auto byte = [&](int i) { return static_cast<uint8_t>(p[i]); };
  const uint32_t lead = byte(0);
  char32_t c;
  if (lead < 0x80) {
    c = lead;
    p += 1;
  } else if (lead < 0xE0) {
    c = ((lead & 0x1F) << 6) | (byte(1) & 0x3F);
    p += 2;
  } else if (lead < 0xF0) {
    c = ((lead & 0x0F) << 12) | ((byte(1) & 0x3F) << 6) | (byte(2) & 0x3F);
    p += 3;
  } else {
    c = ((lead & 0x07) << 18) | ((byte(1) & 0x3F) << 12) | ((byte(2) & 0x3F) << 6) |
        (byte(3) & 0x3F);
    p += 4;
  }
  return c;
}

// Writes `c` as UTF-8 to `out`, which has room for 4 bytes; returns the bytes written.
inline int EncodeUtf8(char32_t c, char* out) {
  if (c < 0x80) {
    out[0] = static_cast<char>(c);
    return 1;
  }
  if (c < 0x800) {
    out[0] = static_cast<char>(0xC0 | (c >> 6));
    out[1] = static_cast<char>(0x80 | (c & 0x3F));
    return 2;
  }
  if (c < 0x10000) {
    out[0] = static_cast<char>(0xE0 | (c >> 12));
    out[1] = static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out[2] = static_cast<char>(0x80 | (c & 0x3F));
    return 3;
  }
  out[0] = static_cast<char>(0xF0 | (c >> 18));
  out[1] = static_cast<char>(0x80 | ((c >> 12) & 0x3F));
  out[2] = static_cast<char>(0x80 | ((c >> 6) & 0x3F));
  out[3] = static_cast<char>(0x80 | (c & 0x3F));
  return 4;
}

}  // namespace octavo
