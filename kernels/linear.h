// The linear kernel: output[M, N] = epilogue(input[M, K] * weight[N, K]^T), weight quantized.
//
// A kernel is a row of its backend's table (kernels/cpu/linear_table.cc). Selection, tests and
// benches all loop over the table.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/stream.h"
#include "quant/format.h"

namespace octavo {

// A weight in a kernel's own layout; made once, at load, by the row's `pack`. Rows with the same
// `packing` share it. Immutable, thread-safe.
struct PackedWeight {
  const Format* format = nullptr;
  int packing = 0;
  LinearShape shape;
  int64_t bytes = 0;  // all memory held, for the memory report
  std::shared_ptr<const void> data;
};

struct LinearArgs {
  int64_t rows = 0;  // M, tokens
  Matrix input;      // [M, K] in the format's activation encoding
  Matrix output;     // [M, N] (N / 2 if gated); a float, int8 with scales and sums a row, or e4m3
  const PackedWeight* weight = nullptr;
  Epilogue epilogue;
  // Where a device holds the number of rows, `rows` being its upper bound: rows past it need not be
  // computed. Null: `rows` is the number.
  const int32_t* device_rows = nullptr;
};

// One row of a backend's table. Plain data with static storage.
struct LinearKernel {
  std::string_view name;  // "a8w8_int8_avx512vnni": format, arithmetic type, instruction set
  // Formats it computes (rows for all int4 groups share one kernel).
  bool (*accepts)(const Format& format);
  uint32_t instruction_sets;  // needed bits of cpu::InstructionSets, exact
  int packing;                // rows with equal packing share one packed weight
  Element input;              // element type of the activations it reads
  bool (*fits)(const LinearShape& shape);
  absl::Status (*pack)(const Format& format, const EncodedMatrix& weight, PackedWeight* packed);
  // `input` and `output` do not overlap; `residual` may equal an f32 output. Everything a row of
  // output needs is read from that row of input: results do not depend on other rows, nor, unless
  // the row says so below, on M.
  void (*run)(const LinearArgs& args, Stream& stream);
  // c in |error| <= c * eps * sum|x||w|, eps of the arithmetic type; of int16, sum m|w|, m the
  // largest |x| of the weight's group.
  double error_constant;
  Element arithmetic;  // f32, bf16, f16, int16 or int8
  // Fastest for many rows of activations, not for few: a plan times the next row of the table too.
  bool for_many_rows = false;
  // What values are kept in between a product and their encoding in 8 bits.
  Element kept = Element::kF32;
  // A library computes it, and chooses its algorithm by M: the order of sums, and so the last bits,
  // depend on M.
  bool bits_depend_on_m = false;
};

}  // namespace octavo
