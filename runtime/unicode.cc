#include "runtime/unicode.h"

#include <cstring>

namespace octavo {
namespace {

namespace t = unicode_tables;

constexpr char32_t kHangulFirst = 0xAC00;
constexpr char32_t kHangulLast = 0xD7A3;
constexpr int kHangulVowels = 21;
constexpr int kHangulTails = 28;

std::span<const int32_t> Expansion(int index) {
  const int32_t* stored = t::kExpansions + index;
  return {stored + 1, static_cast<size_t>(stored[0])};
}

}  // namespace

std::span<const int32_t> Decomposition(char32_t c, int32_t (&hangul)[3]) {
  if (c >= kHangulFirst && c <= kHangulLast) {  // Unicode 15, section 3.12
    const int syllable = static_cast<int>(c - kHangulFirst);
    const int tail = syllable % kHangulTails;
    hangul[0] = 0x1100 + syllable / (kHangulVowels * kHangulTails);
    hangul[1] = 0x1161 + syllable / kHangulTails % kHangulVowels;
    hangul[2] = 0x11A7 + tail;
    return {hangul, tail == 0 ? size_t{2} : size_t{3}};
  }
  const uint32_t block = t::kDecompositionBlocks[c >> t::kDecompositionShift];
  constexpr uint32_t kMask = (1u << t::kDecompositionShift) - 1;
  return Expansion(t::kDecompositionIndex[(block << t::kDecompositionShift) | (c & kMask)]);
}

std::span<const int32_t> LowerExpansion(char32_t c) {
  for (const auto& row : t::kLowerExpansions) {
    if (static_cast<char32_t>(row[0]) == c) return Expansion(row[1]);
  }
  return {};
}

size_t ValidUtf8Prefix(std::string_view text) {
  const auto* const begin = reinterpret_cast<const uint8_t*>(text.data());
  const uint8_t* const end = begin + text.size();
  const uint8_t* p = begin;
  while (p < end) {
    uint64_t word;
    while (end - p >= 8) {  // runs of ASCII, eight bytes at a time
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080u) != 0) break;
      p += 8;
    }
    if (p == end) break;
    const uint8_t lead = *p;
    if (lead < 0x80) {
      ++p;
      continue;
    }
    // The second byte's range depends on the lead byte; the others are 80..BF.
    int length;
    uint8_t low = 0x80, high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      length = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      length = 3;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      length = 4;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      break;
    }
    if (end - p < length || p[1] < low || p[1] > high) break;
    if (length > 2 && (p[2] & 0xC0) != 0x80) break;
    if (length > 3 && (p[3] & 0xC0) != 0x80) break;
    p += length;
  }
  return static_cast<size_t>(p - begin);
}

}  // namespace octavo
