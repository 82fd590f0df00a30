// Kernels that see whole rows of hidden states: embedding sum, normalization, encoding, pooling.
// All run inline on the calling thread over the rows given; callers split rows over threads.
// Each row's result depends on that row alone and is the same on every instruction set up to the
// rounding stated.
#pragma once

#include <cstdint>

#include "kernels/linear.h"
#include "kernels/rows.h"

namespace octavo::cpu {

// Copies or encodes f32 rows into `output.element` (f32, bf16 round-to-nearest-even, or int8 with
// scale = max|x| / 127 a row, round half to even, and the sum of q; a row of zeros has scale 0).
void EncodeRows(const float* input, int64_t input_stride, int64_t rows, int64_t columns,
                const Matrix& output);

// LayerNorm in place: x = (x - mean) / sqrt(variance + epsilon) * gain + bias, mean and variance
// over the row (biased). Sums are taken in f32 by lanes, then combined; error under 1e-6 relative.
void LayerNormRows(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                   const float* bias, float epsilon);

// hidden[t] = word[ids[t]] + position[positions[t]] + type0. Ids and positions are in range.
void EmbedRows(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
               int64_t rows, int64_t columns, float* hidden, int64_t stride);

// Mean over a sequence's rows [rows, columns] -> output[columns], summed in order in f32.
void MeanPool(const float* hidden, int64_t stride, int64_t rows, int64_t columns, float* output);

}  // namespace octavo::cpu
