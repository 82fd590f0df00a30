// What a backend does with whole rows of hidden states, besides products: a struct of functions, so
// that Forward is the same on every device. `stream` is the one the neighbouring kernels run on.
// Where a device holds the number of rows, `rows` is its upper bound.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"

namespace octavo {

class Stream;  // kernels/stream.h

struct EmbeddingTables {
  const float* word = nullptr;        // [vocabulary, columns]
  const float* position = nullptr;    // [max positions, columns] or null
  const float* token_type = nullptr;  // [columns], row 0 of the token type table, or null
};

// hidden = LayerNorm(input + residual), and the same once more as the next product reads it.
struct NormArgs {
  int64_t rows = 0;
  const int32_t* device_rows = nullptr;
  int64_t columns = 0;
  const float* gain = nullptr;  // [columns]
  const float* bias = nullptr;
  float epsilon = 0;
  // In the backend's hidden element. A backend whose products add the residual norms in place: its
  // input is `hidden` and its residual null.
  Matrix input;
  Matrix residual;  // values null: none
  Matrix hidden;    // may be the residual itself
  Matrix encoded;   // values null: not wanted
};

struct EncodeArgs {
  int64_t rows = 0;
  const int32_t* device_rows = nullptr;
  int64_t columns = 0;
  Matrix input;   // f32 or a 16-bit float
  Matrix output;  // any element that a product reads here
};

struct PoolArgs {
  Matrix hidden;                     // [tokens, columns]
  const int32_t* offsets = nullptr;  // [sequences + 1]
  int64_t sequences = 0;             // upper bound; those of no tokens are not written
  int64_t columns = 0;
  float* output = nullptr;  // [sequences, columns]
};

struct RowOperations {
  // As `norm` of word[ids[t]] + position[positions[t]] + token_type; norm.input is not used.
  void (*embed)(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
                const NormArgs& norm, Stream& stream);
  void (*norm)(const NormArgs& args, Stream& stream);
  void (*encode)(const EncodeArgs& args, Stream& stream);
  // Mean over each sequence's rows.
  void (*mean_pool)(const PoolArgs& args, Stream& stream);
  // First row of each sequence.
  void (*first_pool)(const PoolArgs& args, Stream& stream);
};

}  // namespace octavo
