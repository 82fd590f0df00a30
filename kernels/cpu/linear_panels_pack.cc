// Packs encoded weights into the layouts of linear_panels.h.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/e4m3.h"
#include "kernels/cpu/linear_panels.h"
#include "kernels/cpu/linear_rows.h"
#include "quant/half.h"

namespace octavo::cpu {
namespace {

struct FreeMemory {
  void operator()(uint8_t* memory) const { std::free(memory); }
};

// The weight with its storage.
struct OwnedWeight : PanelWeight {
  std::unique_ptr<uint8_t, FreeMemory> memory;
};

bool Plain(const Format& format, Element element) {
  return format.weight == Encoding{.element = element} &&
         format.activation == Encoding{.element = element, .when = When::kPerCall};
}

absl::Status CheckMatrix(const Format& format, bool accepted, const EncodedMatrix& matrix) {
  const int64_t groups = matrix.groups();
  const int64_t n = matrix.rows;
  const bool scales = matrix.encoding.scale != ScaleElement::kNone;
  const bool zeros = matrix.encoding.zero != Zero::kNone;
  if (accepted && matrix.encoding == format.weight && n > 0 && matrix.columns > 0 &&
      static_cast<int64_t>(matrix.values.size()) == n * matrix.row_bytes() &&
      static_cast<int64_t>(matrix.scales.size()) == (scales ? n * groups : 0) &&
      static_cast<int64_t>(matrix.zeros.size()) == (zeros ? n * groups : 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("cannot pack a matrix [", n, ", ", matrix.columns, "] of ", matrix.values.size(),
                   " bytes, ", matrix.scales.size(), " scales and ", matrix.zeros.size(),
                   " zero points as ", std::string(format.name)));
}

// A weight of zero bytes, its panels to be filled in, and `packed` set to hold it.
OwnedWeight* Allocate(const Format& format, const EncodedMatrix& matrix, int64_t panel_bytes,
                      PackedWeight* packed) {
  const int64_t bytes = RoundUp(matrix.rows, kPanelColumns) / kPanelColumns * panel_bytes;
  auto owned = std::make_shared<OwnedWeight>();
  owned->memory.reset(
      static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(RoundUp(bytes, 64)))));
  if (owned->memory == nullptr) throw std::bad_alloc();
  std::memset(owned->memory.get(), 0, static_cast<size_t>(bytes));
  owned->panels = owned->memory.get();
  owned->panel_bytes = panel_bytes;
  *packed = {.format = &format,
             .packing = packed->packing,
             .shape = {.n = matrix.rows, .k = matrix.columns},
             .bytes = bytes,
             .data = std::shared_ptr<const void>(owned, static_cast<PanelWeight*>(owned.get()))};
  return owned.get();
}

uint8_t* PanelOfChannel(const OwnedWeight& weight, int64_t channel) {
  return weight.memory.get() + channel / kPanelColumns * weight.panel_bytes;
}

uint32_t CodeAt(const uint8_t* row, int64_t k) {
  return k % 2 == 0 ? row[k / 2] & 15 : row[k / 2] >> 4;
}

// One group of one channel: codes, scale and zero point to `block`.
void PackInt4Group(const EncodedMatrix& matrix, int64_t channel, int64_t group, uint8_t* block) {
  const int64_t begin = group * matrix.encoding.group_columns;
  const int64_t end = std::min<int64_t>(begin + matrix.encoding.group_columns, matrix.columns);
  const int64_t c = channel % kPanelColumns;
  const uint8_t* row = matrix.values.data() + channel * matrix.row_bytes();
  constexpr int kShift[8] = {0, 16, 4, 20, 8, 24, 12, 28};  // of k % 8
  for (int64_t k = begin; k < end; k += 8) {
    uint32_t word = 0;
    for (int64_t i = 0; i < std::min<int64_t>(8, end - k); ++i) {
      word |= CodeAt(row, k + i) << kShift[i];
    }
    std::memcpy(block + ((k - begin) / 8 * kPanelColumns + c) * 4, &word, sizeof(word));
  }
  uint8_t* scales = block + Int4CodeBytes(end - begin);
  const uint16_t scale = FloatToF16(matrix.scales[channel * matrix.groups() + group]);
  std::memcpy(scales + 2 * c, &scale, sizeof(scale));
  if (!matrix.zeros.empty()) {
    const uint16_t zero = FloatToF16(matrix.zeros[channel * matrix.groups() + group]);
    std::memcpy(scales + kInt4ScaleBytes + 2 * c, &zero, sizeof(zero));
  }
}

}  // namespace

bool AcceptsF32(const Format& format) { return Plain(format, Element::kF32); }

