// How the CPU attention rows are cut into blocks of work, and what an instruction set's file
// supplies.
//
// A block is some consecutive queries of one sequence in one head. It passes over the sequence's
// keys kAttentionKeys at a time, packs those keys and values, and updates each query's running
// maximum, sum and weighted values (the online softmax of Milakov & Gimelshein, arXiv:1805.02867,
// and FlashAttention, arXiv:2205.14135): no score matrix is kept. Blocks of keys begin at the
// sequence's start and every query is computed by the same operations whatever tile it falls in.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace octavo::cpu {

inline constexpr int kAttentionKeys = 128;       // keys a step
inline constexpr int kAttentionQueries = 256;    // most queries a block
inline constexpr int kAttentionHeadSize = 256;   // largest head
inline constexpr int kAttentionTileQueries = 8;  // most queries a register tile
// Queries from word to word of a block's packed queries: off powers of two, on which the words of
// a query would meet in the same cache sets.
inline constexpr int kAttentionQueryStride = kAttentionQueries + 16;

// Working memory of one block, 64-byte aligned, contents undefined. Words are 32 bits: one f32 or
// two bf16.
struct AttentionScratch {
  uint32_t* keys;    // [head words][kAttentionKeys]: transposed
  uint32_t* values;  // [kAttentionKeys][padded head size] f32, or half the rows of 16-bit pairs
  // [kAttentionTileQueries][kAttentionHeadSize], or of integers the whole block's, transposed:
  // [head words][kAttentionQueryStride].
  uint32_t* queries;
  float* scores;      // [kAttentionTileQueries][kAttentionKeys]
  uint32_t* weights;  // [kAttentionTileQueries][kAttentionKeys] f32, or 16 bits in half of each row
  float* output;      // [kAttentionQueries][padded head size], weighted values so far
  float* sums;        // [kAttentionQueries][16], by lanes
  float* maxima;      // [kAttentionQueries], times log2(e) and scale
  // Of the integer rows.
  float* query_scales;         // [kAttentionQueryStride]
  int32_t* query_corrections;  // [kAttentionQueryStride], to be taken off a query's sums
  float* key_scales;           // [kAttentionKeys]
  float* value_scales;         // [padded head size]
};

struct AttentionBlock {
  // At the sequence's first row and the block's head.
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t stride = 0;  // elements from row to row
  int head_size = 0;
  float scale = 0;
  int64_t keys = 0;  // length of the sequence
  // Positions in the sequence, at most kAttentionQueries.
  int64_t query_begin = 0;
  int64_t query_end = 0;
  Mask mask = Mask::kFull;
  int window = 0;
  const float* bias = nullptr;  // at key minus query = 0, or null
  // At the sequence's first row and the block's first column; f32, or bf16.
  void* output = nullptr;
  int64_t output_stride = 0;
  bool bf16_output = false;
  AttentionScratch scratch;
};

// Computes a block. One for each file attention_*.cc compiled for an instruction set.
using AttendBlock = void (*)(const AttentionBlock& block);
void AttendF32Portable(const AttentionBlock& block);
void AttendF32Avx2(const AttentionBlock& block);
void AttendF32Avx512(const AttentionBlock& block);
void AttendBf16Avx512Bf16(const AttentionBlock& block);
void AttendInt16Avx512Vnni(const AttentionBlock& block);
void AttendInt8Avx512Vnni(const AttentionBlock& block);

// Runs `attend` over all blocks of args on the team `stream`. element_bytes: of q, k and v.
void RunAttention(AttendBlock attend, int element_bytes, const AttentionArgs& args, Stream& stream);

}  // namespace octavo::cpu
