// Half-quadratic quantization (Badri and Shaji, "Half-Quadratic Quantization of Large Machine
// Learning Models", 2023) of int4 groups with a float zero point.
//
// Their solver: with the scale fixed, minimize sum |x - decoded|^p, p = 0.7, by alternating a soft
// threshold of the errors (the proximal step of the lp norm) with the zero point's closed form.
// Here each group is then refined: scale and zero point together by least squares against the
// codes, from several narrower ranges, and the fit with the smallest squared error is kept
// (all-MiniLM-L6-v2 in groups of 32: 19% less error than round-to-nearest, their solver alone
// 11%). Fixed iterations and plain float arithmetic: the same result on every machine.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "quant/codecs.h"
#include "quant/int4.h"

namespace octavo::quant {
namespace {

constexpr int kLanes = 4;
using Floats = float __attribute__((vector_size(4 * kLanes)));
using Ints = int32_t __attribute__((vector_size(4 * kLanes)));

constexpr int kLargestGroup = 256;
constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and taking it away rounds half to even

// The lp solver: exponent, first penalty and its growth, as published; errors in units of the
// scale, so that the threshold means the same for every group.
constexpr float kExponent = 0.7f;
constexpr float kPenalty = 10.0f;
constexpr float kPenaltyGrowth = 1.01f;
constexpr int kSolverSteps = 4;
constexpr int kRefineSteps = 4;
// A step that leaves more than this of the error ends the refinement.
constexpr float kSettled = 0.99f;
// Fractions of the full range that refinement starts from.
constexpr std::array kRanges = {1.0f, 0.9f, 0.8f};

// Values of one group in units of the full range's scale around its middle, so within
// [-7.5, 7.5]; q = value / scale + zero with a scale near 1. Filled up to whole vectors with
// repeated values that weigh nothing.
struct Group {
  alignas(16) float values[kLargestGroup];
  alignas(16) float weights[kLargestGroup];
  int vectors = 0;
  float count = 0.0f;
  float sum = 0.0f;
  float squares = 0.0f;
};

Floats Splat(float x) { return Floats{x, x, x, x}; }
float Total(Floats x) { return (x[0] + x[1]) + (x[2] + x[3]); }

Floats Load(const float* from) {
  Floats x;
  std::memcpy(&x, from, sizeof(x));
  return x;
}

Floats Codes(Floats values, Floats inverse, Floats zero) {
  Floats q = values * inverse + zero;
  q = q > Splat(0.0f) ? q : Splat(0.0f);
  q = q < Splat(15.0f) ? q : Splat(15.0f);
  return (q + kRound) - kRound;
}

Floats Abs(Floats x) { return (Floats)((Ints)x & 0x7fffffff); }

// |e|^(p - 1) within a few percent, from the exponent's linearity in the bits of a float.
Floats PowerOfMagnitude(Floats magnitude) {
  constexpr float kOne = 1065353216.0f;  // the bits of 1.0f
  const Floats bits = __builtin_convertvector((Ints)magnitude, Floats);
  return (Floats) __builtin_convertvector(bits * (kExponent - 1.0f) + kOne * (2.0f - kExponent),
                                          Ints);
}

// The published solver at scale 1: returns the zero point.
float SolveZero(const Group& group, float zero) {
  float penalty = kPenalty;
  for (int step = 0; step < kSolverSteps; ++step, penalty *= kPenaltyGrowth) {
    Floats total = Splat(0.0f);
    for (int i = 0; i < group.vectors; ++i) {
      const Floats x = Load(group.values + kLanes * i);
      const Floats q = Codes(x, Splat(1.0f), Splat(zero));
      const Floats error = x - (q - zero);
      const Floats magnitude = Abs(error);
      Floats kept = magnitude - PowerOfMagnitude(magnitude) * (1.0f / penalty);
      kept = kept > Splat(0.0f) ? kept : Splat(0.0f);
      const Floats outlier =
          (Floats)((Ints)kept | ((Ints)error & static_cast<int32_t>(0x80000000)));
      total += (q - (x - outlier)) * Load(group.weights + kLanes * i);
    }
    zero = Total(total) / group.count;
  }
  return zero;
}

// Squared errors of a fit, and the sums that give the next one.
struct Moments {
  float error;
  float q;
  float qq;
  float qx;
};

Moments Measure(const Group& group, const GroupFit& fit) {
  Floats q_sum = Splat(0.0f);
  Floats qq_sum = Splat(0.0f);
  Floats qx_sum = Splat(0.0f);
  const Floats inverse = Splat(1.0f / fit.scale);
  const Floats zero = Splat(fit.zero);
  for (int i = 0; i < group.vectors; ++i) {
    const Floats x = Load(group.values + kLanes * i);
    const Floats q = Codes(x, inverse, zero);
    const Floats weighted = q * Load(group.weights + kLanes * i);
    q_sum += weighted;
    qq_sum += q * weighted;
    qx_sum += x * weighted;
  }
  Moments m{.q = Total(q_sum), .qq = Total(qq_sum), .qx = Total(qx_sum)};
  // sum (x - scale (q - zero))^2, expanded; values near 1 keep the cancellation harmless.
  const float cross = m.qx - fit.zero * group.sum;
  const float power = m.qq - 2.0f * fit.zero * m.q + group.count * fit.zero * fit.zero;
  m.error = group.squares - 2.0f * fit.scale * cross + fit.scale * fit.scale * power;
  return m;
}

// Alternates codes and the least-squares scale and zero point; keeps the best in `best`.
void Refine(const Group& group, GroupFit fit, GroupFit* best, float* best_error) {
  float last_error = 0.0f;
  for (int step = 0; step <= kRefineSteps; ++step) {
    const Moments m = Measure(group, fit);
    if (step > 0 && m.error > kSettled * last_error) step = kRefineSteps;
    last_error = m.error;
    if (m.error < *best_error) {
      *best_error = m.error;
      *best = fit;
    }
    const float variance = group.count * m.qq - m.q * m.q;
    const float covariance = group.count * m.qx - m.q * group.sum;
    if (!(variance > 0.0f) || !(covariance > 0.0f)) return;
    const float scale = covariance / variance;
    fit = {.scale = scale, .zero = (m.q - group.sum / scale) / group.count};
  }
}

Group Normalize(std::span<const float> values, float middle, float scale) {
  Group group;
  const int count = static_cast<int>(values.size());
  group.vectors = (count + kLanes - 1) / kLanes;
  group.count = static_cast<float>(count);
  for (int i = 0; i < group.vectors * kLanes; ++i) {
    group.values[i] = (values[std::min(i, count - 1)] - middle) / scale;
    group.weights[i] = i < count ? 1.0f : 0.0f;
  }
  Floats sum = Splat(0.0f);
  Floats squares = Splat(0.0f);
  for (int i = 0; i < group.vectors; ++i) {
    const Floats x = Load(group.values + kLanes * i);
    const Floats weighted = x * Load(group.weights + kLanes * i);
    sum += weighted;
    squares += x * weighted;
  }
  group.sum = Total(sum);
  group.squares = Total(squares);
  return group;
}

// The fit in units of the values, before rounding to f16.
GroupFit FitGroup(std::span<const float> values, float low, float high) {
  const float middle = low + (high - low) / 2.0f;
  const float scale = (high - low) / 15.0f;
  const Group group = Normalize(values, middle, scale);
  GroupFit best{.scale = 1.0f, .zero = 7.5f};
  float best_error = Measure(group, best).error;
  const float zero = SolveZero(group, best.zero);
  for (const float range : kRanges) {
    Refine(group, {.scale = range, .zero = range == 1.0f ? zero : 7.5f}, &best, &best_error);
  }
  const float fitted = best.scale * scale;
  return {.scale = fitted, .zero = best.zero - middle / fitted};
}

// Squared error of a group's round trip.
float EncodeGroup(std::span<const float> values, const GroupFit& fit, uint8_t* codes) {
  float error = 0.0f;
  for (size_t i = 0; i < values.size(); ++i) {
    const float q = (std::clamp(values[i] / fit.scale + fit.zero, 0.0f, 15.0f) + kRound) - kRound;
    const float difference = values[i] - (q - fit.zero) * fit.scale;
    error += difference * difference;
    codes[i] = static_cast<uint8_t>(q);
  }
  return error;
}

}  // namespace

void EncodeInt4Hqq(const Encoding& encoding, std::span<const float> row, std::span<uint8_t> values,
                   std::span<float> scales, std::span<float> zeros) {
  const size_t step = static_cast<size_t>(encoding.group_columns);
  std::array<uint8_t, kLargestGroup> codes;
  std::array<uint8_t, kLargestGroup> other;
  for (size_t g = 0, begin = 0; begin < row.size(); ++g, begin += step) {
    const std::span<const float> group = row.subspan(begin, std::min(step, row.size() - begin));
    const auto [low, high] = std::minmax_element(group.begin(), group.end());
    GroupFit fit = FitRange(*low, *high);
    float error = EncodeGroup(group, fit, codes.data());
    // A group that f16 forces a wider scale on (constant, tiny or far from zero) is left as it is.
    if (fit.scale <= (*high - *low) / 15.0f * 1.001f) {
      const GroupFit ideal = FitGroup(group, *low, *high);
      const float scale = RoundScale(ideal.scale);
      const GroupFit fitted{.scale = scale, .zero = RoundZero(ideal.zero * (ideal.scale / scale))};
      const float fitted_error = EncodeGroup(group, fitted, other.data());
      if (fitted_error < error) {
        fit = fitted;
        codes = other;
      }
    }
    scales[g] = fit.scale;
    zeros[g] = fit.zero;
    PackNibbles(std::span(codes).first(group.size()), values.subspan(begin / 2));
  }
}

}  // namespace octavo::quant
