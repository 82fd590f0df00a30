// The one epilogue of all CPU linear rows: bias, activation or gate, residual, output encoding, as
// data. Written once over a vector type; epilogue_portable.h, epilogue_avx2.h and
// epilogue_avx512.h define that type, in an unnamed namespace, so that each instruction set's code
// stays inside the file compiled for it.
//
// Every element is computed by the same sequence of IEEE operations whatever its position, the
// tile's size or the vector's width (tails are masked, never a scalar twin), so results do not
// depend on the split, and two rows of the table with equal products give equal outputs.
//
// A vector type V has, F being kWidth floats and I kWidth 32-bit integers:
//   Load/LoadFirst, Store/StoreFirst (the first `count` elements, 0 < count <= kWidth; the rest is
//   neither read nor written, and reads as 0), StoreBf16/StoreBf16First (round to nearest even),
//   Set, Add, Mul, Gelu, GeluCoarse, GeluTanh, Silu, Split (even and odd elements of two vectors),
//   MaxAbsBits, MaxOfBits, Round (to int, half to even), AddInts, SumOfInts, ZeroInts,
//   StoreInt8/StoreInt8First.
#pragma once

#include <cstdint>

#include "kernels/cpu/e4m3.h"
#include "kernels/cpu/linear_block.h"

namespace octavo::cpu {

template <class V, Activation kActivation, bool kCoarse>
inline typename V::F Activate(typename V::F x) {
  if constexpr (kActivation == Activation::kGelu) return kCoarse ? V::GeluCoarse(x) : V::Gelu(x);
  if constexpr (kActivation == Activation::kGeluTanh) return V::GeluTanh(x);
  if constexpr (kActivation == Activation::kSilu) return V::Silu(x);
  return x;
}

template <class V>
inline typename V::F LoadUpTo(const float* from, int64_t count) {
  return count >= V::kWidth ? V::Load(from) : V::LoadFirst(from, static_cast<int>(count));
}

// Adds the residual and stores `count` (at most kWidth) outputs of one row from output column j.
template <class V>
inline void StoreOutputs(const LinearBlock& block, int64_t row, int64_t j, int64_t count,
                         typename V::F x) {
  if (block.epilogue.residual != nullptr) {
    const float* residual = block.epilogue.residual + row * block.epilogue.residual_stride + j;
    x = V::Add(x, LoadUpTo<V>(residual, count));
  }
  const int64_t at = row * block.output.stride + j;
  if (block.output.element == Element::kBf16) {
    uint16_t* to = static_cast<uint16_t*>(block.output.values) + at;
    if (count >= V::kWidth) {
      V::StoreBf16(to, x);
    } else {
      V::StoreBf16First(to, x, static_cast<int>(count));
    }
  } else {
    float* to = static_cast<float*>(block.output.values) + at;
    if (count >= V::kWidth) {
      V::Store(to, x);
    } else {
      V::StoreFirst(to, x, static_cast<int>(count));
    }
  }
}

template <class V, Activation kActivation, bool kCoarse>
inline void FinishPlainTile(const LinearBlock& block, const float* product, int64_t product_stride,
                            int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const float* bias = block.epilogue.bias;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += V::kWidth) {
      const int64_t count = columns - c;
      typename V::F x = V::Load(product + r * product_stride + c);
      if (bias != nullptr) x = V::Add(x, LoadUpTo<V>(bias + column + c, count));
      StoreOutputs<V>(block, row + r, column + c, count, Activate<V, kActivation, kCoarse>(x));
    }
  }
}

template <class V, Activation kActivation, bool kCoarse>
inline void FinishGatedTile(const LinearBlock& block, const float* product, int64_t product_stride,
                            int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const float* bias = block.epilogue.bias;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += 2 * V::kWidth) {
      const int64_t count = columns - c;
      typename V::F low = V::Load(product + r * product_stride + c);
      typename V::F high = V::Set(0.0f);
      if (bias != nullptr) low = V::Add(low, LoadUpTo<V>(bias + column + c, count));
      if (count > V::kWidth) {
        high = V::Load(product + r * product_stride + c + V::kWidth);
        if (bias != nullptr) {
          high = V::Add(high, LoadUpTo<V>(bias + column + c + V::kWidth, count - V::kWidth));
        }
      }
      typename V::F gate, up;
      V::Split(low, high, &gate, &up);
      StoreOutputs<V>(block, row + r, (column + c) / 2, count / 2,
                      V::Mul(Activate<V, kActivation, kCoarse>(gate), up));
    }
  }
}

