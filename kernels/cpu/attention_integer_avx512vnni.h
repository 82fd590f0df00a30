// Attention over one block of queries in integers, for AVX-512 VNNI; attention_int8_avx512vnni.cc
// and attention_int16_avx512vnni.cc instantiate it, each for an encoding of scores' operands.
//
// q, k and v come as bf16. Each query and each key is encoded with a scale of its own, each channel
// of a step's values with one for the step, all by their largest magnitude. Weights are
// 2^(score - maximum) in steps of 2^-14. Integer sums are exact, so that scores and a step's
// weighted values do not depend on the order of summing. A value that is not finite gives a scale
// that is not finite, and that a result that is not.
//
// An encoding E of scores' operands has:
//   kPerWord        elements of q or k in a 32-bit word
//   kLimit          largest magnitude of an element
//   Encode<kKeys>   kPerWord / 2 vectors of bf16 pairs, times the inverse scales, as one of words
//   AddCorrection   adds what a word of queries makes sums too large by
//   Dot             sums += products of words of keys with words of queries
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/attention_avx512.h"

namespace octavo::cpu {
namespace {

// 2^14 * 1020 * kAttentionKeys < 2^31.
constexpr float kWeightLog = 14.0f;
constexpr float kValueLimit = 1020.0f;

// The two bf16 of each word as floats.
inline __m512 LowHalf(__m512i words) { return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)); }
inline __m512 HighHalf(__m512i words) {
  return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(-0x10000)));
}

// x * inverse + offset rounded to an integer in the low bits of each lane, in two's complement
// below bits that are junk; at most 15 bits.
inline __m512i RoundInLowBits(__m512 x, __m512 inverse, float offset = 0.0f) {
  return _mm512_castps_si512(_mm512_fmadd_ps(x, inverse, _mm512_set1_ps(0x1.8p23f + offset)));
}

// Bits of `low` where kMask has ones, of `high` elsewhere.
template <int kMask>
inline __m512i Select(__m512i low, __m512i high) {
  return _mm512_ternarylogic_epi32(low, high, _mm512_set1_epi32(kMask), 0xe4);
}
inline __m512i JoinPair(__m512i low, __m512i high) {
  return Select<0xffff>(low, _mm512_slli_epi32(high, 16));
}

struct Scales {
  __m512 scale, inverse;
};

// For rows whose largest magnitudes have these bits, as EncodeRow of epilogue.h.
inline Scales ScalesOf(__m512i largest_bits, float limit) {
  const __m512 largest = _mm512_castsi512_ps(largest_bits);
  const __mmask16 more = _mm512_cmpge_epu32_mask(largest_bits, _mm512_set1_epi32(kTinyBits));
  const __mmask16 encoded =
      _mm512_mask_cmplt_epu32_mask(more, largest_bits, _mm512_set1_epi32(kInfinityBits));
  return {_mm512_maskz_mul_ps(more, largest, _mm512_set1_ps(1.0f / limit)),
          _mm512_maskz_div_ps(encoded, _mm512_set1_ps(limit), largest)};
}

// Largest magnitudes of pairs of bf16, as bits.
inline __m512i MaxPairs(__m512i largest, __m512i pairs) {
  return _mm512_max_epu16(largest, _mm512_and_si512(pairs, _mm512_set1_epi32(0x7fff7fff)));
}

