#include "tests/kernels/linear_cases.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/element_bytes.h"
#include "quant/e4m3.h"
#include "quant/half.h"
#include "tests/reference/reference.h"

namespace octavo {
namespace {

constexpr uint8_t kGuardByte = 0xa5;
constexpr float kGuardScale = -12345.5f;
constexpr int32_t kGuardSum = 0x5a5a5a5a;
constexpr double kF32Epsilon = 0x1p-23;

double Epsilon(Element arithmetic) {
  switch (arithmetic) {
    case Element::kBf16:
      return 0x1p-7;
    case Element::kF16:
      return 0x1p-10;
    case Element::kInt16:
      return 0x1p-15;
    default:  // f32, and int8, whose sums are exact and scaled in f32
      return kF32Epsilon;
  }
}

// Groups of columns with a scale each.
constexpr int64_t kE4m3Group = 128;
int64_t ScaleGroups(Element element, int64_t columns) {
  return element == Element::kE4m3 ? (columns + kE4m3Group - 1) / kE4m3Group : 1;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::string_view ElementName(Element element) {
  switch (element) {
    case Element::kF32:
      return "f32";
    case Element::kF16:
      return "f16";
    case Element::kBf16:
      return "bf16";
    case Element::kInt8:
      return "int8";
    case Element::kE4m3:
      return "e4m3";
    default:
      return "other";
  }
}

}  // namespace

std::string Describe(const EpilogueCase& epilogue) {
  static constexpr std::string_view kActivations[] = {"none", "gelu", "gelu_tanh", "silu"};
  return absl::StrCat(epilogue.bias ? "bias " : "",
                      View(kActivations[static_cast<int>(epilogue.activation)]),
                      epilogue.gated ? " gated" : "", epilogue.residual ? " residual" : "", " -> ",
                      View(ElementName(epilogue.output)));
}

int64_t LinearOutput::scale_groups() const { return ScaleGroups(element, columns); }

int64_t LinearOutput::row_bytes() const { return columns * ElementBytes(element); }

const uint8_t* LinearOutput::row(int64_t r) const {
  return values.data() + (kGuardRows + r) * stride * ElementBytes(element);
}

bool SameRows(const LinearOutput& a, int64_t begin, const LinearOutput& b, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    if (std::memcmp(a.row(begin + r), b.row(r), b.row_bytes()) != 0) return false;
    if (b.element != Element::kInt8 && b.element != Element::kE4m3) continue;
    const int64_t at = LinearOutput::kGuardRows + r;
    for (int64_t g = 0; g < b.scale_groups(); ++g) {
      const float* of_a = &a.scales[g * (a.rows + 2 * LinearOutput::kGuardRows) + at + begin];
      const float* of_b = &b.scales[g * (b.rows + 2 * LinearOutput::kGuardRows) + at];
      if (std::memcmp(of_a, of_b, sizeof(float)) != 0) return false;
    }
    if (a.sums[at + begin] != b.sums[at]) return false;
  }
  return true;
}

LinearProblem::LinearProblem(const Format& format, const Operands& operands,
                             const LinearShape& shape, int64_t rows, Values values, uint64_t seed)
    : format_(format), operands_(operands), shape_(shape), rows_(rows), values_(values) {
  original_input_.resize(rows * shape.k);
  switch (values) {
    case Values::kPlain:
    case Values::kSpread:
      DrawNormal(seed, values == Values::kSpread);
      break;
    case Values::kInteger:
      DrawIntegers(seed);
      break;
    case Values::kExtreme:
      DrawExtremes(seed);
      break;
    case Values::kPositive:
      DrawNormal(seed, /*spread=*/false);
      for (float& x : original_input_) x = std::abs(x);
      for (float& w : original_weight_) w = std::abs(w);
      weight_ = *EncodeMatrix(format_, Method::kRoundToNearest, original_weight_, shape.n, shape.k);
      break;
  }
  decoded_weight_ = DecodeMatrix(format, weight_);
  EncodeActivations();
  products_ = reference::Linear(decoded_input_, decoded_weight_, {}, rows, shape.n, shape.k);
  magnitude_ = reference::LinearMagnitude(decoded_input_, decoded_weight_, rows, shape.n, shape.k);
  if (weight_.encoding.element == Element::kInt4) MakeGroupMagnitude();
  MakeEpilogueData(seed);
}

int64_t LinearProblem::Padded(int64_t columns, int64_t odd) const {
  return operands_.aligned ? (columns + 31) / 16 * 16 : columns + odd;
}

void LinearProblem::DrawNormal(uint64_t seed, bool spread) {
  constexpr int64_t kGroup = 32;
  // Sums of 4096 terms, channels and tokens at their largest, stay below f16's largest.
  const float token_power = operands_.f16_range ? -10.0f : 0.0f;
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> power(-8.0f, 8.0f);
  original_weight_.resize(shape_.n * shape_.k);
  for (int64_t n = 0; n < shape_.n; ++n) {
    const float channel = spread ? std::exp2(power(random)) : 1.0f;
    float scale = channel, centre = 0.0f;
    for (int64_t k = 0; k < shape_.k; ++k) {
      if (spread && k % kGroup == 0) {
        scale = channel * std::exp2(power(random) / 4);
        centre = power(random) / 4;
      }
      original_weight_[n * shape_.k + k] = scale * (normal(random) + centre);
    }
  }
  for (int64_t r = 0; r < rows_; ++r) {
    const float scale = spread ? std::exp2(power(random) + token_power) : 1.0f;
    for (int64_t k = 0; k < shape_.k; ++k) {
      original_input_[r * shape_.k + k] = scale * normal(random);
    }
  }
  weight_ = *EncodeMatrix(format_, Method::kRoundToNearest, original_weight_, shape_.n, shape_.k);
}

void LinearProblem::DrawIntegers(uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> code(-7, 7);
  std::vector<float> weight(shape_.n * shape_.k);
  for (float& w : weight) w = static_cast<float>(code(random));
  weight_ = *EncodeMatrix(format_, Method::kRoundToNearest, weight, shape_.n, shape_.k);
  if (format_.weight.scale != ScaleElement::kNone) {
    // The same integers under unit scales.
    std::fill(weight_.scales.begin(), weight_.scales.end(), 1.0f);
    std::fill(weight_.zeros.begin(), weight_.zeros.end(), 8.0f);
    std::fill(weight_.values.begin(), weight_.values.end(), 0);
    const int64_t row_bytes = weight_.row_bytes();
    for (int64_t n = 0; n < shape_.n; ++n) {
      for (int64_t k = 0; k < shape_.k; ++k) {
        const int w = static_cast<int>(weight[n * shape_.k + k]);
        if (format_.weight.element == Element::kInt8) {
          weight_.values[n * row_bytes + k] = static_cast<uint8_t>(w);
        } else if (format_.weight.element == Element::kE4m3) {
          weight_.values[n * row_bytes + k] = FloatToE4m3(static_cast<float>(w));
        } else {
          weight_.values[n * row_bytes + k / 2] |= (w + 8) << (k % 2 * 4);
        }
      }
    }
  }
  for (float& x : original_input_) x = static_cast<float>(code(random));
}

void LinearProblem::DrawExtremes(uint64_t seed) {
  DrawNormal(seed, /*spread=*/false);
  std::mt19937_64 random(seed + 1);
  // Channels of one extreme value, then of random extremes: equal terms err alike.
  const bool codes = format_.weight.scale != ScaleElement::kNone;
  const int64_t row_bytes = weight_.row_bytes();
  for (int64_t n = 0; n < shape_.n; ++n) {
    const auto low = [&] { return n % 4 == 0 || (n % 4 > 1 && random() % 2 == 0); };
    if (codes) {
      uint8_t lowest = 0x00, highest = 0xff;
      if (format_.weight.element == Element::kInt8) {
        lowest = n % 8 < 4 ? 0x80 : 0x81;  // -128 or -127
        highest = 0x7f;
      } else if (format_.weight.element == Element::kE4m3) {
        lowest = 0xfe;  // -448
        highest = 0x7e;
      }
      for (int64_t i = 0; i < row_bytes; ++i) {
        weight_.values[n * row_bytes + i] = low() ? lowest : highest;
      }
    } else {
      for (int64_t k = 0; k < shape_.k; ++k) {
        original_weight_[n * shape_.k + k] = low() ? -1.7f : 1.3f;
      }
    }
  }
  if (!codes) {
    weight_ = *EncodeMatrix(format_, Method::kRoundToNearest, original_weight_, shape_.n, shape_.k);
  }
  original_weight_.clear();
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t k = 0; k < shape_.k; ++k) {
      float& x = original_input_[r * shape_.k + k];
      if (r % 4 == 0) x = 0.0f;                          // a row of zeros
      if (r % 4 == 1) x = 3.0f;                          // all at the largest code
      if (r % 4 == 2) x = random() % 2 == 0 ? 5 : -5;    // all at either
      if (r % 4 == 3 && k == shape_.k / 2) x = 3000.0f;  // an outlier
    }
  }
}

