// 4-bit integers in groups along a row, symmetric or with a zero point.
#include "quant/int4.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "quant/codecs.h"
#include "quant/half.h"

namespace octavo::quant {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds half to even
constexpr float kSmallestNormalF16 = 0x1p-14f;

void EncodeGroup(std::span<const float> group, float scale, float zero, uint8_t* codes) {
  for (size_t i = 0; i < group.size(); ++i) {
    // Clamped before rounding, which is exact only for small values.
    const float q = std::clamp(group[i] / scale + zero, 0.0f, 15.0f);
    codes[i] = static_cast<uint8_t>((q + kRound) - kRound);
  }
}

}  // namespace

float RoundScale(float scale) {
  if (!(scale < kLargestF16)) return kLargestF16;
  float rounded = F16ToFloat(FloatToF16(scale));
  if (scale < kSmallestNormalF16 && rounded < scale) rounded += kSmallestF16;
  return std::max(rounded, kSmallestF16);
}

float RoundZero(float zero) {
  return F16ToFloat(FloatToF16(std::clamp(zero, -kLargestF16, kLargestF16)));
}

GroupFit FitRange(float low, float high) {
  if (low == high && std::abs(low) >= kSmallestNormalF16) {
    return {.scale = RoundScale(std::abs(low)), .zero = low > 0.0f ? -1.0f : 1.0f};
  }
  const float largest = std::max(std::abs(low), std::abs(high));
  const float scale = RoundScale(std::max((high - low) / 15.0f, largest / 255.0f));
  return {.scale = scale, .zero = RoundZero(-low / scale)};
}

void PackNibbles(std::span<const uint8_t> codes, std::span<uint8_t> bytes) {
  const size_t pairs = codes.size() / 2;
  for (size_t i = 0; i < pairs; ++i) {
    bytes[i] = static_cast<uint8_t>(codes[2 * i] | (codes[2 * i + 1] << 4));
  }
  if (codes.size() % 2 != 0) bytes[pairs] = codes.back();
}

void EncodeInt4(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                std::span<float> scales, std::span<float> zeros) {
  std::vector<uint8_t> codes(row.size());
  const size_t step = static_cast<size_t>(encoding.group_columns);
  for (size_t g = 0, begin = 0; begin < row.size(); ++g, begin += step) {
    const std::span<const float> group = row.subspan(begin, std::min(step, row.size() - begin));
    const auto [low, high] = std::minmax_element(group.begin(), group.end());
    if (encoding.zero == Zero::kNone) {
      scales[g] = RoundScale(std::max(std::abs(*low), std::abs(*high)) / 7.5f);
      EncodeGroup(group, scales[g], 8.0f, &codes[begin]);
    } else {
      const GroupFit fit = FitRange(*low, *high);
      scales[g] = fit.scale;
      zeros[g] = fit.zero;
      EncodeGroup(group, fit.scale, fit.zero, &codes[begin]);
    }
  }
  PackNibbles(codes, values);
}

void DecodeInt4(const Encoding& encoding, std::span<const uint8_t> values,
                std::span<const float> scales, std::span<const float> zeros, std::span<float> row) {
  const size_t step = static_cast<size_t>(encoding.group_columns);
  for (size_t i = 0; i < row.size(); ++i) {
    const int code = i % 2 == 0 ? values[i / 2] & 15 : values[i / 2] >> 4;
    const size_t g = i / step;
    const float zero = encoding.zero == Zero::kNone ? 8.0f : zeros[g];
    row[i] = (static_cast<float>(code) - zero) * scales[g];
  }
}

}  // namespace octavo::quant
