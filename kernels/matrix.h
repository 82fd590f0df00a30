// Operands of kernels as plain data, without the table's Status and formats: what files compiled
// for one instruction set may include.
#pragma once

#include <cstdint>

#include "quant/element.h"

namespace octavo {

struct LinearShape {
  int64_t n = 0;  // output channels
  int64_t k = 0;  // input channels
};

enum class Activation : uint8_t { kNone, kGelu, kGeluTanh, kSilu };

// What happens to the product, in this order: scales, bias, activation (or gate), residual,
// output encoding. Data, not code: a new model needs no new epilogue.
struct Epilogue {
  const float* bias = nullptr;  // [N]
  Activation activation = Activation::kNone;
  // The weight's rows are pairs (gate, up) interleaved at pack; output column j is
  // activation(row 2j) * row 2j+1 and the output has N / 2 columns.
  bool gated = false;
  const float* residual = nullptr;  // [M, residual_stride], f32, added last
  int64_t residual_stride = 0;
};

// A matrix of activations [rows, columns], row-major, `stride` elements from row to row.
struct Matrix {
  void* values = nullptr;
  int64_t stride = 0;
  Element element = Element::kF32;
  // int8: [rows], value = q * scale. e4m3: a scale a row and 128 columns,
  // value = q * scales[column / 128 * scale_stride + row].
  float* scales = nullptr;
  int32_t* sums = nullptr;  // [rows]; int8: sum of a row's q, kept for kernels that shift operands
  int64_t scale_stride = 0;
};

}  // namespace octavo