void LinearProblem::EncodeActivations() {
  const Element element = operands_.input;
  const int64_t bytes = ElementBytes(element);
  input_stride_ = Padded(shape_.k, 5);
  input_scale_stride_ = operands_.aligned ? (rows_ + 31) / 32 * 32 : rows_;
  // NaN as a float and as e4m3, -1 (far from a zero) as int8.
  input_.assign(((rows_ - 1) * input_stride_ + shape_.k) * bytes, 0xff);
  decoded_input_.resize(rows_ * shape_.k);
  input_scales_.assign(input_scale_stride_ * ScaleGroups(element, shape_.k), 1.0f);
  input_sums_.assign(rows_, 0);
  for (int64_t r = 0; r < rows_; ++r) {
    const float* from = original_input_.data() + r * shape_.k;
    float* decoded = decoded_input_.data() + r * shape_.k;
    uint8_t* to = input_.data() + r * input_stride_ * bytes;
    if (element == Element::kE4m3) {
      EncodeE4m3Activations(r, from, to, decoded);
      continue;
    }
    float largest = 0.0f;
    for (int64_t k = 0; k < shape_.k; ++k) largest = std::max(largest, std::abs(from[k]));
    const float scale = values_ == Values::kInteger ? 1.0f : largest / 127.0f;
    if (element == Element::kInt8) input_scales_[r] = scale;
    for (int64_t k = 0; k < shape_.k; ++k) {
      if (element == Element::kInt8) {
        int q = scale == 0.0f ? 0 : static_cast<int>(std::nearbyint(from[k] / scale));
        if (values_ == Values::kExtreme && r % 8 == 6 && q == -127) q = -128;
        to[k] = static_cast<uint8_t>(q);
        input_sums_[r] += q;
        decoded[k] = static_cast<float>(q) * scale;
      } else if (element == Element::kBf16) {
        const uint16_t value = FloatToBf16(from[k]);
        std::memcpy(to + 2 * k, &value, sizeof(value));
        decoded[k] = Bf16ToFloat(value);
      } else if (element == Element::kF16) {
        const uint16_t value = FloatToF16(from[k]);
        std::memcpy(to + 2 * k, &value, sizeof(value));
        decoded[k] = F16ToFloat(value);
      } else {
        std::memcpy(to + 4 * k, &from[k], sizeof(float));
        decoded[k] = from[k];
      }
    }
  }
}

