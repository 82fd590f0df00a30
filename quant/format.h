// What a number is: the formats Octavo can store and compute in, as plain data.
//
// A Format is one row of the table in format.cc. Everything else (kernels, metrics, responses,
// flags) refers to a row of that table by pointer or by its full name.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/element.h"

namespace octavo {

enum class ScaleElement : uint8_t { kNone, kF32, kF16, kE8m0, kE4m3 };

// How a zero point is stored. kF16: a float zero point (HQQ) rounded to half precision, so that
// 4 bits in groups of 32 with scale and zero cost 5.0 bits a weight.
enum class Zero : uint8_t { kNone, kInteger, kF16, kF32 };

// When values are encoded: once, when weights are stored, or on each call (activations).
enum class When : uint8_t { kStored, kPerCall };

// How one operand of a product is encoded.
struct Encoding {
  Element element = Element::kF32;
  // Values that share a scale: {1, 0} a row, {1, 128} 128 along K, {128, 128} a block,
  // {0, 0} the whole tensor. Meaningless when scale is kNone.
  int group_rows = 0;
  int group_columns = 0;
  ScaleElement scale = ScaleElement::kNone;
  ScaleElement tensor_scale = ScaleElement::kNone;
  Zero zero = Zero::kNone;
  When when = When::kStored;

  bool operator==(const Encoding&) const = default;
};

// A weight matrix [rows = output channels N, columns = input channels K] in one encoding.
// Owns its memory. Decoded value: (q - zero) * scale, computed in f32.
struct EncodedMatrix {
  Encoding encoding;
  int64_t rows = 0;
  int64_t columns = 0;
  // Row-major. f32/f16/bf16: the values themselves. int8, e4m3: one byte each. int4: unsigned code
  // 0..15 (symmetric layouts store q + 8), two a byte, the even column in the low nibble; a row
  // starts on a byte.
  std::vector<uint8_t> values;
  // [rows, groups] where groups = ceil(columns / group_columns) (1 for a row scale); each already
  // rounded to the encoding's ScaleElement. Empty when there is no scale.
  std::vector<float> scales;
  // [rows, groups], in units of q, rounded to the encoding's Zero. Empty when there is none.
  std::vector<float> zeros;

  int64_t groups() const;          // groups along a row, at least 1
  int64_t row_bytes() const;       // bytes a row of `values`
  double bits_per_weight() const;  // values, scales and zeros together
};

struct Format {
  std::string_view name;  // full name: "a16w4_int4_g64z"
  Encoding weight;
  Encoding activation;
  // Encodes one row of a weight matrix by round-to-nearest. `values` has row_bytes() bytes,
  // `scales` and `zeros` groups() elements (empty where the encoding has none).
  // Inputs must be finite.
  void (*encode_row)(const Encoding& encoding, std::span<const float> row,
                     std::span<uint8_t> values, std::span<float> scales, std::span<float> zeros);
  // The truth a checkpoint means: (q - zero) * scale in f32, not yet rounded to the arithmetic
  // type of a kernel.
  void (*decode_row)(const Encoding& encoding, std::span<const uint8_t> values,
                     std::span<const float> scales, std::span<const float> zeros,
                     std::span<float> row);
  // Bound on |decoded - original| of one value, in units of its group's scale (round to nearest).
  double encode_error_bound;
};

// All formats, in the order they are documented. Static storage.
std::span<const Format> Formats();

// Finds a format by full name or by alias ("a16w4_int4"). NOT_FOUND names the known ones.
absl::StatusOr<const Format*> FindFormat(std::string_view name);

// Short name -> the measured best layout it stands for.
struct FormatAlias {
  std::string_view alias;
  std::string_view name;
};
std::span<const FormatAlias> FormatAliases();

// How weights are rounded.
enum class Method : uint8_t { kRoundToNearest, kHqq };
absl::StatusOr<Method> FindMethod(std::string_view name);  // "rtn", "hqq"
std::string_view MethodName(Method method);

// Encodes a weight matrix [rows, columns], row-major, finite values. Deterministic.
// INVALID_ARGUMENT if a value is not finite, or the method does not apply to the format (HQQ
// needs a zero point; formats without one fall back to round-to-nearest only if they have no
// groups, i.e. f32, f16, bf16).
absl::StatusOr<EncodedMatrix> EncodeMatrix(const Format& format, Method method,
                                           std::span<const float> weights, int64_t rows,
                                           int64_t columns);

// Decodes a whole matrix to f32 [rows, columns].
std::vector<float> DecodeMatrix(const Format& format, const EncodedMatrix& matrix);

}  // namespace octavo
