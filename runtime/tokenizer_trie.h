// A trie over byte strings, as a double array (J. Aoe, 1989), for longest-match lookups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace octavo {

// Several tries may share one array, each with a root of its own. Immutable after Build;
// thread-safe.
class ByteTrie {
 public:
  static constexpr int32_t kMaxValue = (1 << 24) - 1;
  static constexpr int kMaxRoots = 16;

  // Sorted by key (unsigned bytes), without repeats or empty keys; values in [0, kMaxValue].
  using Entries = std::vector<std::pair<std::string_view, int32_t>>;

  // One trie for each element of `tries`, whose root is its index. False if the array would
  // outgrow its 30-bit offsets.
  bool Build(const std::vector<Entries>& tries);

  struct Match {
    int32_t value = -1;  // -1: no key is a prefix of the text
    size_t length = 0;
  };
  // The longest key of trie `root` that is a prefix of [begin, end).
  Match LongestPrefix(int root, const char* begin, const char* end) const {
    uint64_t unit = units_[root];
    uint64_t best = 0;
    const char* best_end = begin;
    for (const char* p = begin; p < end; ++p) {
      const uint64_t label = static_cast<uint8_t>(*p);
      unit = units_[Base(unit) ^ label];
      if ((unit & kLabelMask) != (label | kUsed)) break;
      if ((unit >> kValueShift) != 0) {
        best = unit;
        best_end = p + 1;
      }
    }
    return {static_cast<int32_t>(best >> kValueShift) - 1, static_cast<size_t>(best_end - begin)};
  }

  // The value of exactly this key.
  std::optional<int32_t> Find(int root, std::string_view key) const;

 private:
  // A unit: bits 0-7 the label that leads here, bit 8 set if in use, bits 9-38 the base (a child's
  // index is base ^ label; no two states share a base), bits 39-63 the key's value + 1 or 0.
  static constexpr uint64_t kUsed = 0x100;
  static constexpr uint64_t kLabelMask = 0x1FF;
  static constexpr int kBaseShift = 9;
  static constexpr uint64_t kBaseMask = (uint64_t{1} << 30) - 1;
  static constexpr int kValueShift = 39;

  static uint64_t Base(uint64_t unit) { return (unit >> kBaseShift) & kBaseMask; }

  class Builder;
  std::vector<uint64_t> units_;
};

}  // namespace octavo
