// Attention over ragged sequences: softmax(q k^T * scale + mask) v, one row of a backend's table.
#pragma once

#include <cstdint>
#include <string_view>

#include "kernels/matrix.h"
#include "quant/element.h"

namespace octavo {

class Stream;  // kernels/stream.h

enum class Mask : uint8_t { kFull, kCausal, kWindow };

// Some queries of one sequence: what a device computes side by side.
struct AttentionTile {
  int32_t first = 0;  // the sequence is tokens [first, first + length) of the batch
  int32_t length = 0;
  int32_t query_begin = 0;  // inside the sequence
  int32_t queries = 0;      // at most the kernel's query_tile; 0: nothing to do
};

// q, k and v usually lie interleaved in one [tokens, 3 * hidden] matrix; each pointer is to its
// own first column and all share `stride`. Element (token t, head h, i) is at
// t * stride + h * head_size + i.
struct AttentionArgs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t stride = 0;  // elements from token to token
  int64_t tokens = 0;  // rows of q, k and v that may be read, whosever they are
  int heads = 0;
  int key_value_heads = 0;  // divides heads
  int head_size = 0;
  float scale = 1.0f;                // above 0; usually 1 / sqrt(head_size)
  const int32_t* offsets = nullptr;  // [sequences + 1], cumulative tokens
  int64_t sequences = 0;
  // Only query rows [row_begin, row_end) of the batch are computed; they may begin and end inside
  // a sequence. All keys and values of the sequences they touch are read, nothing else.
  int64_t row_begin = 0;
  int64_t row_end = 0;
  // The same rows as tiles, for a kernel with a query_tile.
  const AttentionTile* tiles = nullptr;
  int64_t tile_count = 0;
  Mask mask = Mask::kFull;
  int window = 0;  // kWindow: keys within this distance either way
  // Added to scaled scores: bias[h * bias_stride + (j - i) + bias_zero], j the key and i the query
  // position inside the sequence; null for none. Read only where key j is visible to query i.
  const float* relative_bias = nullptr;
  int64_t bias_stride = 0;
  int64_t bias_zero = 0;
  // [tokens, heads * head_size]; output row t is batch row t. Never int8: a row's scale is known
  // only when all its heads are, so what feeds an int8 product is encoded afterwards
  // (RowOperations::encode).
  Matrix output;
};

// What CPU rows write for a product that reads `wanted`.
inline Element BfloatOrFloat(Element wanted) {
  return wanted == Element::kBf16 ? Element::kBf16 : Element::kF32;
}

struct AttentionKernel {
  std::string_view name;      // "attention_bf16_avx512bf16"
  Element input;              // element type of q, k, v
  uint32_t instruction_sets;  // exact, as in LinearKernel
  bool (*fits)(int head_size);
  // A row's result depends on its own sequence alone, not on row_begin, row_end or the batch.
  void (*run)(const AttentionArgs& args, Stream& stream);
  // The output element for a product that reads `wanted`: that one, or one that RowOperations can
  // encode to it.
  Element (*output)(Element wanted) = BfloatOrFloat;
  // Queries of a tile at most, if it is run by tiles.
  int query_tile = 0;
  // Fastest for a batch of few and short sequences, not for others: the query lane takes it.
  bool for_short_sequences = false;
  // Largest integer that a value of q or k is encoded as, with a scale for each query and key of a
  // head; 0: scores are products of q and k as they come.
  int score_levels = 0;
};

}  // namespace octavo
