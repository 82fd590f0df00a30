#include "runtime/tokenizer_trie.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr size_t kBlock = 256;
// Free slots are sought in the last blocks only, which bounds the time to build.
constexpr size_t kOpenBlocks = 16;

}  // namespace

class ByteTrie::Builder {
 public:
  explicit Builder(std::vector<uint64_t>* units) : units_(*units) {
    // Block 0 holds the roots and nothing else: states without children have base 0, and no label
    // leads to a root.
    AddBlock();
    open_ = kBlock;
  }

  bool Add(int root, const Entries& entries) {
    struct Range {
      size_t state, first, last, depth;
    };
    std::vector<Range> ranges;
    if (!entries.empty()) ranges.push_back({static_cast<size_t>(root), 0, entries.size(), 0});
    std::vector<uint8_t> labels;
    std::vector<size_t> starts;
    while (!ranges.empty()) {
      const Range range = ranges.back();
      ranges.pop_back();
      size_t first = range.first;
      if (entries[first].first.size() == range.depth) {
        units_[range.state] |= static_cast<uint64_t>(entries[first].second + 1) << kValueShift;
        ++first;
      }
      labels.clear();
      starts.clear();
      for (size_t i = first; i < range.last; ++i) {
        const auto label = static_cast<uint8_t>(entries[i].first[range.depth]);
        if (labels.empty() || labels.back() != label) {
          labels.push_back(label);
          starts.push_back(i);
        }
      }
      if (labels.empty()) continue;
      starts.push_back(range.last);
      const size_t base = FreeBase(labels);
      if (base > kBaseMask) return false;
      units_[range.state] |= static_cast<uint64_t>(base) << kBaseShift;
      for (size_t i = 0; i < labels.size(); ++i) {
        units_[base ^ labels[i]] = kUsed | labels[i];
        ranges.push_back({base ^ labels[i], starts[i], starts[i + 1], range.depth + 1});
      }
    }
    return true;
  }

 private:
  void AddBlock() {
    units_.resize(units_.size() + kBlock, 0);
    base_taken_.resize(units_.size(), false);
  }

  bool Fits(size_t base, const std::vector<uint8_t>& labels) const {
    if (base_taken_[base]) return false;
    return std::all_of(labels.begin(), labels.end(),
                       [&](uint8_t label) { return units_[base ^ label] == 0; });
  }

  // A base whose children's slots are free, in the open blocks or else in a new one.
  size_t FreeBase(const std::vector<uint8_t>& labels) {
    while (open_ < units_.size() && units_[open_] != 0) ++open_;
    if (units_.size() > (kOpenBlocks + 1) * kBlock) {
      open_ = std::max(open_, units_.size() - kOpenBlocks * kBlock);
    }
    for (size_t slot = open_; slot < units_.size(); ++slot) {
      if (units_[slot] != 0) continue;
      const size_t base = slot ^ labels[0];
      if (Fits(base, labels)) {
        base_taken_[base] = true;
        return base;
      }
    }
    const size_t base = units_.size();
    AddBlock();
    base_taken_[base] = true;
    return base;
  }

  std::vector<uint64_t>& units_;
  std::vector<bool> base_taken_;
  size_t open_;  // no slot before this one is free, or it is no longer sought
};

bool ByteTrie::Build(const std::vector<Entries>& tries) {
  units_.clear();
  Builder builder(&units_);
  if (tries.size() > kMaxRoots) return false;
  for (size_t root = 0; root < tries.size(); ++root) {
    if (!builder.Add(static_cast<int>(root), tries[root])) return false;
  }
  return true;
}

std::optional<int32_t> ByteTrie::Find(int root, std::string_view key) const {
  uint64_t unit = units_[root];
  for (const char c : key) {
    const uint64_t label = static_cast<uint8_t>(c);
    unit = units_[Base(unit) ^ label];
    if ((unit & kLabelMask) != (label | kUsed)) return std::nullopt;
  }
  const uint64_t value = unit >> kValueShift;
  if (value == 0) return std::nullopt;
  return static_cast<int32_t>(value) - 1;
}

}  // namespace octavo