// Encodes up to 16 rows of q or k to words [head words][stride]; rows past `rows` become zeros.
// `corrections`: of queries.
template <class E, bool kKeys>
inline void PackRows(const char* from, int64_t row_bytes, int rows, int head_size, uint32_t* to,
                     int64_t stride, float* scales, int32_t* corrections) {
  constexpr int kBf16Words = E::kPerWord / 2;
  const int head_words = head_size / 2;
  alignas(64) uint32_t transposed[kAttentionHeadSize / 2 * 16];
  for (int w = 0; w < head_words; w += 16) {
    const int words = head_words - w < 16 ? head_words - w : 16;
    Avx512Attention::TransposeWords(from + w * 4, row_bytes, rows, words, transposed + w * 16, 16);
  }
  __m512i largest = _mm512_setzero_si512();
  for (int w = 0; w < head_words; ++w) {
    largest = MaxPairs(largest, _mm512_load_si512(transposed + w * 16));
  }
  largest = _mm512_max_epu32(_mm512_slli_epi32(largest, 16),
                             _mm512_and_si512(largest, _mm512_set1_epi32(-0x10000)));
  const Scales by = ScalesOf(largest, E::kLimit);
  _mm512_storeu_ps(scales, by.scale);
  __m512i sums = _mm512_setzero_si512();
  for (int w = 0; w < head_words; w += kBf16Words, to += stride) {
    const __m512i word = E::template Encode<kKeys>(transposed + w * 16, by.inverse);
    _mm512_storeu_si512(to, word);
    if constexpr (!kKeys) E::AddCorrection(sums, word);
  }
  if constexpr (!kKeys) _mm512_storeu_si512(corrections, sums);
}

// Where pair p of a step's values is kept: weights are packed from two vectors of keys at a time,
// which leaves fours of each by turns; the last vector of an odd number is in order.
inline int64_t PairPlace(int64_t pair, int64_t vectors) {
  if (pair / 16 >= vectors / 2) return pair;
  const int64_t p = pair % 16;
  return pair - p + p % 8 / 2 * 4 + p / 8 * 2 + p % 2;
}

// Encodes values [keys, head_size] to pairs of keys [pairs][padded].
inline void PackIntegerValues(const char* from, int64_t row_bytes, int64_t keys, int head_size,
                              int64_t padded, uint32_t* to, float* scales) {
  const int64_t vectors = (keys + 15) / 16;
  for (int64_t c = 0; c < head_size; c += 32) {
    const int64_t left = head_size - c;
    const __mmask32 read = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    __m512i largest = _mm512_setzero_si512();
    for (int64_t j = 0; j < keys; ++j) {
      largest = MaxPairs(largest, _mm512_maskz_loadu_epi16(read, from + j * row_bytes + c * 2));
    }
    alignas(64) uint16_t bits[32];
    _mm512_store_si512(bits, largest);
    for (int64_t i = 0; i < 32 && c + i < padded; i += 16) {
      const __m512i words =
          _mm512_cvtepu16_epi32(_mm256_load_si256(reinterpret_cast<const __m256i*>(bits + i)));
      const Scales by = ScalesOf(_mm512_slli_epi32(words, 16), kValueLimit);
      _mm512_storeu_ps(scales + c + i, by.scale);
      const __mmask16 in_head = Avx512Attention::Lanes(0, left - i);
      const char* column = from + (c + i) * 2;
      const auto encode = [&](int64_t key) {
        if (key >= keys) return _mm512_setzero_si512();
        const __m256i row = _mm256_maskz_loadu_epi16(in_head, column + key * row_bytes);
        return RoundInLowBits(LowHalf(_mm512_cvtepu16_epi32(row)), by.inverse);
      };
      const int64_t pairs = vectors % 2 == 0 ? vectors * 8 : (keys + 1) / 2;
      for (int64_t pair = 0; pair < pairs; ++pair) {
        _mm512_storeu_si512(to + PairPlace(pair, vectors) * padded + c + i,
                            JoinPair(encode(2 * pair), encode(2 * pair + 1)));
      }
    }
  }
}

// sums[r][c] += products of row r of `a` with vector column c of `b`. In `a` rows are `row` words
// apart and a row's words `step`.
template <class E, int kRows, int kColumns>
inline void AddProducts(const uint32_t* a, int64_t row, int64_t step, const uint32_t* b,
                        int64_t b_stride, int64_t steps, __m512i (&sums)[kRows][kColumns]) {
  for (int64_t s = 0; s < steps; ++s) {
    __m512i words[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) words[c] = _mm512_loadu_si512(b + c * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const __m512i word = _mm512_set1_epi32(static_cast<int>(a[r * row]));
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) E::Dot(sums[r][c], words[c], word);
    }
    a += step;
    b += b_stride;
  }
}

