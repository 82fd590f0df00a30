#include "quant/format.h"

#include <array>
#include <cmath>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "quant/codecs.h"
#include "quant/half.h"

namespace octavo {
namespace {

using quant::DecodeInt4;
using quant::EncodeInt4;

constexpr Encoding Plain(Element element, When when) { return {.element = element, .when = when}; }

constexpr Encoding Int8(When when) {
  return {.element = Element::kInt8,
          .group_rows = 1,
          .group_columns = 0,
          .scale = ScaleElement::kF32,
          .when = when};
}

// Weights a scale an output channel (0), activations a scale a token and 128 values along K.
constexpr Encoding E4m3(int group, When when) {
  return {.element = Element::kE4m3,
          .group_rows = 1,
          .group_columns = group,
          .scale = ScaleElement::kF32,
          .when = when};
}

constexpr Encoding Int4(int group, Zero zero) {
  return {.element = Element::kInt4,
          .group_rows = 1,
          .group_columns = group,
          .scale = ScaleElement::kF16,
          .zero = zero};
}

// Errors of plain floats are relative to the value, so their bound in units of a scale is 0.
// int4: half a step; symmetric, a scale rounded down to f16 clips the largest value a little more.
constexpr double kInt8Bound = 0.5 + 1e-4;
// e4m3: half a step of the largest binade, 256 to 448.
constexpr double kE4m3Bound = 16 + 1e-3;
constexpr double kInt4Bound = 0.5 + 8.0 / 2048;
constexpr double kInt4ZeroBound = 0.5 + 1e-3;

constexpr Encoding kBf16Activation = Plain(Element::kBf16, When::kPerCall);

constexpr std::array kFormats = {
    Format{"f32", Plain(Element::kF32, When::kStored), Plain(Element::kF32, When::kPerCall),
           quant::EncodeF32, quant::DecodeF32, 0.0},
    Format{"f16", Plain(Element::kF16, When::kStored), Plain(Element::kF16, When::kPerCall),
           quant::EncodeF16, quant::DecodeF16, 0.0},
    Format{"bf16", Plain(Element::kBf16, When::kStored), kBf16Activation, quant::EncodeBf16,
           quant::DecodeBf16, 0.0},
    Format{"a8w8_int8", Int8(When::kStored), Int8(When::kPerCall), quant::EncodeInt8,
           quant::DecodeInt8, kInt8Bound},
    Format{"a8w8_fp8", E4m3(0, When::kStored), E4m3(128, When::kPerCall), quant::EncodeE4m3,
           quant::DecodeE4m3, kE4m3Bound},
    Format{"a16w4_int4_g32", Int4(32, Zero::kNone), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4Bound},
    Format{"a16w4_int4_g64", Int4(64, Zero::kNone), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4Bound},
    Format{"a16w4_int4_g128", Int4(128, Zero::kNone), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4Bound},
    Format{"a16w4_int4_g32z", Int4(32, Zero::kF16), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4ZeroBound},
    Format{"a16w4_int4_g64z", Int4(64, Zero::kF16), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4ZeroBound},
    Format{"a16w4_int4_g128z", Int4(128, Zero::kF16), kBf16Activation, EncodeInt4, DecodeInt4,
           kInt4ZeroBound},
};

// a16w4_int4: the most accurate layout at 5 bits a weight or less. all-MiniLM-L6-v2 with hqq,
// cosine of SciFact claims to f32: g32z 0.978 (5.0 bits), g64z 0.968 (4.5 bits), symmetric g32 with
// rtn 0.961; the g32z product takes 6% more time than g64z.
constexpr std::array kAliases = {
    FormatAlias{"a16w4_int4", "a16w4_int4_g32z"},
};

int ElementBits(Element element) {
  switch (element) {
    case Element::kF32:
      return 32;
    case Element::kF16:
    case Element::kBf16:
    case Element::kInt16:
      return 16;
    case Element::kInt8:
    case Element::kE4m3:
      return 8;
    case Element::kInt4:
    case Element::kE2m1:
    case Element::kCodebook16:
      return 4;
    case Element::kTernary:
      return 2;
    case Element::kBinary:
      return 1;
  }
  return 0;
}

int ScaleBits(ScaleElement element) {
  switch (element) {
    case ScaleElement::kNone:
      return 0;
    case ScaleElement::kF32:
      return 32;
    case ScaleElement::kF16:
      return 16;
    case ScaleElement::kE8m0:
    case ScaleElement::kE4m3:
      return 8;
  }
  return 0;
}

int ZeroBits(const Encoding& encoding) {
  switch (encoding.zero) {
    case Zero::kNone:
      return 0;
    case Zero::kInteger:
      return ElementBits(encoding.element);
    case Zero::kF16:
      return 16;
    case Zero::kF32:
      return 32;
  }
  return 0;
}

// The largest magnitude the encoding can hold in any group.
float LargestValue(const Encoding& encoding) {
  switch (encoding.element) {
    case Element::kF16:
      return kLargestF16;
    case Element::kBf16:
      return 0x1.fep+127f;
    case Element::kInt8:
    case Element::kE4m3:
      return 3.4e38f;  // 127 or 448 steps of a scale rounded up must stay finite
    case Element::kInt4:
      return 7.5f * kLargestF16;
    default:
      return std::numeric_limits<float>::max();
  }
}

absl::Status CheckWeights(const Format& format, std::span<const float> weights, int64_t rows,
                          int64_t columns) {
  if (rows < 1 || columns < 1 || rows > std::numeric_limits<int64_t>::max() / columns ||
      static_cast<int64_t>(weights.size()) != rows * columns) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix of ", rows, " x ", columns,
                                                   " values was expected, got ", weights.size()));
  }
  const float largest = LargestValue(format.weight);
  // One pass without branches; only a failure is searched for its place.
  bool fits = true;
  for (const float x : weights) fits &= std::abs(x) <= largest;
  if (fits) return absl::OkStatus();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (std::abs(weights[i]) <= largest) continue;
    const int64_t row = static_cast<int64_t>(i) / columns;
    const int64_t column = static_cast<int64_t>(i) % columns;
    return absl::InvalidArgumentError(
        absl::StrCat("weight [", row, ", ", column, "] is ", weights[i], "; ",
                     absl::string_view(format.name.data(), format.name.size()),
                     std::isfinite(weights[i]) ? absl::StrCat(" holds magnitudes up to ", largest)
                                               : " needs finite values"));
  }
  return absl::OkStatus();
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

