// f32, f16 and bf16: values stored as themselves.
#include <cstring>

#include "quant/codecs.h"
#include "quant/half.h"

namespace octavo::quant {

void EncodeF32(const Encoding&, std::span<const float> row, std::span<uint8_t> values,
               std::span<float>, std::span<float>) {
  std::memcpy(values.data(), row.data(), row.size_bytes());
}

void DecodeF32(const Encoding&, std::span<const uint8_t> values, std::span<const float>,
               std::span<const float>, std::span<float> row) {
  std::memcpy(row.data(), values.data(), row.size_bytes());
}

void EncodeF16(const Encoding&, std::span<const float> row, std::span<uint8_t> values,
               std::span<float>, std::span<float>) {
  for (size_t i = 0; i < row.size(); ++i) {
    const uint16_t half = FloatToF16(row[i]);
    std::memcpy(&values[2 * i], &half, 2);
  }
}

void DecodeF16(const Encoding&, std::span<const uint8_t> values, std::span<const float>,
               std::span<const float>, std::span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, &values[2 * i], 2);
    row[i] = F16ToFloat(half);
  }
}

void EncodeBf16(const Encoding&, std::span<const float> row, std::span<uint8_t> values,
                std::span<float>, std::span<float>) {
  for (size_t i = 0; i < row.size(); ++i) {
    const uint16_t half = FloatToBf16(row[i]);
    std::memcpy(&values[2 * i], &half, 2);
  }
}

void DecodeBf16(const Encoding&, std::span<const uint8_t> values, std::span<const float>,
                std::span<const float>, std::span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) {
    uint16_t half;
    std::memcpy(&half, &values[2 * i], 2);
    row[i] = Bf16ToFloat(half);
  }
}

}  // namespace octavo::quant