// Signed pairs, sums in assembly for the reason given in linear_a8w8_int8_avx512vnni.cc.
struct Int16Pairs {
  static constexpr int kPerWord = 2;
  static constexpr float kLimit = 2047.0f;  // kLimit^2 * kAttentionHeadSize < 2^31

  template <bool kKeys>
  static __m512i Encode(const uint32_t* words, __m512 inverse) {
    const __m512i pairs = _mm512_load_si512(words);
    return JoinPair(RoundInLowBits(LowHalf(pairs), inverse),
                    RoundInLowBits(HighHalf(pairs), inverse));
  }
  static void AddCorrection(__m512i&, __m512i) {}
  static void Dot(__m512i& sums, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  }
};

// Keys are stored plus 128, as in linear_a8w8_int8.h.
struct Int8Quads {
  static constexpr int kPerWord = 4;
  static constexpr float kLimit = 127.0f;

  template <bool kKeys>
  static __m512i Encode(const uint32_t* words, __m512 inverse) {
    constexpr float kOffset = kKeys ? 128.0f : 0.0f;
    const __m512i first = _mm512_load_si512(words), second = _mm512_load_si512(words + 16);
    const __m512i low =
        Select<0xff>(RoundInLowBits(LowHalf(first), inverse, kOffset),
                     _mm512_slli_epi32(RoundInLowBits(HighHalf(first), inverse, kOffset), 8));
    const __m512i high =
        Select<0xff>(RoundInLowBits(LowHalf(second), inverse, kOffset),
                     _mm512_slli_epi32(RoundInLowBits(HighHalf(second), inverse, kOffset), 8));
    return JoinPair(low, high);
  }
  static void AddCorrection(__m512i& sums, __m512i word) {
    Dot(sums, _mm512_set1_epi32(static_cast<int>(0x80808080u)), word);
  }
  static void Dot(__m512i& sums, __m512i from_unsigned, __m512i from_signed) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(from_unsigned), "v"(from_signed));
  }
};

// Scores of kRows queries with kColumns vectors of keys, times the keys' scales.
template <class E, int kRows, int kColumns>
inline void IntegerScoreTile(const AttentionBlock& block, int64_t at, int64_t column) {
  const AttentionScratch& scratch = block.scratch;
  __m512i sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      sums[r][c] = _mm512_sub_epi32(_mm512_setzero_si512(),
                                    _mm512_set1_epi32(scratch.query_corrections[at + r]));
    }
  }
  AddProducts<E, kRows, kColumns>(scratch.queries + at, 1, kAttentionQueryStride,
                                  scratch.keys + column, kAttentionKeys,
                                  block.head_size / E::kPerWord, sums);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    const __m512 scale = _mm512_loadu_ps(scratch.key_scales + column + c * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      _mm512_storeu_ps(scratch.scores + r * kAttentionKeys + column + c * 16,
                       _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), scale));
    }
  }
}

// Weighted values of kRows queries, kColumns vectors of the head, added to what earlier steps gave.
template <int kRows, int kColumns>
inline void IntegerValueTile(const AttentionBlock& block, int64_t padded, int64_t column,
                             int64_t steps, const float* factors, bool first, float* output) {
  __m512i sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sums[r][c] = _mm512_setzero_si512();
  }
  AddProducts<Int16Pairs, kRows, kColumns>(block.scratch.weights, kAttentionKeys, 1,
                                           block.scratch.values + column, padded, steps, sums);
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    const __m512 scale = _mm512_loadu_ps(block.scratch.value_scales + column + c * 16);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      float* at = output + r * padded + column + c * 16;
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[r][c]), scale);
      _mm512_storeu_ps(
          at, first ? product
                    : _mm512_fmadd_ps(_mm512_loadu_ps(at), _mm512_set1_ps(factors[r]), product));
    }
  }
}