void LinearProblem::EncodeE4m3Activations(int64_t row, const float* from, uint8_t* to,
                                          float* decoded) {
  for (int64_t begin = 0; begin < shape_.k; begin += kE4m3Group) {
    const int64_t end = std::min(shape_.k, begin + kE4m3Group);
    float largest = 0.0f;
    for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::abs(from[k]));
    float& scale = input_scales_[begin / kE4m3Group * input_scale_stride_ + row];
    if (values_ != Values::kInteger) scale = largest / kLargestE4m3;
    for (int64_t k = begin; k < end; ++k) {
      to[k] = FloatToE4m3(scale == 0.0f ? 0.0f : from[k] / scale);
      decoded[k] = E4m3ToFloat(to[k]) * scale;
    }
  }
}

void LinearProblem::MakeGroupMagnitude() {
  const int64_t group = weight_.encoding.group_columns;
  std::vector<float> largest(decoded_input_.size());
  for (int64_t r = 0; r < rows_; ++r) {
    const float* row = decoded_input_.data() + r * shape_.k;
    for (int64_t begin = 0; begin < shape_.k; begin += group) {
      const int64_t end = std::min(shape_.k, begin + group);
      float m = 0.0f;
      for (int64_t k = begin; k < end; ++k) m = std::max(m, std::abs(row[k]));
      std::fill_n(largest.begin() + r * shape_.k + begin, end - begin, m);
    }
  }
  group_magnitude_ =
      reference::LinearMagnitude(largest, decoded_weight_, rows_, shape_.n, shape_.k);
}

void LinearProblem::MakeEpilogueData(uint64_t seed) {
  std::mt19937_64 random(seed + 2);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> power(-8.0f, 8.0f);
  bias_.resize(shape_.n);
  for (float& b : bias_) b = normal(random) * std::exp2(power(random));
  residual_stride_ = shape_.n + 3;
  residual_.resize(rows_ * residual_stride_);
  for (float& x : residual_) x = normal(random) * std::exp2(power(random));
}

