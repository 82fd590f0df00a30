// What the rows of linear_table.cc point to. Arguments as in LinearKernel.
#pragma once

#include "kernels/linear.h"

namespace octavo::cuda {

// Rows with equal packing share one packed weight.
enum Packing : int {
  kPackingF16 = 0,
  kPackingBf16 = 1,
  kPackingA8W8 = 2,          // linear_a8w8_sm90.h
  kPackingInt4 = 3,          // linear_a16w4_int4_f16_sm90.h
  kPackingInt4Decoded = 4,   // row-major f16
  kPackingA8W8CublasLt = 5,  // linear_a8w8_cublaslt.cc
};

// linear_cublaslt.cc: row-major 16-bit weights.
bool AcceptsF16(const Format& format);
bool AcceptsBf16(const Format& format);
bool FitsCublasLt(const LinearShape& shape);
absl::Status PackRowMajor(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);
void RunCublasLtF16(const LinearArgs& args, Stream& stream);
void RunCublasLtBf16(const LinearArgs& args, Stream& stream);

// linear_a8w8_rows.cc: Hopper's own kernels.
bool AcceptsA8W8Fp8(const Format& format);
bool AcceptsA8W8Int8(const Format& format);
bool FitsA8W8Sm90(const LinearShape& shape);
absl::Status PackA8W8Sm90(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);
void RunA8W8Fp8Sm90(const LinearArgs& args, Stream& stream);
void RunA8W8Int8Sm90(const LinearArgs& args, Stream& stream);

// linear_a8w8_cublaslt.cc. The library says which shapes it has algorithms for.
bool FitsA8W8Fp8CublasLt(const LinearShape& shape);
bool FitsA8W8Int8CublasLt(const LinearShape& shape);
absl::Status PackA8W8CublasLt(const Format& format, const EncodedMatrix& weight,
                              PackedWeight* packed);
void RunA8W8CublasLt(const LinearArgs& args, Stream& stream);

// linear_a16w4_int4_rows.cc. Decoded weights go through RunCublasLtF16.
bool AcceptsA16W4Int4(const Format& format);
absl::Status PackA16W4Int4(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);
absl::Status PackA16W4Int4Decoded(const Format& format, const EncodedMatrix& weight,
                                  PackedWeight* packed);
void RunA16W4Int4(const LinearArgs& args, Stream& stream);

}  // namespace octavo::cuda
