// int8 with one symmetric scale a row.
#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/codecs.h"

namespace octavo::quant {

void EncodeInt8(const Encoding&, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float>) {
  float largest = 0.0f;
  for (const float x : row) largest = std::max(largest, std::abs(x));
  const float scale = std::max(largest / 127.0f, std::numeric_limits<float>::min());
  scales[0] = scale;
  // Adding and taking away 1.5 * 2^23 rounds half to even without a library call.
  constexpr float kRound = 12582912.0f;
  for (size_t i = 0; i < row.size(); ++i) {
    const float q = (row[i] / scale + kRound) - kRound;
    values[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(q, -127.0f, 127.0f)));
  }
}

void DecodeInt8(const Encoding&, std::span<const uint8_t> values, std::span<const float> scales,
                std::span<const float>, std::span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<float>(static_cast<int8_t>(values[i])) * scales[0];
  }
}

}  // namespace octavo::quant
