// Attention over one block of queries, once, over a vector type V; attention_f32_*.cc and
// attention_bf16_*.cc define V in an unnamed namespace and instantiate it there.
//
// V extends a vector type of epilogue.h by
//   kQueries       queries of the largest register tile (1, 2, 4 and this are used)
//   kPerWord       values of q, k and v in a 32-bit word: 1 f32 or 2 bf16
//   Max, Fma(a, b, c) = a * b + c, Exp2 (finite arguments), MaxOfLanes, SumOfLanes
//   LoadLanes(p, low, high): lanes [low, high) of the vector at p, 0 elsewhere, which is not read
//   KeepLanes(low, high, x, other): those lanes of x, the others of `other`; low may be below 0
//                  and high above kWidth
//   Dot(sum, word, words) = sum + word * words, or for pairs + word.0 * words.0 + word.1 * words.1
//   BroadcastWord, LoadWords
//   TransposeWords(from, stride in bytes, rows, words, to, to_stride): to[w][r] = from[r][w] for
//                  a group of kWidth rows and up to kWidth words; zeros for rows past `rows`
//   PackValues     the packed form of AttentionScratch::values
//   StoreWeights(to, vector index, x): probabilities as the second product reads them
#pragma once

#include <cstdint>

#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/epilogue.h"

namespace octavo::cpu {

// A score no query gives: after scaling it is far below the running maximum's start, which is far
// below every score, so that a masked key's weight is exactly 0 even before the first visible key.
inline constexpr float kMaskedScore = -1e30f;
inline constexpr float kLowestMaximum = -1e20f;
inline constexpr float kLog2E = 1.44269504f;

struct PositionRange {
  int64_t begin, end;
};

// Keys that queries [begin, end) see, as one range. static: see the note on instruction sets in
// kernels/CMakeLists.txt.
static inline PositionRange VisibleKeys(const AttentionBlock& block, int64_t begin, int64_t end) {
  PositionRange keys = {0, block.keys};
  if (block.mask == Mask::kCausal) {
    keys.end = end;
  } else if (block.mask == Mask::kWindow) {
    if (begin - block.window > 0) keys.begin = begin - block.window;
    if (end + block.window < keys.end) keys.end = end + block.window;
  }
  return keys;
}

// The running state of a row and what it needs of the block.
struct SoftmaxRow {
  float* scores;
  uint32_t* weights;
  float* maximum;
  float* sum;           // a vector of lanes
  const float* bias;    // at the step's first key, or null
  int64_t begin, end;   // keys of the step that the row sees; begin may be below 0
  float scale;          // times log2(e)
  float inverse_scale;  // takes the bias to unscaled scores
  bool first;           // of the tile's steps
};

// Adds the bias and masks, in scores of whole vectors [0, vectors).
template <class V>
inline void MaskScores(const SoftmaxRow& row, int64_t vectors) {
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t low = row.begin - v * V::kWidth, high = row.end - v * V::kWidth;
    const typename V::F masked = V::Set(kMaskedScore);
    float* at = row.scores + v * V::kWidth;
    if (high <= 0 || low >= V::kWidth) {
      V::Store(at, masked);
      continue;
    }
    typename V::F x = V::Load(at);
    if (row.bias != nullptr) {
      const typename V::F bias = V::LoadLanes(row.bias + v * V::kWidth, low, high);
      x = V::Fma(bias, V::Set(row.inverse_scale), x);
    }
    V::Store(at, V::KeepLanes(low, high, x, masked));
  }
}

// Turns a row's scores into weights 2^(score - maximum), with the maximum of all steps so far.
// Returns what sums of earlier steps are to be multiplied with.
template <class V>
inline float UpdateRow(const SoftmaxRow& row, int64_t vectors) {
  if (row.bias != nullptr || row.begin > 0 || row.end < vectors * V::kWidth) {
    MaskScores<V>(row, vectors);
  }
  typename V::F largest = V::Set(kMaskedScore);
  for (int64_t v = 0; v < vectors; ++v) {
    largest = V::Max(largest, V::Load(row.scores + v * V::kWidth));
  }
  const float before = row.first ? kLowestMaximum : *row.maximum;
  const float here = V::MaxOfLanes(largest) * row.scale;
  const float maximum = before > here ? before : here;
  *row.maximum = maximum;

  const typename V::F scale = V::Set(row.scale), shift = V::Set(-maximum);
  typename V::F sums[2] = {V::Set(0.0f), V::Set(0.0f)};
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) {
    const float* at = row.scores + v * V::kWidth;
    const typename V::F x = V::Exp2(V::Fma(V::Load(at), scale, shift));
    const typename V::F y = V::Exp2(V::Fma(V::Load(at + V::kWidth), scale, shift));
    sums[0] = V::Add(sums[0], x);
    sums[1] = V::Add(sums[1], y);
    V::StoreWeights(row.weights, v, x);
    V::StoreWeights(row.weights, v + 1, y);
  }
  if (v < vectors) {
    const typename V::F x = V::Exp2(V::Fma(V::Load(row.scores + v * V::kWidth), scale, shift));
    sums[0] = V::Add(sums[0], x);
    V::StoreWeights(row.weights, v, x);
  }
  typename V::F sum = V::Add(sums[0], sums[1]);
  float factor = 0.0f;
  if (!row.first) {
    factor = V::First(V::Exp2(V::Set(before - maximum)));
    sum = V::Fma(V::Load(row.sum), V::Set(factor), sum);
  }
  V::Store(row.sum, sum);
  return factor;
}