// Lanes of a step's vector v that a row sees.
template <bool kAll>
inline __mmask16 Seen(const SoftmaxRow& row, int64_t v) {
  if constexpr (kAll) return 0xffff;
  return Avx512Attention::Lanes(row.begin - v * 16, row.end - v * 16);
}

// As UpdateRow of attention_vector.h; masked keys get a weight of 0 whatever their score.
template <bool kAll>
inline float UpdateIntegerRow(const SoftmaxRow& row, int64_t vectors) {
  __m512 largest = _mm512_set1_ps(kMaskedScore);
  for (int64_t v = 0; v < vectors; ++v) {
    // In this order a NaN is passed over.
    largest = _mm512_mask_max_ps(largest, Seen<kAll>(row, v), _mm512_loadu_ps(row.scores + v * 16),
                                 largest);
  }
  const float before = row.first ? kLowestMaximum : *row.maximum;
  const float here = _mm512_reduce_max_ps(largest) * row.scale;
  const float maximum = before > here ? before : here;
  *row.maximum = maximum;

  const __m512 scale = _mm512_set1_ps(row.scale), shift = _mm512_set1_ps(kWeightLog - maximum);
  const auto weight = [&](int64_t v) {
    const __m512 score = _mm512_loadu_ps(row.scores + v * 16);
    return avx512::Exp2Coarse(_mm512_fmadd_ps(score, scale, shift), Seen<kAll>(row, v));
  };
  __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) {
    const __m512 x = weight(v), y = weight(v + 1);
    sums[0] = _mm512_add_ps(sums[0], x);
    sums[1] = _mm512_add_ps(sums[1], y);
    _mm512_storeu_si512(row.weights + v * 8,
                        _mm512_packs_epi32(_mm512_cvtps_epi32(x), _mm512_cvtps_epi32(y)));
  }
  if (v < vectors) {
    const __m512 x = weight(v);
    sums[0] = _mm512_add_ps(sums[0], x);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.weights + v * 8),
                        _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
  }
  __m512 sum = _mm512_add_ps(sums[0], sums[1]);
  float factor = 0.0f;
  if (!row.first) {
    factor = _mm512_cvtss_f32(avx512::Exp2Coarse(_mm512_set1_ps(before - maximum)));
    sum = _mm512_fmadd_ps(_mm512_loadu_ps(row.sum), _mm512_set1_ps(factor), sum);
  }
  _mm512_storeu_ps(row.sum, sum);
  return factor;
}

// Takes the seen scores to the unit of the bias and adds it.
inline void AddBias(const SoftmaxRow& row, float scale, int64_t vectors) {
  for (int64_t v = 0; v < vectors; ++v) {
    const __mmask16 seen = Seen<false>(row, v);
    const __m512 bias = _mm512_maskz_loadu_ps(seen, row.bias + v * 16);
    const __m512 score = _mm512_loadu_ps(row.scores + v * 16);
    _mm512_storeu_ps(row.scores + v * 16, _mm512_fmadd_ps(score, _mm512_set1_ps(scale), bias));
  }
}

