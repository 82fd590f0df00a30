// Kernels that see whole rows of hidden states: embedding sum, normalization, encoding, pooling.
// All run inline on the calling thread over the rows given; callers split rows over threads.
// Each row's result depends on that row alone. Encodings are the same on every instruction set;
// sums are the same up to the rounding stated.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/matrix.h"
#include "kernels/rows.h"

namespace octavo::cpu {

// The functions below for one instruction set; layer_norm's `encoded` may be null.
struct RowFunctions {
  const char* name;           // "rows_avx512"
  uint32_t instruction_sets;  // needed bits, exact
  void (*encode)(const float* input, int64_t input_stride, int64_t rows, int64_t columns,
                 const Matrix& output);
  void (*layer_norm)(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                     const float* bias, float epsilon, const Matrix* encoded);
  void (*embed)(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
                int64_t rows, int64_t columns, float* hidden, int64_t stride);
  void (*mean_pool)(const float* hidden, int64_t stride, int64_t rows, int64_t columns,
                    float* output);
};

// Fastest first; the functions below use the first that this processor can run. Static storage.
std::span<const RowFunctions> RowFunctionTable();

// Copies or encodes f32 rows into `output.element`: f32, bf16 (round to nearest even), e4m3
// (EncodeE4m3Row of e4m3.h) or int8:
// scale = max|x| / 127 a row, q = x * (127 / max|x|) rounded half to even, and the sum of q. A row
// whose largest magnitude is below 2^-100 is zeros with scale 0; one with a value that is not
// finite is zeros with a scale that is not finite.
void EncodeRows(const float* input, int64_t input_stride, int64_t rows, int64_t columns,
                const Matrix& output);

// LayerNorm in place: x = (x - mean) / sqrt(variance + epsilon) * gain + bias, mean and variance
// over the row (biased). Sums are taken in f32 by lanes, then combined; error under 1e-6 relative
// to the largest term of the row.
void LayerNormRows(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                   const float* bias, float epsilon);

// LayerNormRows, and each normalized row encoded as EncodeRows does while it is in cache.
void LayerNormEncodeRows(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                         const float* bias, float epsilon, const Matrix& encoded);

// hidden[t] = word[ids[t]] + position[positions[t]] + type0. Ids and positions are in range.
void EmbedRows(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
               int64_t rows, int64_t columns, float* hidden, int64_t stride);

// Mean over a sequence's rows [rows, columns] -> output[columns], summed in order in f32; rows is
// at least 1.
void MeanPool(const float* hidden, int64_t stride, int64_t rows, int64_t columns, float* output);

}  // namespace octavo::cpu