// sums[r][c] += products of row r of `a` (kStride words a row) with vector column c of `b`.
template <class V, int kRows, int kColumns, int kStride>
inline void MultiplyTile(const uint32_t* a, const uint32_t* b, int64_t b_stride, int64_t steps,
                         typename V::F (&sums)[kRows][kColumns]) {
  for (int64_t step = 0; step < steps; ++step) {
    typename V::W words[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) words[c] = V::LoadWords(b + c * V::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const typename V::W word = V::BroadcastWord(a + r * kStride);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) sums[r][c] = V::Dot(sums[r][c], word, words[c]);
    }
    a += 1;
    b += b_stride;
  }
}

// Scores of kRows queries with kColumns vectors of keys.
template <class V, int kRows, int kColumns>
inline void ScoreTile(const AttentionBlock& block, int64_t head_words, int64_t column) {
  typename V::F sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sums[r][c] = V::Set(0.0f);
  }
  MultiplyTile<V, kRows, kColumns, kAttentionHeadSize>(
      block.scratch.queries, block.scratch.keys + column, kAttentionKeys, head_words, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      V::Store(block.scratch.scores + r * kAttentionKeys + column + c * V::kWidth, sums[r][c]);
    }
  }
}

// Weighted values of kRows queries, kColumns vectors of the head, added to what earlier steps gave.
template <class V, int kRows, int kColumns>
inline void ValueTile(const AttentionBlock& block, int64_t padded, int64_t column, int64_t steps,
                      const float* factors, bool first, float* output) {
  typename V::F sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const typename V::F factor = V::Set(factors[r]);
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      float* at = output + r * padded + column + c * V::kWidth;
      sums[r][c] = first ? V::Set(0.0f) : V::Mul(V::Load(at), factor);
    }
  }
  MultiplyTile<V, kRows, kColumns, kAttentionKeys>(
      block.scratch.weights, block.scratch.values + column, padded, steps, sums);
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      V::Store(output + r * padded + column + c * V::kWidth, sums[r][c]);
    }
  }
}

// One step of a tile of `rows` <= kRows queries from position `query`, over keys
// [key, key + keys), packed. Rows past `rows` are computed on whatever the scratch holds and go to
// the padding of scratch.output.
template <class V, int kRows>
inline void AttendTile(const AttentionBlock& block, int64_t query, int64_t rows, int64_t key,
                       int64_t keys, bool first) {
  const AttentionScratch& scratch = block.scratch;
  const int64_t head_words = block.head_size / V::kPerWord;
  const int64_t padded = (block.head_size + V::kWidth - 1) / V::kWidth * V::kWidth;
  const int64_t vectors = (keys + V::kWidth - 1) / V::kWidth;
  const int64_t row_bytes = block.stride * 4 / V::kPerWord;
  for (int64_t r = 0; r < rows; ++r) {
    __builtin_memcpy(scratch.queries + r * kAttentionHeadSize,
                     static_cast<const char*>(block.q) + (query + r) * row_bytes,
                     static_cast<unsigned long>(head_words) * 4);
  }
  for (int64_t r = rows; r < kRows; ++r) {
    __builtin_memset(scratch.queries + r * kAttentionHeadSize, 0,
                     static_cast<unsigned long>(head_words) * 4);
  }

  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) ScoreTile<V, kRows, 2>(block, head_words, v * V::kWidth);
  if (v < vectors) ScoreTile<V, kRows, 1>(block, head_words, v * V::kWidth);

  const float scale = block.scale * kLog2E, inverse_scale = 1.0f / block.scale;
  float factors[kRows] = {};
  const int64_t at = query - block.query_begin;
  for (int64_t r = 0; r < rows; ++r) {
    const PositionRange visible = VisibleKeys(block, query + r, query + r + 1);
    SoftmaxRow row;
    row.scores = scratch.scores + r * kAttentionKeys;
    row.weights = scratch.weights + r * kAttentionKeys;
    row.maximum = scratch.maxima + at + r;
    row.sum = scratch.sums + (at + r) * 16;
    row.bias = block.bias == nullptr ? nullptr : block.bias + key - (query + r);
    row.begin = visible.begin - key;
    row.end = visible.end - key;
    if (row.end > keys) row.end = keys;
    row.scale = scale;
    row.inverse_scale = inverse_scale;
    row.first = first;
    factors[r] = UpdateRow<V>(row, vectors);
  }

  const int64_t steps = (keys + V::kPerWord - 1) / V::kPerWord;
  float* output = scratch.output + at * padded;
  int64_t column = 0;
  for (; column + 2 * V::kWidth <= padded; column += 2 * V::kWidth) {
    ValueTile<V, kRows, 2>(block, padded, column, steps, factors, first, output);
  }
  if (column < padded) {
    ValueTile<V, kRows, 1>(block, padded, column, steps, factors, first, output);
  }
}