std::string LinearProblem::Describe() const {
  static constexpr std::string_view kNames[] = {"plain", "spread", "integer", "extreme",
                                                "positive"};
  return absl::StrCat(View(format_.name), operands_.aligned ? " aligned" : "", " M ", rows_, " N ",
                      shape_.n, " K ", shape_.k, " ", View(kNames[static_cast<int>(values_)]));
}

void LinearProblem::Poison(int64_t begin) {
  std::fill(input_.begin() + begin * input_stride_ * ElementBytes(operands_.input), input_.end(),
            0xff);
  for (size_t i = 0; i < input_scales_.size(); ++i) {
    if (static_cast<int64_t>(i) % input_scale_stride_ >= begin) {
      input_scales_[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

LinearOutput LinearProblem::Run(const EpilogueCase& epilogue, const PackedWeight* packed,
                                const Runner& run, const DeviceStream& device, int64_t begin,
                                int64_t end) const {
  constexpr int64_t kGuard = LinearOutput::kGuardRows;
  LinearOutput output;
  output.rows = end - begin;
  output.columns = epilogue.gated ? shape_.n / 2 : shape_.n;
  output.stride = Padded(output.columns, 7);
  output.element = epilogue.output;
  const int64_t all_rows = output.rows + 2 * kGuard;
  output.values.assign(all_rows * output.stride * ElementBytes(output.element), kGuardByte);
  output.scales.assign(all_rows * output.scale_groups(), kGuardScale);
  output.sums.assign(all_rows, kGuardSum);

  DeviceCopies copies(device);
  const auto in = [&]<typename T>(const std::vector<T>& values, int64_t from, int64_t to) {
    return copies.In(const_cast<T*>(values.data()) + from, (to - from) * sizeof(T));
  };
  LinearArgs args;
  args.rows = output.rows;
  const int64_t input_row_bytes = input_stride_ * ElementBytes(operands_.input);
  const int64_t input_scale_groups = ScaleGroups(operands_.input, shape_.k);
  args.input = {in(input_, begin * input_row_bytes,
                   (end - 1) * input_row_bytes + shape_.k * ElementBytes(operands_.input)),
                input_stride_,
                operands_.input,
                in(input_scales_, begin, (input_scale_groups - 1) * input_scale_stride_ + end),
                in(input_sums_, begin, end),
                input_scale_stride_};
  args.weight = packed;
  args.epilogue.activation = epilogue.activation;
  args.epilogue.gated = epilogue.gated;
  if (epilogue.bias) args.epilogue.bias = in(bias_, 0, shape_.n);
  if (epilogue.residual) {
    const float* residual = residual_.data() + begin * residual_stride_;
    if (output.element == Element::kF32) {  // in place
      float* values = reinterpret_cast<float*>(output.values.data()) + kGuard * output.stride;
      for (int64_t r = 0; r < output.rows; ++r) {
        std::copy_n(residual + r * residual_stride_, output.columns, values + r * output.stride);
      }
    } else {
      args.epilogue.residual = in(residual_, begin * residual_stride_, end * residual_stride_);
      args.epilogue.residual_stride = residual_stride_;
    }
  }
  const auto out = [&](auto& values, int64_t guard) {
    return copies.Out(values.data(), std::ssize(values) * sizeof(values[0])) + guard;
  };
  args.output = {out(output.values, kGuard * output.stride * ElementBytes(output.element)),
                 output.stride,
                 output.element,
                 out(output.scales, kGuard),
                 out(output.sums, kGuard),
                 all_rows};
  if (epilogue.residual && output.element == Element::kF32) {
    args.epilogue.residual = static_cast<float*>(args.output.values);
    args.epilogue.residual_stride = output.stride;
  }
  run(args, device.stream);
  output.fault = copies.Finish();
  return output;
}

std::string LinearProblem::CheckGuards(const LinearOutput& output) const {
  if (!output.fault.empty()) return output.fault;
  const int64_t row_bytes = output.stride * ElementBytes(output.element);
  const int64_t all_rows = output.rows + 2 * LinearOutput::kGuardRows;
  for (int64_t r = 0; r < all_rows; ++r) {
    const bool guard = r < LinearOutput::kGuardRows || r >= LinearOutput::kGuardRows + output.rows;
    for (int64_t b = guard ? 0 : output.row_bytes(); b < row_bytes; ++b) {
      if (output.values[r * row_bytes + b] != kGuardByte) {
        return absl::StrCat("wrote outside its outputs, row ", r - LinearOutput::kGuardRows,
                            " byte ", b);
      }
    }
    const bool int8 = output.element == Element::kInt8;
    bool own = (int8 && !guard) || output.sums[r] == kGuardSum;
    for (int64_t g = 0; g < output.scale_groups(); ++g) {
      own &= (!guard && (int8 || output.element == Element::kE4m3)) ||
             output.scales[g * all_rows + r] == kGuardScale;
    }
    if (!own) {
      return absl::StrCat("wrote a scale or sum that is not its own, row ",
                          r - LinearOutput::kGuardRows);
    }
  }
  return "";
}

std::string LinearProblem::Check(const EpilogueCase& epilogue, const LinearOutput& output,
                                 const ErrorBound& bound, int64_t begin) const {
  if (std::string wrong = CheckGuards(output); !wrong.empty()) return wrong;
  Epilogue data;
  data.activation = epilogue.activation;
  data.gated = epilogue.gated;
  if (epilogue.bias) data.bias = bias_.data();
  if (epilogue.residual) data.residual = residual_.data() + begin * residual_stride_;
  data.residual_stride = residual_stride_;
  const std::span<const double> products =
      std::span(products_).subspan(begin * shape_.n, output.rows * shape_.n);
  const std::span<const double> magnitude =
      std::span(bound.arithmetic == Element::kInt16 ? group_magnitude_ : magnitude_)
          .subspan(begin * shape_.n, output.rows * shape_.n);
  const std::vector<double> expected = reference::Finish(data, products, output.rows, shape_.n);
  const int64_t columns = output.columns;

  // What the epilogue's functions and roundings may add: see vector_math_avx512.h.
  const bool coarse = output.element != Element::kF32;
  const bool kept_for_codes = output.element == Element::kE4m3 && bound.kept == Element::kF16;
  const auto biased = [&](int64_t r, int64_t n, double* tolerance) {
    const double product = products[r * shape_.n + n];
    const double bias = epilogue.bias ? bias_[n] : 0.0;
    *tolerance = bound.constant * Epsilon(bound.arithmetic) * magnitude[r * shape_.n + n] +
                 kF32Epsilon * (std::abs(product) + std::abs(bias));
    if (bound.arithmetic == Element::kF16) *tolerance += kSmallestF16 / 2;
    // Rows whose products are 16 bit may take the bias in 16 bits too.
    if (bound.kept != Element::kF32 && bound.kept == bound.arithmetic)
      *tolerance += Epsilon(bound.kept) / 2 * std::abs(bias);
    return product + bias;
  };
  const auto activation_error = [&](double x) {
    const double relative = 2 * kF32Epsilon * std::abs(x);
    switch (epilogue.activation) {
      case Activation::kNone:
        return 0.0;
      case Activation::kGelu:
        return (kept_for_codes ? 1e-3 : coarse ? 1e-4 : 1e-6) + relative;
      default:
        return 1e-6 * std::max(1.0, std::abs(x)) + relative;
    }
  };
  constexpr double kSteepest = 1.13;  // of GELU and SiLU
  const auto activated_tolerance = [&](double x, double tolerance) {
    return (epilogue.activation == Activation::kNone ? 1.0 : kSteepest) * tolerance +
           activation_error(x);
  };

  std::vector<double> tolerances(columns);
  for (int64_t r = 0; r < output.rows; ++r) {
    // Of each group of columns with a scale.
    const int64_t group = output.element == Element::kE4m3 ? kE4m3Group : columns;
    std::vector<double> largest(output.scale_groups()), largest_tolerance(output.scale_groups());
    for (int64_t j = 0; j < columns; ++j) {
      const double y = expected[r * columns + j];
      double tolerance;
      if (epilogue.gated) {
        double gate_tolerance, up_tolerance;
        const double gate = biased(r, 2 * j, &gate_tolerance);
        const double up = biased(r, 2 * j + 1, &up_tolerance);
        gate_tolerance = activated_tolerance(gate, gate_tolerance);
        tolerance = gate_tolerance * std::abs(up) + gate_tolerance * up_tolerance +
                    std::abs(reference::Activate(epilogue.activation, gate)) * up_tolerance;
      } else {
        const double x = biased(r, j, &tolerance);
        tolerance = activated_tolerance(x, tolerance);
      }
      if (epilogue.residual) {
        tolerance += kF32Epsilon * std::abs(data.residual[r * residual_stride_ + j]);
      }
      tolerance += kF32Epsilon * std::abs(y) + std::numeric_limits<float>::min();
      if (output.element == Element::kInt8 && bound.kept == Element::kF16) {
        tolerance += Epsilon(bound.kept) / 2 * std::abs(y) + kSmallestF16 / 2;
      }
      if (kept_for_codes) {
        // Before the activation, after it, and scaled.
        tolerance += 1.5 * Epsilon(bound.kept) * std::abs(y) + kSmallestF16;
      }
      tolerances[j] = tolerance;
      largest[j / group] = std::max(largest[j / group], std::abs(y));
      largest_tolerance[j / group] = std::max(largest_tolerance[j / group], tolerance);
    }

    std::vector<double> scales(output.scale_groups());
    int64_t sum = 0;
    if (output.element == Element::kInt8 || output.element == Element::kE4m3) {
      const double code = output.element == Element::kInt8 ? 127.0 : kLargestE4m3;
      for (int64_t g = 0; g < output.scale_groups(); ++g) {
        scales[g] = output.scales[g * (output.rows + 2 * LinearOutput::kGuardRows) +
                                  LinearOutput::kGuardRows + r];
        if (!(std::abs(scales[g] * code - largest[g]) <=
              largest_tolerance[g] + 1e-6 * largest[g])) {
          return absl::StrCat("scale ", g, " of row ", r, " is ", scales[g],
                              ", the largest magnitude ", largest[g]);
        }
      }
    }
    for (int64_t j = 0; j < columns; ++j) {
      const double y = expected[r * columns + j];
      double got, step;
      if (output.element == Element::kF32) {
        float value;
        std::memcpy(&value, output.row(r) + 4 * j, sizeof(value));
        got = value;
        step = 0.0;
      } else if (output.element == Element::kBf16) {
        uint16_t value;
        std::memcpy(&value, output.row(r) + 2 * j, sizeof(value));
        got = Bf16ToFloat(value);
        step = 0x1p-8 * (std::abs(y) + tolerances[j]);
      } else if (output.element == Element::kF16) {
        uint16_t value;
        std::memcpy(&value, output.row(r) + 2 * j, sizeof(value));
        got = F16ToFloat(value);
        step = 0x1p-11 * (std::abs(y) + tolerances[j]) + kSmallestF16 / 2;
        const bool may_overflow = std::abs(y) + tolerances[j] + step > kLargestF16;
        if (may_overflow && std::isinf(got) && std::signbit(got) == std::signbit(y)) continue;
      } else if (output.element == Element::kE4m3) {
        got = E4m3ToFloat(output.row(r)[j]) * scales[j / group];
        step = 0x1.001p-4 * (std::abs(y) + tolerances[j]) + 0x1p-10 * scales[j / group];
      } else {
        const int q = static_cast<int8_t>(output.row(r)[j]);
        if (q == -128) return absl::StrCat("code -128 at row ", r, " column ", j);
        sum += q;
        got = q * scales[0];
        step = 0.5001 * scales[0];
      }
      if (!(std::abs(got - y) <= tolerances[j] + step)) {
        return absl::StrCat("row ", r, " column ", j, " is ", got, ", not ", y, " within ",
                            tolerances[j] + step);
      }
    }
    if (output.element == Element::kInt8 && output.sums[LinearOutput::kGuardRows + r] != sum) {
      return absl::StrCat("sum of row ", r, " is ", output.sums[LinearOutput::kGuardRows + r],
                          ", its codes add up to ", sum);
    }
  }
  return "";
}

std::string LinearProblem::CheckExact(const LinearOutput& output) const {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t n = 0; n < shape_.n; ++n) {
      float value;
      std::memcpy(&value, output.row(r) + 4 * n, sizeof(value));
      if (value != products_[r * shape_.n + n]) {
        return absl::StrCat("row ", r, " column ", n, " is ", value, ", not exactly ",
                            products_[r * shape_.n + n]);
      }
    }
  }
  return "";
}

double LinearProblem::QuantizationError(const LinearOutput& output) const {
  const std::vector<double> exact =
      reference::Linear(original_input_, original_weight_, {}, rows_, shape_.n, shape_.k);
  std::vector<double> got(exact.size());
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t n = 0; n < shape_.n; ++n) {
      float value;
      std::memcpy(&value, output.row(r) + 4 * n, sizeof(value));
      got[r * shape_.n + n] = value;
    }
  }
  return reference::Nmse(got, exact);
}

}  // namespace octavo
