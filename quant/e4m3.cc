// e4m3 with one scale a row.
#include "quant/e4m3.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/codecs.h"

namespace octavo::quant {

void EncodeE4m3(const Encoding&, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float>) {
  float largest = 0.0f;
  for (const float x : row) largest = std::max(largest, std::abs(x));
  scales[0] = std::max(largest / kLargestE4m3, std::numeric_limits<float>::min());
  for (size_t i = 0; i < row.size(); ++i) values[i] = FloatToE4m3(row[i] / scales[0]);
}

void DecodeE4m3(const Encoding&, std::span<const uint8_t> values, std::span<const float> scales,
                std::span<const float>, std::span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) row[i] = E4m3ToFloat(values[i]) * scales[0];
}

}  // namespace octavo::quant
