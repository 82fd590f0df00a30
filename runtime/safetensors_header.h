// The JSON header of a safetensors file, as it stands in the file: not yet checked against types,
// shapes or the data.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

inline constexpr uint64_t kMaxHeaderBytes = 16 << 20;
inline constexpr size_t kMaxTensors = 100'000;
inline constexpr size_t kMaxDimensions = 8;

struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // data_offsets
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> entries;  // in the file's order
  std::map<std::string, std::string, std::less<>> metadata;
};

// Accepts exactly {"NAME": {"dtype": string, "shape": [unsigned...], "data_offsets": [unsigned,
// unsigned]}, ..., "__metadata__": {string: string}}. INVALID_ARGUMENT for anything else: other
// fields, a field given twice, deeper nesting, more than kMaxTensors or kMaxDimensions. Names may
// repeat here. Work and memory are linear in the text.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json);

// A name from a file, quoted for a message: escaped, and cut where it is long.
std::string QuoteName(std::string_view name);

}  // namespace octavo
