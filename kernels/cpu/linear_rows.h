// What the rows of linear_table.cc point to: which formats a family of kernels accepts and how it
// packs them. Arguments as in LinearKernel. Packing fails with INVALID_ARGUMENT on another encoding
// than the format's, or on counts that do not agree with the shape.
#pragma once

#include "kernels/linear.h"

namespace octavo::cpu {

// linear_panels_pack.cc, layouts in linear_panels.h.
bool AcceptsF32(const Format& format);
bool AcceptsBf16(const Format& format);
bool AcceptsA8W8Fp8(const Format& format);
bool AcceptsA16W4Int4(const Format& format);
bool FitsAnyShape(const LinearShape& shape);
absl::Status PackF32(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed);
absl::Status PackBf16(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed);
absl::Status PackA8W8Fp8(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed);
absl::Status PackA16W4Int4(const Format& format, const EncodedMatrix& matrix, PackedWeight* packed);

// linear_a8w8_int8_pack.cc, layout in linear_a8w8_int8.h.
bool AcceptsA8W8(const Format& format);
bool FitsA8W8(const LinearShape& shape);
absl::Status PackA8W8(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);

}  // namespace octavo::cpu