// Packs keys [key, key + keys) and their values.
template <class V>
inline void PackStep(const AttentionBlock& block, int64_t key, int64_t keys) {
  const int64_t head_words = block.head_size / V::kPerWord;
  const int64_t row_bytes = block.stride * 4 / V::kPerWord;
  const char* k = static_cast<const char*>(block.k) + key * row_bytes;
  for (int64_t j = 0; j < keys; j += V::kWidth) {
    const int rows = static_cast<int>(keys - j < V::kWidth ? keys - j : V::kWidth);
    for (int64_t w = 0; w < head_words; w += V::kWidth) {
      const int words = static_cast<int>(head_words - w < V::kWidth ? head_words - w : V::kWidth);
      V::TransposeWords(k + j * row_bytes + w * 4, row_bytes, rows, words,
                        block.scratch.keys + w * kAttentionKeys + j, kAttentionKeys);
    }
  }
  V::PackValues(static_cast<const char*>(block.v) + key * row_bytes, row_bytes, keys,
                block.head_size, block.scratch.values);
}

template <class V>
inline void StoreBlock(const AttentionBlock& block) {
  const int64_t padded = (block.head_size + V::kWidth - 1) / V::kWidth * V::kWidth;
  for (int64_t query = block.query_begin; query < block.query_end; ++query) {
    const int64_t at = query - block.query_begin;
    const float* row = block.scratch.output + at * padded;
    const float total = V::SumOfLanes(V::Load(block.scratch.sums + at * 16));
    const typename V::F inverse = V::Set(1.0f / total);
    for (int64_t c = 0; c < block.head_size; c += V::kWidth) {
      const int64_t count = block.head_size - c;
      const typename V::F x = V::Mul(V::Load(row + c), inverse);
      if (block.bf16_output) {
        uint16_t* to = static_cast<uint16_t*>(block.output) + query * block.output_stride + c;
        if (count >= V::kWidth) {
          V::StoreBf16(to, x);
        } else {
          V::StoreBf16First(to, x, static_cast<int>(count));
        }
      } else {
        float* to = static_cast<float*>(block.output) + query * block.output_stride + c;
        if (count >= V::kWidth) {
          V::Store(to, x);
        } else {
          V::StoreFirst(to, x, static_cast<int>(count));
        }
      }
    }
  }
}

template <class V>
inline void AttendWith(const AttentionBlock& block) {
  const PositionRange all = VisibleKeys(block, block.query_begin, block.query_end);
  const int64_t first_key = all.begin / kAttentionKeys * kAttentionKeys;
  for (int64_t key = first_key; key < all.end; key += kAttentionKeys) {
    const int64_t left = block.keys - key;
    const int64_t keys = left < kAttentionKeys ? left : kAttentionKeys;
    PackStep<V>(block, key, keys);
    for (int64_t query = block.query_begin; query < block.query_end; query += V::kQueries) {
      const int64_t left_rows = block.query_end - query;
      const int64_t rows = left_rows < V::kQueries ? left_rows : V::kQueries;
      const PositionRange seen = VisibleKeys(block, query, query + rows);
      if (key >= seen.end || key + kAttentionKeys <= seen.begin) continue;
      const bool first = key <= seen.begin;
      if (rows == 1) {
        AttendTile<V, 1>(block, query, rows, key, keys, first);
      } else if (rows == 2) {
        AttendTile<V, 2>(block, query, rows, key, keys, first);
      } else if (rows <= 4) {
        AttendTile<V, 4>(block, query, rows, key, keys, first);
      } else {
        AttendTile<V, V::kQueries>(block, query, rows, key, keys, first);
      }
    }
  }
  StoreBlock<V>(block);
}

}  // namespace octavo::cpu