int64_t EncodedMatrix::groups() const {
  if (encoding.group_columns <= 0) return 1;
  return (columns + encoding.group_columns - 1) / encoding.group_columns;
}

int64_t EncodedMatrix::row_bytes() const {
  return (columns * ElementBits(encoding.element) + 7) / 8;
}

double EncodedMatrix::bits_per_weight() const {
  const double bits = 8.0 * static_cast<double>(values.size()) +
                      ScaleBits(encoding.scale) * static_cast<double>(scales.size()) +
                      ZeroBits(encoding) * static_cast<double>(zeros.size());
  return bits / (static_cast<double>(rows) * static_cast<double>(columns));
}

std::span<const Format> Formats() { return kFormats; }

std::span<const FormatAlias> FormatAliases() { return kAliases; }

absl::StatusOr<const Format*> FindFormat(std::string_view name) {
  for (const FormatAlias& alias : kAliases) {
    if (alias.alias == name) name = alias.name;
  }
  for (const Format& format : kFormats) {
    if (format.name == name) return &format;
  }
  std::string known;
  for (const Format& format : kFormats) absl::StrAppend(&known, " ", View(format.name));
  for (const FormatAlias& alias : kAliases) absl::StrAppend(&known, " ", View(alias.alias));
  return absl::NotFoundError(
      absl::StrCat("unknown format \"", View(name), "\"; known are:", known));
}

absl::StatusOr<Method> FindMethod(std::string_view name) {
  for (const Method method : {Method::kRoundToNearest, Method::kHqq}) {
    if (MethodName(method) == name) return method;
  }
  return absl::NotFoundError(
      absl::StrCat("unknown method \"", View(name), "\"; known are: rtn hqq"));
}

std::string_view MethodName(Method method) {
  switch (method) {
    case Method::kRoundToNearest:
      return "rtn";
    case Method::kHqq:
      return "hqq";
  }
  return "";
}

absl::StatusOr<EncodedMatrix> EncodeMatrix(const Format& format, Method method,
                                           std::span<const float> weights, int64_t rows,
                                           int64_t columns) {
  const Encoding& encoding = format.weight;
  const bool fitted = method == Method::kHqq && encoding.zero == Zero::kF16;
  if (method == Method::kHqq && !fitted && encoding.scale != ScaleElement::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("hqq fits float zero points, which ", View(format.name),
                     " does not have; use rtn or a format whose name ends in z"));
  }
  if (absl::Status status = CheckWeights(format, weights, rows, columns); !status.ok()) {
    return status;
  }
  EncodedMatrix matrix{.encoding = encoding, .rows = rows, .columns = columns};
  const size_t row_bytes = static_cast<size_t>(matrix.row_bytes());
  const size_t scales = encoding.scale == ScaleElement::kNone ? 0 : matrix.groups();
  const size_t zeros = encoding.zero == Zero::kNone ? 0 : matrix.groups();
  matrix.values.resize(static_cast<size_t>(rows) * row_bytes);
  matrix.scales.resize(static_cast<size_t>(rows) * scales);
  matrix.zeros.resize(static_cast<size_t>(rows) * zeros);
  const auto encode_row = fitted ? quant::EncodeInt4Hqq : format.encode_row;
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    encode_row(encoding, weights.subspan(r * columns, columns),
               std::span(matrix.values).subspan(r * row_bytes, row_bytes),
               std::span(matrix.scales).subspan(r * scales, scales),
               std::span(matrix.zeros).subspan(r * zeros, zeros));
  }
  return matrix;
}

std::vector<float> DecodeMatrix(const Format& format, const EncodedMatrix& matrix) {
  const size_t rows = static_cast<size_t>(matrix.rows);
  const size_t columns = static_cast<size_t>(matrix.columns);
  const size_t row_bytes = static_cast<size_t>(matrix.row_bytes());
  const size_t scales = matrix.scales.size() / rows;
  const size_t zeros = matrix.zeros.size() / rows;
  std::vector<float> decoded(rows * columns);
  for (size_t r = 0; r < rows; ++r) {
    format.decode_row(matrix.encoding, std::span(matrix.values).subspan(r * row_bytes, row_bytes),
                      std::span(matrix.scales).subspan(r * scales, scales),
                      std::span(matrix.zeros).subspan(r * zeros, zeros),
                      std::span(decoded).subspan(r * columns, columns));
  }
  return decoded;
}

}  // namespace octavo