bool AcceptsBf16(const Format& format) { return Plain(format, Element::kBf16); }

bool AcceptsA8W8Fp8(const Format& format) {
  const Encoding weight = {.element = Element::kE4m3, .group_rows = 1, .scale = ScaleElement::kF32};
  Encoding activation = weight;
  activation.group_columns = kE4m3ScaleColumns;
  activation.when = When::kPerCall;
  return format.weight == weight && format.activation == activation;
}

bool AcceptsA16W4Int4(const Format& format) {
  const Encoding& weight = format.weight;
  return weight.element == Element::kInt4 && weight.group_rows == 1 && weight.group_columns > 0 &&
         weight.group_columns % 8 == 0 && weight.scale == ScaleElement::kF16 &&
         weight.tensor_scale == ScaleElement::kNone &&
         (weight.zero == Zero::kNone || weight.zero == Zero::kF16) &&
         format.activation == Encoding{.element = Element::kBf16, .when = When::kPerCall};
}

bool FitsAnyShape(const LinearShape& shape) { return shape.n > 0 && shape.k > 0; }

absl::Status PackF32(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed) {
  absl::Status status = CheckMatrix(format, AcceptsF32(format), matrix);
  if (!status.ok()) return status;
  const int64_t padded_k = RoundUp(matrix.columns, 4);
  OwnedWeight* owned = Allocate(format, matrix, padded_k * kPanelColumns * 4, packed);
  for (int64_t n = 0; n < matrix.rows; ++n) {
    uint8_t* to = PanelOfChannel(*owned, n) + n % kPanelColumns * 4;
    const uint8_t* from = matrix.values.data() + n * matrix.row_bytes();
    for (int64_t k = 0; k < matrix.columns; ++k) {
      std::memcpy(to + k * kPanelColumns * 4, from + k * 4, 4);
    }
  }
  return absl::OkStatus();
}

absl::Status PackBf16(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed) {
  absl::Status status = CheckMatrix(format, AcceptsBf16(format), matrix);
  if (!status.ok()) return status;
  const int64_t padded_k = RoundUp(matrix.columns, 8);
  OwnedWeight* owned = Allocate(format, matrix, padded_k * kPanelColumns * 2, packed);
  for (int64_t n = 0; n < matrix.rows; ++n) {
    uint8_t* to = PanelOfChannel(*owned, n) + n % kPanelColumns * 4;
    const uint8_t* from = matrix.values.data() + n * matrix.row_bytes();
    for (int64_t k = 0; k < matrix.columns; k += 2) {
      const size_t bytes = k + 1 < matrix.columns ? 4 : 2;
      std::memcpy(to + k / 2 * kPanelColumns * 4, from + k * 2, bytes);
    }
  }
  return absl::OkStatus();
}

absl::Status PackA8W8Fp8(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed) {
  absl::Status status = CheckMatrix(format, AcceptsA8W8Fp8(format), matrix);
  if (!status.ok()) return status;
  const int64_t scales = RoundUp(matrix.columns, 4) * kPanelColumns;  // their offset
  OwnedWeight* owned = Allocate(format, matrix, scales + kPanelColumns * 4, packed);
  for (int64_t n = 0; n < matrix.rows; ++n) {
    uint8_t* panel = PanelOfChannel(*owned, n);
    const int64_t c = n % kPanelColumns;
    const uint8_t* from = matrix.values.data() + n * matrix.row_bytes();
    for (int64_t k = 0; k < matrix.columns; ++k) panel[k * kPanelColumns + c] = from[k];
    std::memcpy(panel + scales + 4 * c, &matrix.scales[n], 4);
  }
  return absl::OkStatus();
}

absl::Status PackA16W4Int4(const Format& format, const EncodedMatrix& matrix,
                           PackedWeight* packed) {
  absl::Status status = CheckMatrix(format, AcceptsA16W4Int4(format), matrix);
  if (!status.ok()) return status;
  const int64_t group = matrix.encoding.group_columns;
  const int64_t groups = matrix.groups();
  const int64_t tail = kInt4ScaleBytes * (matrix.zeros.empty() ? 1 : 2);
  const int64_t group_bytes = Int4CodeBytes(group) + tail;
  const int64_t last = matrix.columns - (groups - 1) * group;
  OwnedWeight* owned =
      Allocate(format, matrix, (groups - 1) * group_bytes + Int4CodeBytes(last) + tail, packed);
  owned->group = group;
  owned->zero_points = !matrix.zeros.empty();
  for (int64_t n = 0; n < matrix.rows; ++n) {
    for (int64_t g = 0; g < groups; ++g) {
      PackInt4Group(matrix, n, g, PanelOfChannel(*owned, n) + g * group_bytes);
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo::cpu