// Finishes products of block rows [row, row + rows) with weight rows [column, column + columns),
// scales already applied. `product` is a scratch tile whose rows are `product_stride` floats apart
// and readable (any value) up to a multiple of the vector's width. column is even if gated.
template <class V>
inline void FinishTile(const LinearBlock& block, const float* product, int64_t product_stride,
                       int64_t row, int64_t rows, int64_t column, int64_t columns) {
  const auto finish = [&]<Activation kActivation, bool kCoarse>() {
    if (block.epilogue.gated) {
      FinishGatedTile<V, kActivation, kCoarse>(block, product, product_stride, row, rows, column,
                                               columns);
    } else {
      FinishPlainTile<V, kActivation, kCoarse>(block, product, product_stride, row, rows, column,
                                               columns);
    }
  };
  switch (block.epilogue.activation) {
    case Activation::kNone:
      return finish.template operator()<Activation::kNone, false>();
    case Activation::kGelu:
      if (block.coarse) return finish.template operator()<Activation::kGelu, true>();
      return finish.template operator()<Activation::kGelu, false>();
    case Activation::kGeluTanh:
      return finish.template operator()<Activation::kGeluTanh, false>();
    case Activation::kSilu:
      return finish.template operator()<Activation::kSilu, false>();
  }
}

// Bits of f32 magnitudes order like the magnitudes, with NaN above infinity: a row's largest
// magnitude found on them shows a value that is not finite, which a float maximum may drop.
inline constexpr uint32_t kInfinityBits = 0x7f800000u;
// Below this largest magnitude (2^-100) 127 / max nears overflow: such a row is encoded as zeros.
inline constexpr uint32_t kTinyBits = 0x0d800000u;

// Encodes a row: scale = max|x| / 127, q = x * (127 / max|x|) rounded half to even, and the sum of
// q. A row with a value that is not finite gets q = 0 and a scale that is not finite, so that the
// fault shows in what is computed from it.
template <class V>
inline void EncodeRow(const float* x, int64_t columns, int8_t* q, float* scale, int32_t* sum) {
  typename V::I bits = V::ZeroInts();
  for (int64_t c = 0; c < columns; c += V::kWidth) {
    bits = V::MaxAbsBits(bits, LoadUpTo<V>(x + c, columns - c));
  }
  const uint32_t largest_bits = V::MaxOfBits(bits);
  float largest;
  __builtin_memcpy(&largest, &largest_bits, sizeof(largest));
  const bool zeros = largest_bits < kTinyBits || largest_bits >= kInfinityBits;
  *scale = largest_bits < kTinyBits ? 0.0f : largest / 127.0f;
  typename V::I total = V::ZeroInts();
  const typename V::F inverse = V::Set(zeros ? 0.0f : 127.0f / largest);
  for (int64_t c = 0; c < columns; c += V::kWidth) {
    const int64_t count = columns - c;
    const typename V::F value = zeros ? V::Set(0.0f) : LoadUpTo<V>(x + c, count);
    const typename V::I rounded = V::Round(V::Mul(value, inverse));
    total = V::AddInts(total, rounded);
    if (count >= V::kWidth) {
      V::StoreInt8(q + c, rounded);
    } else {
      V::StoreInt8First(q + c, rounded, static_cast<int>(count));
    }
  }
  *sum = V::SumOfInts(total);
}

// BlockKernel::encode for vector type V.
template <class V>
inline void EncodeBlock(const float* values, int64_t stride, int64_t rows, int64_t columns,
                        const Matrix& output) {
  for (int64_t r = 0; r < rows; ++r) {
    if (output.element == Element::kE4m3) {
      EncodeE4m3Row(values + r * stride, columns,
                    static_cast<uint8_t*>(output.values) + r * output.stride, output.scales + r,
                    output.scale_stride);
      continue;
    }
    EncodeRow<V>(values + r * stride, columns,
                 static_cast<int8_t*>(output.values) + r * output.stride, output.scales + r,
                 output.sums + r);
  }
}

}  // namespace octavo::cpu
