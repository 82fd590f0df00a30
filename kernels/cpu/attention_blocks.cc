#include <algorithm>
#include <cstdint>

#include "kernels/cpu/attention_block.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/team.h"

namespace octavo::cpu {
namespace {

constexpr int64_t kLanes = 16;  // floats of the widest vector

template <typename T>
T* Take(char** memory, int64_t count) {
  T* taken = reinterpret_cast<T*>(*memory);
  *memory += (count * sizeof(T) + 63) / 64 * 64;
  return taken;
}

AttentionScratch ThreadAttentionScratch(int head_size) {
  const int64_t padded = (head_size + kLanes - 1) / kLanes * kLanes;
  // The last tile computes rows past the last query.
  const int64_t queries = kAttentionQueries + kAttentionTileQueries;
  const int64_t query_words = std::max<int64_t>(kAttentionTileQueries * kAttentionHeadSize,
                                                kAttentionQueryStride * (head_size / 2));
  const int64_t words = 2 * kAttentionKeys * padded + query_words +
                        2 * kAttentionTileQueries * kAttentionKeys +
                        queries * (padded + kLanes + 1) + 2 * kAttentionQueryStride +
                        kAttentionKeys + padded + 12 * kLanes;
  char* memory = static_cast<char*>(
      ThreadScratch(ScratchUse::kAttention, words * static_cast<int64_t>(sizeof(uint32_t))));
  AttentionScratch scratch;
  scratch.keys = Take<uint32_t>(&memory, kAttentionKeys * padded);
  scratch.values = Take<uint32_t>(&memory, kAttentionKeys * padded);
  scratch.queries = Take<uint32_t>(&memory, query_words);
  scratch.scores = Take<float>(&memory, kAttentionTileQueries * kAttentionKeys);
  scratch.weights = Take<uint32_t>(&memory, kAttentionTileQueries * kAttentionKeys);
  scratch.output = Take<float>(&memory, queries * padded);
  scratch.sums = Take<float>(&memory, queries * kLanes);
  scratch.maxima = Take<float>(&memory, queries);
  scratch.query_scales = Take<float>(&memory, kAttentionQueryStride);
  scratch.query_corrections = Take<int32_t>(&memory, kAttentionQueryStride);
  scratch.key_scales = Take<float>(&memory, kAttentionKeys);
  scratch.value_scales = Take<float>(&memory, padded);
  return scratch;
}

const void* At(const void* base, int64_t elements, int element_bytes) {
  return static_cast<const char*>(base) + elements * element_bytes;
}

// Rows [begin, end) of the batch, which may touch several sequences, in one head.
void AttendRows(AttendBlock attend, int element_bytes, const AttentionArgs& args, int head,
                int64_t begin, int64_t end) {
  const int kv_head = head / (args.heads / args.key_value_heads);
  AttentionBlock block;
  block.stride = args.stride;
  block.head_size = args.head_size;
  block.scale = args.scale;
  block.mask = args.mask;
  block.window = args.window;
  if (args.relative_bias != nullptr) {
    block.bias = args.relative_bias + head * args.bias_stride + args.bias_zero;
  }
  block.output_stride = args.output.stride;
  block.bf16_output = args.output.element == Element::kBf16;
  block.scratch = ThreadAttentionScratch(args.head_size);
  const int output_bytes = block.bf16_output ? 2 : 4;

  const int32_t* const offsets = args.offsets;
  int64_t sequence =
      std::upper_bound(offsets, offsets + args.sequences + 1, static_cast<int32_t>(begin)) -
      offsets - 1;
  for (int64_t row = begin; row < end; ++sequence) {
    const int64_t first = offsets[sequence], last = offsets[sequence + 1];
    if (first == last) continue;
    const int64_t stop = std::min(end, last);
    const int64_t at = first * args.stride;
    block.q = At(args.q, at + head * args.head_size, element_bytes);
    block.k = At(args.k, at + kv_head * args.head_size, element_bytes);
    block.v = At(args.v, at + kv_head * args.head_size, element_bytes);
    block.keys = last - first;
    block.query_begin = row - first;
    block.query_end = stop - first;
    block.output = static_cast<char*>(args.output.values) +
                   (first * args.output.stride + head * args.head_size) * output_bytes;
    attend(block);
    row = stop;
  }
}

}  // namespace

void RunAttention(AttendBlock attend, int element_bytes, const AttentionArgs& args,
                  Stream& stream) {
  Team& team = static_cast<Team&>(stream);
  const int64_t rows = args.row_end - args.row_begin;
  if (rows <= 0) return;
  // Large blocks pack each key for many queries; several for each thread balance.
  int64_t step = kAttentionQueries;
  const int64_t wanted = team.threads() == 1 ? 1 : 4 * team.threads();
  while (step > 32 && (rows + step - 1) / step * args.heads < wanted) step /= 2;
  const int64_t blocks = (rows + step - 1) / step;
  // Heads change fastest: the cache lines of a row hold several.
  team.Run(blocks * args.heads, [&](int64_t task, int) {
    const int64_t begin = args.row_begin + task / args.heads * step;
    AttendRows(attend, element_bytes, args, static_cast<int>(task % args.heads), begin,
               std::min(begin + step, args.row_end));
  });
}

}  // namespace octavo::cpu
