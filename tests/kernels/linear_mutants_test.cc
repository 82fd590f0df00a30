// The judge of linear_cases.h must reject kernels that are wrong in ways kernels go wrong. A naive
// kernel runs here, right at first, then with one fault at a time.
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "quant/e4m3.h"
#include "tests/kernels/linear_cases.h"
#include "tests/reference/reference.h"

namespace octavo {
namespace {

enum class Fault {
  kNone,
  kShiftedGroup,     // a group takes the next group's scale and zero point
  kSwappedScales,    // channels 2i and 2i + 1 swap theirs
  kSwappedZeros,     // the same, zero points alone
  kZeroPointsOfOne,  // every group takes its channel's first zero point
  kTokenScales,      // tokens 2i and 2i + 1 swap theirs
  kDroppedTail,      // the last k is left out
  kReadPastK,        // one k more is read
  kNibbleOrder,      // even columns in the high nibble
  kSignedNibbles,    // codes taken as two's complement
  kBiasShifted,      // channel n takes the bias of n + 1
  kBiasAfter,        // added after the activation
  kResidualRow,      // of the next row
  kNoActivation,
  kTanhForErf,
  kGateAndUp,      // swapped
  kShiftedColumn,  // output columns rotate by one
  kWrongSum,       // int8: sum of magnitudes
  kTruncates,      // int8: rounds toward zero
  kNarrowScale,    // int8: max / 128
  kOverwrites,     // writes one column too many
  kNoPromotion,    // fp8: one short accumulator over all of K
};

constexpr const char* kFaultNames[] = {
    "None",        "ShiftedGroup",  "SwappedScales", "SwappedZeros", "ZeroPointsOfOne",
    "TokenScales", "DroppedTail",   "ReadPastK",     "NibbleOrder",  "SignedNibbles",
    "BiasShifted", "BiasAfter",     "ResidualRow",   "NoActivation", "TanhForErf",
    "GateAndUp",   "ShiftedColumn", "WrongSum",      "Truncates",    "NarrowScale",
    "Overwrites",  "NoPromotion"};

float Bf16(const uint8_t* from) {
  uint16_t half;
  std::memcpy(&half, from, sizeof(half));
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

uint16_t ToBf16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

class NaiveKernel {
 public:
  NaiveKernel(const EncodedMatrix& weight, Fault fault, bool short_accumulator = false)
      : weight_(weight), fault_(fault), short_accumulator_(short_accumulator) {}

  void Run(const LinearArgs& args) const {
    const int64_t n = weight_.rows;
    for (int64_t r = 0; r < args.rows; ++r) {
      std::vector<double> products(n);
      for (int64_t c = 0; c < n; ++c) products[c] = Product(args, r, c);
      Store(args, r, Finish(args, r, products));
    }
  }

 private:
  double Weight(int64_t n, int64_t k) const {
    const uint8_t* row = weight_.values.data() + n * weight_.row_bytes();
    const int64_t groups = weight_.groups();
    const int64_t group_columns = weight_.encoding.group_columns;
    int64_t group = group_columns == 0 ? 0 : k / group_columns;
    if (fault_ == Fault::kShiftedGroup) group = (group + 1) % groups;
    const int64_t scale_row = fault_ == Fault::kSwappedScales ? Neighbour(n) : n;
    const int64_t zero_row = fault_ == Fault::kSwappedZeros ? Neighbour(n) : scale_row;
    const int64_t zero_group = fault_ == Fault::kZeroPointsOfOne ? 0 : group;
    switch (weight_.encoding.element) {
      case Element::kF32: {
        float x;
        std::memcpy(&x, row + 4 * k, sizeof(x));
        return x;
      }
      case Element::kBf16:
        return Bf16(row + 2 * k);
      case Element::kInt8:
        return static_cast<double>(static_cast<int8_t>(row[k])) * weight_.scales[scale_row];
      case Element::kE4m3:
        return static_cast<double>(E4m3ToFloat(row[k])) * weight_.scales[scale_row];
      default: {
        const int64_t shift = (k % 2) ^ (fault_ == Fault::kNibbleOrder ? 1 : 0);
        int q = row[k / 2] >> (4 * shift) & 15;
        if (fault_ == Fault::kSignedNibbles) q = (q ^ 8);
        const float zero =
            weight_.zeros.empty() ? 8.0f : weight_.zeros[zero_row * groups + zero_group];
        return (static_cast<float>(q) - zero) * weight_.scales[scale_row * groups + group];
      }
    }
  }
  int64_t Neighbour(int64_t n) const { return std::min(n ^ 1, weight_.rows - 1); }

  double Input(const LinearArgs& args, int64_t r, int64_t k) const {
    const int64_t at = r * args.input.stride + k;
    const uint8_t* values = static_cast<const uint8_t*>(args.input.values);
    if (args.input.element == Element::kF32) {
      float x;
      std::memcpy(&x, values + 4 * at, sizeof(x));
      return x;
    }
    if (args.input.element == Element::kBf16) return Bf16(values + 2 * at);
    int64_t row = r;
    if (fault_ == Fault::kTokenScales) row = std::min(r ^ 1, args.rows - 1);
    if (args.input.element == Element::kE4m3) {
      const int64_t groups = (weight_.columns + 127) / 128;
      int64_t group = std::min(k / 128, groups - 1);
      if (fault_ == Fault::kShiftedGroup) group = (group + 1) % groups;
      return E4m3ToFloat(values[at]) * args.input.scales[group * args.input.scale_stride + row];
    }
    return static_cast<double>(static_cast<int8_t>(values[at])) * args.input.scales[row];
  }

  double Product(const LinearArgs& args, int64_t r, int64_t n) const {
    const int64_t k = weight_.columns - (fault_ == Fault::kDroppedTail ? 1 : 0);
    double sum = 0.0, part = 0.0;
    for (int64_t i = 0; i < k; ++i) {
      if (!short_accumulator_) {
        sum += Input(args, r, i) * Weight(n, i);
        continue;
      }
      // As Hopper's tensor cores add: 32 products at a time, what is below the accumulator's 14th
      // bit cut off. Taken over every 128, the loss stays that of four additions.
      part += Input(args, r, i) * Weight(n, i);
      if (i % 32 == 31) part = CutTo14Bits(part);
      if (i % 128 == 127 && fault_ != Fault::kNoPromotion) sum += std::exchange(part, 0.0);
    }
    sum += part;
    if (fault_ == Fault::kReadPastK && r + 1 < args.rows) {
      sum += Input(args, r, k) * Weight(n, k - 1);
    }
    return sum;
  }

  static double CutTo14Bits(double x) {
    int exponent;
    const double mantissa = std::frexp(x, &exponent);
    return std::ldexp(std::trunc(std::ldexp(mantissa, 14)), exponent - 14);
  }

  double Activate(const Epilogue& epilogue, double x) const {
    if (fault_ == Fault::kNoActivation) return x;
    if (fault_ == Fault::kTanhForErf && epilogue.activation == Activation::kGelu) {
      return reference::GeluTanh(x);
    }
    return reference::Activate(epilogue.activation, x);
  }

  std::vector<double> Finish(const LinearArgs& args, int64_t r,
                             std::vector<double> products) const {
    const Epilogue& epilogue = args.epilogue;
    const int64_t n = weight_.rows;
    if (fault_ == Fault::kShiftedColumn) {
      std::rotate(products.begin(), products.begin() + 1, products.end());
    }
    const auto bias = [&](int64_t c) {
      if (epilogue.bias == nullptr) return 0.0f;
      return epilogue.bias[fault_ == Fault::kBiasShifted ? (c + 1) % n : c];
    };
    const bool bias_first = fault_ != Fault::kBiasAfter;
    std::vector<double> outputs(epilogue.gated ? n / 2 : n);
    for (int64_t c = 0; c < static_cast<int64_t>(outputs.size()); ++c) {
      double y;
      if (epilogue.gated) {
        const int64_t gate = 2 * c + (fault_ == Fault::kGateAndUp ? 1 : 0);
        const int64_t up = 2 * c + (fault_ == Fault::kGateAndUp ? 0 : 1);
        y = Activate(epilogue, products[gate] + bias(gate)) * (products[up] + bias(up));
      } else {
        y = bias_first ? Activate(epilogue, products[c] + bias(c))
                       : Activate(epilogue, products[c]) + bias(c);
      }
      if (epilogue.residual != nullptr) {
        const int64_t row = fault_ == Fault::kResidualRow ? (r + 1) % args.rows : r;
        y += epilogue.residual[row * epilogue.residual_stride + c];
      }
      outputs[c] = y;
    }
    return outputs;
  }

  void Store(const LinearArgs& args, int64_t r, const std::vector<double>& outputs) const {
    const int64_t columns = static_cast<int64_t>(outputs.size());
    uint8_t* values = static_cast<uint8_t*>(args.output.values);
    const int64_t at = r * args.output.stride;
    if (args.output.element == Element::kInt8) {
      float largest = 0.0f;
      for (double y : outputs) largest = std::max(largest, std::abs(static_cast<float>(y)));
      const float scale = largest / (fault_ == Fault::kNarrowScale ? 128.0f : 127.0f);
      int sum = 0;
      for (int64_t c = 0; c < columns; ++c) {
        const double q = scale == 0.0f ? 0.0 : outputs[c] / scale;
        int code =
            static_cast<int>(fault_ == Fault::kTruncates ? std::trunc(q) : std::nearbyint(q));
        code = std::min(127, std::max(-127, code));
        values[at + c] = static_cast<uint8_t>(code);
        sum += fault_ == Fault::kWrongSum ? std::abs(code) : code;
      }
      args.output.scales[r] = scale;
      args.output.sums[r] = sum;
      return;
    }
    const int64_t written = columns + (fault_ == Fault::kOverwrites ? 1 : 0);
    for (int64_t c = 0; c < written; ++c) {
      const float y = c < columns ? static_cast<float>(outputs[c]) : 0.0f;
      if (args.output.element == Element::kBf16) {
        const uint16_t half = ToBf16(y);
        std::memcpy(values + 2 * (at + c), &half, sizeof(half));
      } else {
        std::memcpy(values + 4 * (at + c), &y, sizeof(y));
      }
    }
  }

  const EncodedMatrix& weight_;
  const Fault fault_;
  const bool short_accumulator_;
};

struct Mutant {
  Fault fault;
  const char* format;
  EpilogueCase epilogue;
};

constexpr EpilogueCase kPlainCase = {};
constexpr EpilogueCase kBiasGelu = {.bias = true, .activation = Activation::kGelu};
constexpr EpilogueCase kInt8Output = {.bias = true, .output = Element::kInt8};
constexpr EpilogueCase kGated = {.bias = true, .activation = Activation::kSilu, .gated = true};
constexpr EpilogueCase kResidual = {.bias = true, .residual = true, .output = Element::kBf16};

const Mutant kMutants[] = {
    {Fault::kShiftedGroup, "a16w4_int4_g32", kPlainCase},
    {Fault::kShiftedGroup, "a16w4_int4_g64z", kPlainCase},
    {Fault::kShiftedGroup, "a16w4_int4_g128", {.output = Element::kBf16}},
    {Fault::kShiftedGroup, "a8w8_fp8", kPlainCase},
    {Fault::kSwappedScales, "a8w8_int8", kPlainCase},
    {Fault::kSwappedScales, "a8w8_int8", {.output = Element::kBf16}},
    {Fault::kSwappedScales, "a16w4_int4_g32z", kPlainCase},
    {Fault::kSwappedScales, "a8w8_fp8", kPlainCase},
    {Fault::kSwappedZeros, "a16w4_int4_g32z", kPlainCase},
    {Fault::kZeroPointsOfOne, "a16w4_int4_g32z", kPlainCase},
    {Fault::kTokenScales, "a8w8_int8", kPlainCase},
    {Fault::kTokenScales, "a8w8_int8", kInt8Output},
    {Fault::kTokenScales, "a8w8_fp8", {.output = Element::kBf16}},
    {Fault::kDroppedTail, "f32", kPlainCase},
    {Fault::kDroppedTail, "bf16", kPlainCase},
    {Fault::kDroppedTail, "a8w8_int8", kPlainCase},
    {Fault::kDroppedTail, "a8w8_fp8", kPlainCase},
    {Fault::kDroppedTail, "a16w4_int4_g32", kPlainCase},
    {Fault::kReadPastK, "f32", kPlainCase},
    {Fault::kReadPastK, "bf16", kPlainCase},
    {Fault::kReadPastK, "a8w8_int8", kPlainCase},
    {Fault::kReadPastK, "a16w4_int4_g32", kPlainCase},
    {Fault::kNibbleOrder, "a16w4_int4_g32", kPlainCase},
    {Fault::kNibbleOrder, "a16w4_int4_g128z", {.output = Element::kBf16}},
    {Fault::kSignedNibbles, "a16w4_int4_g32", kPlainCase},
    {Fault::kBiasShifted, "f32", {.bias = true}},
    {Fault::kBiasShifted, "a8w8_int8", kBiasGelu},
    {Fault::kBiasShifted, "bf16", {.bias = true, .output = Element::kBf16}},
    {Fault::kBiasAfter, "f32", kBiasGelu},
    {Fault::kResidualRow, "f32", kResidual},
    {Fault::kResidualRow, "a8w8_int8", kResidual},
    {Fault::kNoActivation, "f32", kBiasGelu},
    {Fault::kTanhForErf, "f32", kBiasGelu},
    {Fault::kGateAndUp, "f32", kGated},
    {Fault::kShiftedColumn, "f32", kPlainCase},
    {Fault::kShiftedColumn, "a8w8_int8", kInt8Output},
    {Fault::kWrongSum, "a8w8_int8", kInt8Output},
    {Fault::kTruncates, "a8w8_int8", kInt8Output},
    {Fault::kNarrowScale, "a8w8_int8", kInt8Output},
    {Fault::kOverwrites, "f32", kPlainCase},
};

class LinearMutant : public testing::TestWithParam<Mutant> {
 protected:
  std::string Judge(Fault fault) const {
    const Mutant& mutant = GetParam();
    const LinearProblem problem(**FindFormat(mutant.format), {.n = 70, .k = 165}, 9,
                                Values::kSpread, 11);
    const NaiveKernel kernel(problem.weight(), fault);
    const LinearOutput output = problem.Run(
        mutant.epilogue, nullptr, [&](const LinearArgs& args, Stream&) { kernel.Run(args); },
        OnCpu());
    return problem.Check(mutant.epilogue, output, ErrorBound(2.0, Element::kF32));
  }
};

TEST_P(LinearMutant, IsRejected) {
  EXPECT_EQ(Judge(Fault::kNone), "") << "without the fault";
  EXPECT_NE(Judge(GetParam().fault), "");
}

INSTANTIATE_TEST_SUITE_P(Faults, LinearMutant, testing::ValuesIn(kMutants),
                         [](const testing::TestParamInfo<Mutant>& mutant) {
                           return std::string(kFaultNames[static_cast<int>(mutant.param.fault)]) +
                                  "_" + mutant.param.format + "_" + std::to_string(mutant.index);
                         });

// The judgement of LinearRow.HoldsWhereAllTermsArePositive.
TEST(LinearMutants, AnAccumulatorWithoutPromotionIsRejected) {
  const LinearProblem problem(**FindFormat("a8w8_fp8"), {.n = 64, .k = 4096}, 5, Values::kPositive,
                              9);
  const auto judge = [&](Fault fault) {
    const NaiveKernel kernel(problem.weight(), fault, /*short_accumulator=*/true);
    const LinearOutput output = problem.Run(
        {}, nullptr, [&](const LinearArgs& args, Stream&) { kernel.Run(args); }, OnCpu());
    return problem.Check({}, output, ErrorBound(0x1p-10 / 0x1p-23, Element::kF32));
  };
  EXPECT_EQ(judge(Fault::kNone), "");
  EXPECT_NE(judge(Fault::kNoPromotion), "");
}

TEST(LinearMutants, EveryFaultIsTried) {
  for (size_t fault = 1; fault < std::size(kFaultNames); ++fault) {
    bool tried = static_cast<Fault>(fault) == Fault::kNoPromotion;  // above
    for (const Mutant& mutant : kMutants) tried |= static_cast<size_t>(mutant.fault) == fault;
    EXPECT_TRUE(tried) << kFaultNames[fault];
  }
}

}  // namespace
}  // namespace octavo
