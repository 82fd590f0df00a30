// The row kernels of rows.h, once, over a vector type of epilogue.h. rows_portable.cc,
// rows_avx2.cc and rows_avx512.cc instantiate them, each for a type in an unnamed namespace.
#pragma once

#include <cstdint>

#include "kernels/cpu/epilogue.h"
#include "kernels/cpu/rows.h"

namespace octavo::cpu {

// Vectors summed side by side, so that additions do not wait for one another.
inline constexpr int kSums = 4;

template <class V>
inline float SumOfLanes(const typename V::F (&sums)[kSums]) {
  float lanes[V::kWidth];
  V::Store(lanes, V::Add(V::Add(sums[0], sums[1]), V::Add(sums[2], sums[3])));
  for (int width = V::kWidth / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Sum of term(x[c .. c + count), count) over the row. Terms of the tail are 0 past `count`.
template <class V, class Term>
inline float SumRow(const float* x, int64_t columns, const Term& term) {
  typename V::F sums[kSums] = {V::Set(0.0f), V::Set(0.0f), V::Set(0.0f), V::Set(0.0f)};
  constexpr int64_t kStep = kSums * V::kWidth;
  int64_t c = 0;
  for (; c + kStep <= columns; c += kStep) {
    for (int i = 0; i < kSums; ++i) {
      sums[i] = V::Add(sums[i], term(V::Load(x + c + i * V::kWidth)));
    }
  }
  for (; c + V::kWidth <= columns; c += V::kWidth) {
    sums[0] = V::Add(sums[0], term(V::Load(x + c)));
  }
  if (c < columns) {
    float last[V::kWidth] = {};
    const int count = static_cast<int>(columns - c);
    V::StoreFirst(last, term(V::LoadFirst(x + c, count)), count);
    sums[1] = V::Add(sums[1], V::Load(last));
  }
  return SumOfLanes<V>(sums);
}

template <class V>
inline void StoreUpTo(float* to, typename V::F x, int64_t count) {
  if (count >= V::kWidth) {
    V::Store(to, x);
  } else {
    V::StoreFirst(to, x, static_cast<int>(count));
  }
}

template <class V>
inline void EncodeOneRow(const float* x, int64_t row, int64_t columns, const Matrix& output) {
  const int64_t at = row * output.stride;
  if (output.element == Element::kInt8) {
    EncodeRow<V>(x, columns, static_cast<int8_t*>(output.values) + at, output.scales + row,
                 output.sums + row);
  } else if (output.element == Element::kE4m3) {
    EncodeE4m3Row(x, columns, static_cast<uint8_t*>(output.values) + at, output.scales + row,
                  output.scale_stride);
  } else if (output.element == Element::kBf16) {
    uint16_t* to = static_cast<uint16_t*>(output.values) + at;
    int64_t c = 0;
    for (; c + V::kWidth <= columns; c += V::kWidth) V::StoreBf16(to + c, V::Load(x + c));
    const int count = static_cast<int>(columns - c);
    if (count > 0) V::StoreBf16First(to + c, V::LoadFirst(x + c, count), count);
  } else {
    float* to = static_cast<float*>(output.values) + at;
    for (int64_t c = 0; c < columns; c += V::kWidth) {
      StoreUpTo<V>(to + c, LoadUpTo<V>(x + c, columns - c), columns - c);
    }
  }
}

template <class V>
inline void EncodeRowsWith(const float* input, int64_t input_stride, int64_t rows, int64_t columns,
                           const Matrix& output) {
  for (int64_t row = 0; row < rows; ++row) {
    EncodeOneRow<V>(input + row * input_stride, row, columns, output);
  }
}

template <class V>
inline void LayerNormRowsWith(float* x, int64_t stride, int64_t rows, int64_t columns,
                              const float* gain, const float* bias, float epsilon,
                              const Matrix* encoded) {
  const float share = 1.0f / static_cast<float>(columns);
  for (int64_t row = 0; row < rows; ++row) {
    float* const to = x + row * stride;
    const float sum = SumRow<V>(to, columns, [](typename V::F v) { return v; });
    const typename V::F centre = V::Set(-sum * share);
    const float squares = SumRow<V>(to, columns, [&](typename V::F v) {
      const typename V::F d = V::Add(v, centre);
      return V::Mul(d, d);
    });
    const typename V::F inverse = V::Set(1.0f / __builtin_sqrtf(squares * share + epsilon));
    for (int64_t c = 0; c < columns; c += V::kWidth) {
      const int64_t count = columns - c;
      const typename V::F d = V::Mul(V::Add(LoadUpTo<V>(to + c, count), centre), inverse);
      const typename V::F scaled = V::Mul(d, LoadUpTo<V>(gain + c, count));
      StoreUpTo<V>(to + c, V::Add(scaled, LoadUpTo<V>(bias + c, count)), count);
    }
    if (encoded != nullptr) EncodeOneRow<V>(to, row, columns, *encoded);
  }
}

template <class V>
inline void EmbedRowsWith(const EmbeddingTables& tables, const int32_t* ids,
                          const int32_t* positions, int64_t rows, int64_t columns, float* hidden,
                          int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* word = tables.word + ids[row] * columns;
    const float* position =
        tables.position == nullptr ? nullptr : tables.position + positions[row] * columns;
    float* to = hidden + row * stride;
    for (int64_t c = 0; c < columns; c += V::kWidth) {
      const int64_t count = columns - c;
      typename V::F x = LoadUpTo<V>(word + c, count);
      if (position != nullptr) x = V::Add(x, LoadUpTo<V>(position + c, count));
      if (tables.token_type != nullptr) {
        x = V::Add(x, LoadUpTo<V>(tables.token_type + c, count));
      }
      StoreUpTo<V>(to + c, x, count);
    }
  }
}

template <class V>
inline void MeanPoolWith(const float* hidden, int64_t stride, int64_t rows, int64_t columns,
                         float* output) {
  const typename V::F share = V::Set(1.0f / static_cast<float>(rows));
  // Four vectors of columns at a time: a cache line of each row is read once.
  constexpr int64_t kStep = kSums * V::kWidth;
  for (int64_t c = 0; c < columns; c += kStep) {
    typename V::F sums[kSums] = {V::Set(0.0f), V::Set(0.0f), V::Set(0.0f), V::Set(0.0f)};
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = hidden + row * stride + c;
      for (int i = 0; i < kSums; ++i) {
        const int64_t count = columns - c - i * V::kWidth;
        if (count > 0) sums[i] = V::Add(sums[i], LoadUpTo<V>(from + i * V::kWidth, count));
      }
    }
    for (int i = 0; i < kSums; ++i) {
      const int64_t count = columns - c - i * V::kWidth;
      if (count > 0) StoreUpTo<V>(output + c + i * V::kWidth, V::Mul(sums[i], share), count);
    }
  }
}

}  // namespace octavo::cpu
