#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/linear_a8w8_int8.h"
#include "kernels/cpu/linear_panels.h"
#include "kernels/cpu/linear_rows.h"

namespace octavo::cpu {
namespace {

struct FreeMemory {
  void operator()(uint8_t* memory) const { std::free(memory); }
};

// The weight with its storage: scales, then panels, in one allocation.
struct OwnedWeight : A8W8Weight {
  std::unique_ptr<uint8_t, FreeMemory> memory;
};

}  // namespace

bool AcceptsA8W8(const Format& format) {
  const Encoding& weight = format.weight;
  return weight.element == Element::kInt8 && weight.group_rows == 1 && weight.group_columns == 0 &&
         weight.scale == ScaleElement::kF32 && weight.zero == Zero::kNone &&
         format.activation.element == Element::kInt8 && format.activation.zero == Zero::kNone;
}

bool FitsA8W8(const LinearShape& shape) {
  return shape.n > 0 && shape.k > 0 && shape.k <= kA8W8MaxK;
}

absl::Status PackA8W8(const Format& format, const EncodedMatrix& weight, PackedWeight* packed) {
  const int64_t n = weight.rows;
  const int64_t k = weight.columns;
  if (!AcceptsA8W8(format) || weight.encoding != format.weight || !FitsA8W8({.n = n, .k = k}) ||
      static_cast<int64_t>(weight.values.size()) != n * k ||
      static_cast<int64_t>(weight.scales.size()) != n) {
    return absl::InvalidArgumentError(
        absl::StrCat("a8w8_int8 packs int8 [N, K] with a scale a row and K up to ", kA8W8MaxK,
                     "; got N ", n, ", K ", k, ", ", weight.values.size(), " values and ",
                     weight.scales.size(), " scales of format ", std::string(format.name)));
  }
  const int64_t padded_k = A8W8PaddedK(k);
  const int64_t padded_n = RoundUp(n, kA8W8Columns);
  const int64_t scale_bytes = RoundUp(padded_n * sizeof(float), 64);
  const int64_t bytes = scale_bytes + padded_n * padded_k;

  auto owned = std::make_shared<OwnedWeight>();
  owned->memory.reset(static_cast<uint8_t*>(std::aligned_alloc(64, RoundUp(bytes, 64))));
  if (owned->memory == nullptr) throw std::bad_alloc();
  float* scales = reinterpret_cast<float*>(owned->memory.get());
  uint8_t* panels = owned->memory.get() + scale_bytes;
  std::fill_n(scales, padded_n, 0.0f);
  std::copy_n(weight.scales.data(), n, scales);
  std::fill_n(panels, padded_n * padded_k, static_cast<uint8_t>(128));
  for (int64_t row = 0; row < n; ++row) {
    const int64_t first = row / kA8W8Panel * kA8W8Panel;
    const int64_t width = A8W8PanelWidth(first, n);
    const uint8_t* from = weight.values.data() + row * k;
    uint8_t* to = panels + first * padded_k + (row - first) * 4;
    for (int64_t i = 0; i < k; ++i) to[i / 4 * 4 * width + i % 4] = from[i] ^ 0x80;
  }
  owned->panels = panels;
  owned->scales = scales;
  *packed = {.format = &format,
             .packing = kPackingA8W8Int8,
             .shape = {.n = n, .k = k},
             .bytes = bytes,
             .data = std::shared_ptr<const void>(owned, static_cast<A8W8Weight*>(owned.get()))};
  return absl::OkStatus();
}

}  // namespace octavo::cpu
