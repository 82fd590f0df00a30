// What a backend does with whole rows of hidden states, besides products: a struct of functions, so
// that Forward is the same on every device. `stream` is the one the neighbouring kernels run on.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"
#include "kernels/stream.h"

namespace octavo {

struct EmbeddingTables {
  const float* word = nullptr;        // [vocabulary, columns]
  const float* position = nullptr;    // [max positions, columns] or null
  const float* token_type = nullptr;  // [columns], row 0 of the token type table, or null
};

struct RowOperations {
  // hidden[t] = word[ids[t]] + position[positions[t]] + token_type.
  void (*embed)(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
                int64_t rows, int64_t columns, float* hidden, Stream& stream);
  // LayerNorm in place over f32 rows [rows, columns], stride columns.
  void (*layer_norm)(float* x, int64_t rows, int64_t columns, const float* gain, const float* bias,
                     float epsilon, Stream& stream);
  // Encodes f32 rows into output.element (f32, bf16, or int8 with scales and sums a row).
  void (*encode)(const float* input, int64_t rows, int64_t columns, const Matrix& output,
                 Stream& stream);
  // Mean over each sequence's rows, [tokens, columns] -> [sequences, columns].
  void (*mean_pool)(const float* hidden, const int32_t* offsets, int64_t sequences, int64_t columns,
                    float* output, Stream& stream);
  // First row of each sequence.
  void (*first_pool)(const float* hidden, const int32_t* offsets, int64_t sequences,
                     int64_t columns, float* output, Stream& stream);
};

}  // namespace octavo
