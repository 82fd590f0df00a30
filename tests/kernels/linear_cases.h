// Problems for linear kernels and the judge of their outputs: shared by linear_test and
// octavo-bench, which validates before it times.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/linear.h"
#include "quant/format.h"
#include "tests/kernels/device_copies.h"

namespace octavo {

// How weights and activations are drawn.
enum class Values : uint8_t {
  kPlain,     // standard normal
  kSpread,    // scales of channels and tokens 2^-8 to 2^8, groups 2^-2 to 2^2 and off centre
  kInteger,   // small integers under unit scales: products are exact
  kExtreme,   // codes at their limits, an outlier token, a row of zeros
  kPositive,  // magnitudes of standard normals: sums grow with K
};

struct EpilogueCase {
  bool bias = false;
  Activation activation = Activation::kNone;
  bool gated = false;     // N is even
  bool residual = false;  // f32 outputs are then written over the residual
  Element output = Element::kF32;
};

std::string Describe(const EpilogueCase& epilogue);

// Outputs of one run, with what lies around them.
struct LinearOutput {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements; columns beyond `columns` are guards
  Element element = Element::kF32;
  std::vector<uint8_t> values;  // guard rows, rows, guard rows
  std::vector<float> scales;    // the same, one a row; e4m3: for each 128 columns
  std::vector<int32_t> sums;
  std::string fault;  // of the run itself: the device failed, memory outside was written

  static constexpr int64_t kGuardRows = 2;
  const uint8_t* row(int64_t r) const;
  int64_t row_bytes() const;     // of `columns`
  int64_t scale_groups() const;  // a row
};

// True if `rows` rows of a from `begin` are the first of b, bit for bit, scales and sums included.
bool SameRows(const LinearOutput& a, int64_t begin, const LinearOutput& b, int64_t rows);
inline bool SameRows(const LinearOutput& a, int64_t begin, const LinearOutput& b) {
  return SameRows(a, begin, b, b.rows);
}

// How a kernel takes its operands.
struct Operands {
  explicit Operands(const Format& format) : input(format.activation.element) {}
  explicit Operands(const LinearKernel& kernel)
      : input(kernel.input), f16_range(input == Element::kF16 || kernel.kept == Element::kF16) {}

  Element input;           // of the activations
  bool f16_range = false;  // products are drawn within f16's range
  bool aligned = false;    // strides are multiples of 16 elements; else they are odd
};

// What a kernel's products may be off by.
struct ErrorBound {
  explicit ErrorBound(const LinearKernel& kernel)
      : constant(kernel.error_constant), arithmetic(kernel.arithmetic), kept(kernel.kept) {}
  ErrorBound(double error_constant, Element of) : constant(error_constant), arithmetic(of) {}

  double constant;
  Element arithmetic;
  Element kept = Element::kF32;  // LinearKernel::kept
};

class LinearProblem {
 public:
  // Draws a weight of `shape` and `rows` activations in the encodings of `format`, which outlives
  // this.
  LinearProblem(const Format& format, const Operands& operands, const LinearShape& shape,
                int64_t rows, Values values, uint64_t seed);
  LinearProblem(const Format& format, const LinearShape& shape, int64_t rows, Values values,
                uint64_t seed)
      : LinearProblem(format, Operands(format), shape, rows, values, seed) {}

  const Format& format() const { return format_; }
  const LinearShape& shape() const { return shape_; }
  int64_t rows() const { return rows_; }
  const EncodedMatrix& weight() const { return weight_; }
  std::string Describe() const;

  using Runner = std::function<void(const LinearArgs&, Stream&)>;

  // Runs rows [begin, end) of the problem. The activations end where their last row's K ends and
  // hold poison (NaN, or large codes) between rows; the outputs lie among guards.
  LinearOutput Run(const EpilogueCase& epilogue, const PackedWeight* packed, const Runner& run,
                   const DeviceStream& device, int64_t begin, int64_t end) const;
  LinearOutput Run(const EpilogueCase& epilogue, const PackedWeight* packed, const Runner& run,
                   const DeviceStream& device) const {
    return Run(epilogue, packed, run, device, 0, rows_);
  }
  // Overwrites the activations of rows from `begin` on, below rows().
  void Poison(int64_t begin);

  // Judges a run of rows from `begin`: "" or what is wrong, first element first.
  //   |error of a product| <= constant * eps(arithmetic) * sum|x||w|, then as the epilogue
  //   carries it on, the stated errors of its functions, and half a step of the output encoding.
  // Guards are untouched; int8 outputs have scale = max / 127 and right sums, e4m3
  // outputs scale = max / 448 for every 128 columns. What f16 cannot hold may be infinite in f16.
  std::string Check(const EpilogueCase& epilogue, const LinearOutput& output,
                    const ErrorBound& bound, int64_t begin = 0) const;

  // "" if nothing was written outside the outputs.
  std::string CheckGuards(const LinearOutput& output) const;

  // "" if f32 outputs of a run without epilogue are the products exactly (integers under 2^24).
  std::string CheckExact(const LinearOutput& output) const;

  // NMSE of f32 outputs of a run without epilogue against the product of the values that were
  // encoded: the quantization alone.
  double QuantizationError(const LinearOutput& output) const;

 private:
  void DrawIntegers(uint64_t seed);
  void DrawExtremes(uint64_t seed);
  void DrawNormal(uint64_t seed, bool spread);
  int64_t Padded(int64_t columns, int64_t odd) const;
  void EncodeActivations();
  void EncodeE4m3Activations(int64_t row, const float* from, uint8_t* to, float* decoded);
  void MakeGroupMagnitude();
  void MakeEpilogueData(uint64_t seed);

  const Format& format_;
  const Operands operands_;
  const LinearShape shape_;
  const int64_t rows_;
  const Values values_;
  EncodedMatrix weight_;
  std::vector<float> original_weight_;  // [n, k], before encoding; empty if codes were drawn
  std::vector<float> original_input_;   // [rows, k]
  std::vector<float> decoded_weight_;
  std::vector<float> decoded_input_;
  std::vector<uint8_t> input_;  // [rows, input_stride_], the last row cut at K
  int64_t input_stride_ = 0;
  std::vector<float> input_scales_;  // [groups][input_scale_stride_]
  int64_t input_scale_stride_ = 0;
  std::vector<int32_t> input_sums_;
  std::vector<float> bias_;      // [n]
  std::vector<float> residual_;  // [rows, residual_stride_]
  int64_t residual_stride_ = 0;
  std::vector<double> products_;         // [rows, n]
  std::vector<double> magnitude_;        // [rows, n], sum|x||w|
  std::vector<double> group_magnitude_;  // [rows, n], sum m|w| (kernels/linear.h), of 4 bits
};

}  // namespace octavo