// One step of a tile of `rows` <= kRows queries from position `query`, over packed keys
// [key, key + keys). Rows past `rows` go to the padding of scratch.output.
template <class E, int kRows>
inline void IntegerTile(const AttentionBlock& block, int64_t query, int64_t rows, int64_t key,
                        int64_t keys, bool first) {
  const AttentionScratch& scratch = block.scratch;
  const int64_t padded = (block.head_size + 15) / 16 * 16;
  const int64_t vectors = (keys + 15) / 16;
  const int64_t at = query - block.query_begin;
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) IntegerScoreTile<E, kRows, 2>(block, at, v * 16);
  if (v < vectors) IntegerScoreTile<E, kRows, 1>(block, at, v * 16);

  float factors[kRows] = {};
  for (int64_t r = 0; r < rows; ++r) {
    const PositionRange visible = VisibleKeys(block, query + r, query + r + 1);
    SoftmaxRow row = {};
    row.scores = scratch.scores + r * kAttentionKeys;
    row.weights = scratch.weights + r * kAttentionKeys;
    row.maximum = scratch.maxima + at + r;
    row.sum = scratch.sums + (at + r) * 16;
    row.begin = visible.begin - key;
    row.end = visible.end - key < keys ? visible.end - key : keys;
    row.scale = scratch.query_scales[at + r] * block.scale * kLog2E;
    row.first = first;
    if (block.bias != nullptr) {
      row.bias = block.bias + key - (query + r);
      AddBias(row, scratch.query_scales[at + r] * block.scale, vectors);
      row.scale = kLog2E;
    }
    const bool all = row.begin <= 0 && row.end == vectors * 16;
    factors[r] = all ? UpdateIntegerRow<true>(row, vectors) : UpdateIntegerRow<false>(row, vectors);
  }

  const int64_t pairs = vectors % 2 == 0 ? vectors * 8 : (keys + 1) / 2;
  float* output = scratch.output + at * padded;
  int64_t column = 0;
  for (; column + 32 <= padded; column += 32) {
    IntegerValueTile<kRows, 2>(block, padded, column, pairs, factors, first, output);
  }
  if (column < padded) {
    IntegerValueTile<kRows, 1>(block, padded, column, pairs, factors, first, output);
  }
}

template <class E>
inline void AttendInIntegers(const AttentionBlock& block) {
  const AttentionScratch& scratch = block.scratch;
  const int64_t row_bytes = block.stride * 2;
  const int64_t padded = (block.head_size + 15) / 16 * 16;
  for (int64_t at = 0; at < block.query_end - block.query_begin; at += 16) {
    const int64_t query = block.query_begin + at, left = block.query_end - query;
    PackRows<E, false>(static_cast<const char*>(block.q) + query * row_bytes, row_bytes,
                       static_cast<int>(left < 16 ? left : 16), block.head_size,
                       scratch.queries + at, kAttentionQueryStride, scratch.query_scales + at,
                       scratch.query_corrections + at);
  }
  const PositionRange all = VisibleKeys(block, block.query_begin, block.query_end);
  const int64_t first_key = all.begin / kAttentionKeys * kAttentionKeys;
  for (int64_t key = first_key; key < all.end; key += kAttentionKeys) {
    const int64_t rest = block.keys - key;
    const int64_t keys = rest < kAttentionKeys ? rest : kAttentionKeys;
    for (int64_t j = 0; j < keys; j += 16) {
      PackRows<E, true>(static_cast<const char*>(block.k) + (key + j) * row_bytes, row_bytes,
                        static_cast<int>(keys - j < 16 ? keys - j : 16), block.head_size,
                        scratch.keys + j, kAttentionKeys, scratch.key_scales + j, nullptr);
    }
    PackIntegerValues(static_cast<const char*>(block.v) + key * row_bytes, row_bytes, keys,
                      block.head_size, padded, scratch.values, scratch.value_scales);
    for (int64_t query = block.query_begin; query < block.query_end;
         query += kAttentionTileQueries) {
      const int64_t left = block.query_end - query;
      const int64_t rows = left < kAttentionTileQueries ? left : kAttentionTileQueries;
      const PositionRange seen = VisibleKeys(block, query, query + rows);
      if (key >= seen.end || key + kAttentionKeys <= seen.begin) continue;
      const bool first = key <= seen.begin;
      if (rows == 1) {
        IntegerTile<E, 1>(block, query, rows, key, keys, first);
      } else if (rows == 2) {
        IntegerTile<E, 2>(block, query, rows, key, keys, first);
      } else if (rows <= 4) {
        IntegerTile<E, 4>(block, query, rows, key, keys, first);
      } else {
        IntegerTile<E, kAttentionTileQueries>(block, query, rows, key, keys, first);
      }
    }
  }
  StoreBlock<Avx512Attention>(block);
}

}  // namespace
}  // namespace octavo::cpu
