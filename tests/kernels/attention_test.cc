// Every row of every backend's attention table against float64.
//
// The bound of each element follows the arithmetic: a score is off by at most
// (head_size + 8) eps sum|q||k| scale, eps of f32; a weight by that twice (its own and the sum's),
// by the exponential's error and, in 16 bits, by its rounding; the weighted sum by a few eps. A row
// that encodes q and k as integers is off in a score by half a step of each factor of a product, in
// a weight by half of 2^-14 of the largest, in a value by half a step of its channel.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cpu/team.h"
#include "quant/half.h"
#include "tests/kernels/device_copies.h"
#include "tests/reference/reference.h"

namespace octavo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A kernel and where it runs.
struct Row {
  OpenedDevice device;
  AttentionKernel kernel;

  bool on_cpu() const { return device.backend->name == "cpu"; }
};

uint16_t To16(float x, Element element) {
  return element == Element::kF16 ? FloatToF16(x) : FloatToBf16(x);
}
float From16(uint16_t x, Element element) {
  return element == Element::kF16 ? F16ToFloat(x) : Bf16ToFloat(x);
}
// The nearest value that is exact in both 16-bit floats.
float Exact16(float x) { return F16ToFloat(FloatToF16(Bf16ToFloat(FloatToBf16(x)))); }

// A batch with q, k and v interleaved as Forward lays them out, and what to compute on it.
struct Batch {
  int heads = 1;
  int key_value_heads = 1;
  int head_size = 32;
  std::vector<int32_t> offsets = {0};
  std::vector<float> q, k, v;  // [tokens, heads or key_value_heads * head_size], exact in 16 bits
  std::vector<float> bias;     // [heads, 2 * reach - 1] with NaN around each head's row
  int64_t bias_stride = 0, bias_zero = 0;
  Mask mask = Mask::kFull;
  int window = 0;

  int64_t tokens() const { return offsets.back(); }
  int64_t width() const { return static_cast<int64_t>(heads) * head_size; }
  int64_t key_width() const { return static_cast<int64_t>(key_value_heads) * head_size; }
};

Batch RandomBatch(const std::vector<int>& lengths, int heads, int key_value_heads, int head_size,
                  float magnitude, int seed) {
  Batch batch;
  batch.heads = heads;
  batch.key_value_heads = key_value_heads;
  batch.head_size = head_size;
  for (int length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>* x, int64_t size, float scale) {
    x->resize(size);
    for (float& value : *x) value = Exact16(normal(random) * scale);
  };
  fill(&batch.q, batch.tokens() * batch.width(), magnitude);
  fill(&batch.k, batch.tokens() * batch.key_width(), 1.0f);
  fill(&batch.v, batch.tokens() * batch.key_width(), 1.0f);
  // Heads differ in the size of their values: a swapped head fails.
  for (int64_t i = 0; i < std::ssize(batch.v); ++i) {
    const int exponent = static_cast<int>(i / head_size % key_value_heads) * 3 - 4;
    batch.v[i] = Exact16(std::ldexp(batch.v[i], exponent));
  }
  return batch;
}

// A bias for distances up to reach - 1 that is not symmetric; NaN wherever it must not be read.
void AddBias(Batch* batch, int reach, int seed) {
  constexpr int64_t kAround = 32;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  batch->bias_stride = 2 * reach - 1 + 2 * kAround;
  batch->bias_zero = kAround + reach - 1;
  batch->bias.assign(batch->heads * batch->bias_stride, kNan);
  for (int head = 0; head < batch->heads; ++head) {
    for (int distance = 1 - reach; distance < reach; ++distance) {
      if (batch->mask == Mask::kCausal && distance > 0) continue;
      if (batch->mask == Mask::kWindow && std::abs(distance) > batch->window) continue;
      batch->bias[head * batch->bias_stride + batch->bias_zero + distance] =
          2.0f * normal(random) + (distance > 0 ? 1.0f : 0.0f);
    }
  }
}

AttentionArgs Shape(const Batch& batch) {
  AttentionArgs args;
  args.heads = batch.heads;
  args.key_value_heads = batch.key_value_heads;
  args.head_size = batch.head_size;
  args.scale = 1.0f / std::sqrt(static_cast<float>(batch.head_size));
  args.offsets = batch.offsets.data();
  args.sequences = std::ssize(batch.offsets) - 1;
  args.row_begin = 0;
  args.row_end = batch.tokens();
  args.mask = batch.mask;
  args.window = batch.window;
  if (!batch.bias.empty()) {
    args.relative_bias = batch.bias.data();
    args.bias_stride = batch.bias_stride;
    args.bias_zero = batch.bias_zero;
  }
  return args;
}

struct Rows {
  int64_t begin, end;
};

// Tiles of rows [begin, end), longest sequences first, then two without work.
std::vector<AttentionTile> CutTiles(const Batch& batch, Rows rows, int query_tile) {
  std::vector<AttentionTile> tiles;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    const int64_t first = batch.offsets[s], last = batch.offsets[s + 1];
    const int64_t end = std::min(last, rows.end);
    for (int64_t row = std::max(first, rows.begin); row < end; row += query_tile) {
      tiles.push_back({.first = static_cast<int32_t>(first),
                       .length = static_cast<int32_t>(last - first),
                       .query_begin = static_cast<int32_t>(row - first),
                       .queries = static_cast<int32_t>(std::min<int64_t>(query_tile, end - row))});
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const AttentionTile& a, const AttentionTile& b) {
    return a.length > b.length;
  });
  tiles.resize(tiles.size() + 2);
  return tiles;
}

// How a test calls a kernel.
struct Call {
  Rows rows;
  Element output = Element::kF32;
  Stream* stream = nullptr;  // null: the device's
  int64_t padding = 8;       // columns between rows of the output
};

// Runs a kernel on some rows of the batch; rows of the output not asked for stay NaN.
std::vector<float> RunKernel(const Row& row, const Batch& batch, const Call& call) {
  const int64_t stride = batch.width() + 2 * batch.key_width() + 8;
  std::vector<float> wide(batch.tokens() * stride, kNan);
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    float* to = &wide[t * stride];
    to = std::copy_n(&batch.q[t * batch.width()], batch.width(), to);
    to = std::copy_n(&batch.k[t * batch.key_width()], batch.key_width(), to);
    std::copy_n(&batch.v[t * batch.key_width()], batch.key_width(), to);
  }
  wide.resize(wide.size() - 8);  // nothing may be read past the last value
  const Element input = row.kernel.input;
  std::vector<uint16_t> narrow(wide.size());
  std::transform(wide.begin(), wide.end(), narrow.begin(), [&](float x) { return To16(x, input); });
  const std::vector<AttentionTile> tiles = row.kernel.query_tile == 0
                                               ? std::vector<AttentionTile>()
                                               : CutTiles(batch, call.rows, row.kernel.query_tile);
  const int64_t output_stride = batch.width() + call.padding;
  const int64_t size = batch.tokens() * output_stride;
  std::vector<float> result(size, kNan);
  std::vector<uint16_t> result_narrow(size, To16(kNan, call.output));

  const DeviceStream device = {*row.device.backend,
                               call.stream != nullptr ? *call.stream : *row.device.stream};
  DeviceCopies copies(device);
  const auto in = [&](const auto& values) {
    return copies.In(values.data(), std::ssize(values) * sizeof(values[0]));
  };
  const auto out = [&](auto& values) {
    return copies.Out(values.data(), std::ssize(values) * sizeof(values[0]));
  };
  AttentionArgs args = Shape(batch);
  const auto place = [&](const auto* values) {
    args.q = values;
    args.k = values + batch.width();
    args.v = values + batch.width() + batch.key_width();
  };
  if (input == Element::kF32) {
    place(in(wide));
  } else {
    place(in(narrow));
  }
  args.stride = stride;
  args.tokens = batch.tokens();
  args.row_begin = call.rows.begin;
  args.row_end = call.rows.end;
  args.offsets = in(batch.offsets);
  if (!tiles.empty()) args.tiles = in(tiles);
  args.tile_count = std::ssize(tiles);
  if (!batch.bias.empty()) args.relative_bias = in(batch.bias);
  args.output.stride = output_stride;
  args.output.element = call.output;
  args.output.values =
      call.output == Element::kF32 ? static_cast<void*>(out(result)) : out(result_narrow);
  row.kernel.run(args, device.stream);
  EXPECT_EQ(copies.Finish(), "");
  if (call.output != Element::kF32) {
    std::transform(result_narrow.begin(), result_narrow.end(), result.begin(),
                   [&](uint16_t x) { return From16(x, call.output); });
  }
  std::vector<float> dense(batch.tokens() * batch.width());
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    std::copy_n(&result[t * output_stride], batch.width(), &dense[t * batch.width()]);
    for (int64_t c = batch.width(); c < output_stride; ++c) {
      EXPECT_TRUE(std::isnan(result[t * output_stride + c])) << "wrote past row " << t;
    }
  }
  return dense;
}

// All rows, into f32.
std::vector<float> RunKernel(const Row& row, const Batch& batch) {
  return RunKernel(row, batch, {.rows = {0, batch.tokens()}});
}

// Of the visible scores of a query in one head.
struct Scores {
  double magnitude = 0;  // largest sum|q||k| scale + |bias|
  double error = 0;      // largest error of encoding q and k
  double sum = 0;        // of e^(score - maximum)
  int64_t count = 0;
};

// Keys of a sequence of `length` that query i sees.
Rows VisibleKeys(const Batch& batch, int64_t i, int64_t length) {
  if (batch.mask == Mask::kCausal) return {0, i + 1};
  if (batch.mask == Mask::kFull) return {0, length};
  return {std::max<int64_t>(0, i - batch.window), std::min<int64_t>(length, i + batch.window + 1)};
}

Scores ScoresOf(const Batch& batch, int levels, int64_t first, int64_t last, int64_t i, int head) {
  const int kv_head = head / (batch.heads / batch.key_value_heads);
  const double scale = 1 / std::sqrt(static_cast<double>(batch.head_size));
  const auto half_step = [&](const float* x) {
    float largest = 0;
    for (int d = 0; d < batch.head_size; ++d) largest = std::max(largest, std::abs(x[d]));
    return levels == 0 ? 0.0 : 0.5 * largest / levels;
  };
  const float* q = &batch.q[(first + i) * batch.width() + head * batch.head_size];
  const double q_step = half_step(q);
  const Rows keys = VisibleKeys(batch, i, last - first);
  Scores scores;
  scores.count = keys.end - keys.begin;
  std::vector<double> values;
  for (int64_t j = keys.begin; j < keys.end; ++j) {
    const float* k = &batch.k[(first + j) * batch.key_width() + kv_head * batch.head_size];
    const double k_step = half_step(k);
    double value = 0, magnitude = 0, error = 0;
    for (int d = 0; d < batch.head_size; ++d) {
      value += double{q[d]} * k[d];
      magnitude += std::abs(double{q[d]} * k[d]);
      error += q_step * std::abs(k[d]) + k_step * std::abs(q[d]) + q_step * k_step;
    }
    value *= scale;
    if (!batch.bias.empty())
      value += batch.bias[head * batch.bias_stride + batch.bias_zero + j - i];
    values.push_back(value);
    scores.magnitude =
        std::max(scores.magnitude, magnitude * scale + (batch.bias.empty() ? 0 : 10));
    scores.error = std::max(scores.error, error * scale);
  }
  const double maximum = *std::max_element(values.begin(), values.end());
  for (double value : values) scores.sum += std::exp(value - maximum);
  return scores;
}

struct Expected {
  std::vector<double> values;  // [tokens, width]
  std::vector<double> bounds;
};

// Relative errors of an exponential and of a weight's rounding.
struct Rounding {
  double exponential, weight;
};

Rounding RoundingOf(const Row& row) {
  const bool exact_weights =
      row.kernel.score_levels > 0 || row.kernel.name.find("portable") != std::string_view::npos;
  const double half_step = row.kernel.input == Element::kF16 ? 0x1p-11 : 0x1p-8;
  if (row.kernel.input == Element::kF32) return {2e-7, 0};
  return {row.on_cpu() ? 1.1e-4 : 2e-7, exact_weights ? 0 : half_step};
}

// What an f32 output is to hold.
Expected Expect(const Row& row, const Batch& batch) {
  const AttentionKernel& kernel = row.kernel;
  const Rounding rounding = RoundingOf(row);
  Expected expected;
  const AttentionArgs args = Shape(batch);
  expected.values = reference::Attention(args, batch.q, batch.k, batch.v);
  std::vector<float> positive = batch.v;
  for (float& value : positive) value = std::abs(value);
  expected.bounds = reference::Attention(args, batch.q, batch.k, positive);
  constexpr double kEps = 0x1p-24;
  const bool integers = kernel.score_levels > 0;
  // The least step of f16, in units of the largest weight.
  const double underflow = kernel.input == Element::kF16 ? 0x1p-30 : 0;
  for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
    const int64_t first = batch.offsets[s], last = batch.offsets[s + 1];
    std::vector<double> largest(batch.key_width());  // of each channel of values
    for (int64_t j = first; j < last; ++j) {
      for (int64_t c = 0; c < batch.key_width(); ++c) {
        largest[c] = std::max<double>(largest[c], positive[j * batch.key_width() + c]);
      }
    }
    for (int64_t i = first; i < last; ++i) {
      for (int head = 0; head < batch.heads; ++head) {
        const Scores scores = ScoresOf(batch, kernel.score_levels, first, last, i - first, head);
        double relative = 2 * (batch.head_size + 8) * kEps * scores.magnitude + 64 * kEps;
        relative += 2 * rounding.exponential + rounding.weight;
        if (integers) relative += std::expm1(2 * scores.error);
        const double weights =
            (integers ? 0x1p-15 : underflow) * static_cast<double>(scores.count) / scores.sum;
        const double steps = integers ? 0.5 / 1020 : 0;
        const int kv_head = head / (batch.heads / batch.key_value_heads);
        for (int d = 0; d < batch.head_size; ++d) {
          double& bound = expected.bounds[i * batch.width() + head * batch.head_size + d];
          bound *= relative;
          bound += (weights + steps) * largest[kv_head * batch.head_size + d] * (1 + relative);
        }
      }
    }
  }
  return expected;
}

// Index of the first value out of bounds, or -1.
int64_t FirstOutOfBounds(const std::vector<float>& got, const Expected& expected) {
  for (int64_t i = 0; i < std::ssize(got); ++i) {
    if (!(std::abs(got[i] - expected.values[i]) <= expected.bounds[i])) return i;
  }
  return -1;
}

void ExpectCorrect(const Row& row, const Batch& batch) {
  const Expected expected = Expect(row, batch);
  const Element narrow = row.kernel.input == Element::kF16 ? Element::kF16 : Element::kBf16;
  for (Element output : {Element::kF32, narrow}) {
    Expected rounded = expected;
    for (int64_t i = 0; output != Element::kF32 && i < std::ssize(rounded.bounds); ++i) {
      rounded.bounds[i] +=
          std::abs(expected.values[i]) * (output == Element::kF16 ? 0x1p-11 : 0x1p-8);
      if (output == Element::kF16) rounded.bounds[i] += 0x1p-25;
    }
    for (int64_t padding : {8, 3}) {  // rows on boundaries of 16 bytes, and not
      const std::vector<float> got = RunKernel(
          row, batch, {.rows = {0, batch.tokens()}, .output = output, .padding = padding});
      const int64_t i = FirstOutOfBounds(got, rounded);
      EXPECT_EQ(i, -1) << "token " << i / batch.width() << " column " << i % batch.width() << ": "
                       << got[std::max<int64_t>(i, 0)] << " for "
                       << rounded.values[std::max<int64_t>(i, 0)] << " +- "
                       << rounded.bounds[std::max<int64_t>(i, 0)];
    }
  }
}

void ExpectSameBits(const float* a, const float* b, int64_t count, const std::string& what) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i]), std::bit_cast<uint32_t>(b[i])) << what << " " << i;
  }
}

class AttentionTest : public testing::TestWithParam<Row> {
 protected:
  void SetUp() override {
    const auto& [device, kernel] = GetParam();
    if (device.stream == nullptr) {
      GTEST_SKIP() << kernel.name << ": " << device.backend->name << ": " << device.reason;
    }
    const uint32_t lacking = kernel.instruction_sets & ~device.backend->instruction_sets();
    if (lacking != 0) {
      GTEST_SKIP() << kernel.name << ": this device lacks "
                   << device.backend->instruction_set_names(lacking);
    }
  }

  // The least head size from `wanted` that the row computes.
  static int HeadSize(int wanted) {
    while (!GetParam().kernel.fits(wanted)) wanted += 8;
    return wanted;
  }
};

TEST_P(AttentionTest, MixedLengths) {
  ExpectCorrect(GetParam(), RandomBatch({1, 63, 513, 64, 2, 65, 1, 128, 129}, 2, 2, 32, 1, 1));
  ExpectCorrect(GetParam(), RandomBatch({1, 300, 17}, 1, 1, 64, 1, 2));
}

// What each element may be off by is never reached by all: the noise of the whole is far below.
TEST_P(AttentionTest, NoiseOfRandomScores) {
  const Batch batch = RandomBatch({1, 300, 17, 128, 64}, 2, 2, 32, 1, 21);
  const Expected expected = Expect(GetParam(), batch);
  const std::vector<float> got = RunKernel(GetParam(), batch);
  double most = 1e-12;
  if (GetParam().kernel.input == Element::kF16) most = 2e-7;
  if (GetParam().kernel.input == Element::kBf16) most = 1e-5;
  if (GetParam().kernel.score_levels == 127) most = 1e-4;
  EXPECT_LE(reference::Nmse(reference::ToDouble(got), expected.values), most);
}

TEST_P(AttentionTest, EveryShortLength) {
  std::vector<int> lengths;
  for (int length = 1; length <= 40; ++length) lengths.push_back(length);
  ExpectCorrect(GetParam(), RandomBatch(lengths, 2, 1, 32, 1, 3));
}

TEST_P(AttentionTest, LongSequence) {
  ExpectCorrect(GetParam(), RandomBatch({2000, 3}, 1, 1, HeadSize(16), 1, 4));
}

TEST_P(AttentionTest, EveryHeadSize) {
  const AttentionKernel& kernel = GetParam().kernel;
  EXPECT_FALSE(kernel.fits(0));
  EXPECT_FALSE(kernel.fits(12));
  EXPECT_FALSE(kernel.fits(264));
  for (int head_size : {32, 64, 128}) EXPECT_TRUE(kernel.fits(head_size));
  int largest = 0;
  for (int head_size = 8; head_size <= 256; head_size += 8) {
    EXPECT_TRUE(kernel.fits(head_size) || !GetParam().on_cpu()) << head_size;
    if (!kernel.fits(head_size)) continue;
    largest = head_size;
    ExpectCorrect(GetParam(), RandomBatch({21, 1}, 2, 2, head_size, 1, 5 + head_size));
  }
  ExpectCorrect(GetParam(), RandomBatch({140, 2}, 1, 1, largest, 1, 6));
}

TEST_P(AttentionTest, KeyValueHeadsAreShared) {
  ExpectCorrect(GetParam(), RandomBatch({30, 70}, 6, 2, HeadSize(24), 1, 7));
  ExpectCorrect(GetParam(), RandomBatch({30, 70}, 4, 1, 32, 1, 8));
}

TEST_P(AttentionTest, ScoresOfHundreds) {
  Batch batch = RandomBatch({64, 200, 1}, 2, 2, 32, 1, 9);
  double largest = 0, least = 0;
  for (int64_t t = 0; t < batch.tokens(); ++t) {
    for (int64_t c = 0; c < batch.width(); ++c) {
      // Keys +-1 along one direction: scores of exactly +-200 beside small ones.
      batch.k[t * batch.width() + c] = c % 32 == 0 ? (t % 3 == 0 ? 1.0f : -1.0f) : 0.0f;
      batch.q[t * batch.width() + c] = c % 32 == 0 ? Exact16(1131.4f) : 0.0f;
    }
    const double score = batch.q[t * batch.width()] * batch.k[t * batch.width()] / std::sqrt(32.0);
    largest = std::max(largest, score);
    least = std::min(least, score);
  }
  EXPECT_NEAR(largest, 200, 1);
  EXPECT_NEAR(least, -200, 1);
  ExpectCorrect(GetParam(), batch);
  ExpectCorrect(GetParam(), RandomBatch({150}, 1, 1, 32, 60, 10));
}

TEST_P(AttentionTest, MaximumInTheLastStep) {
  for (int length : {129, 200, 257, 513}) {
    Batch batch = RandomBatch({length}, 1, 1, 32, 1, 11);
    // Later keys agree ever more with every query: each step moves the maximum.
    for (int t = 0; t < length; ++t) {
      for (int d = 0; d < 32; ++d) {
        batch.q[t * 32 + d] = 1.0f + 0.25f * (d % 4);
        batch.k[t * 32 + d] = Exact16(5.0f * t / length);
      }
    }
    ExpectCorrect(GetParam(), batch);
  }
}

TEST_P(AttentionTest, RelativeBias) {
  Batch batch = RandomBatch({1, 40, 300}, 3, 3, 32, 1, 12);
  AddBias(&batch, 300, 13);
  ExpectCorrect(GetParam(), batch);
  // The same bias turned round must not pass.
  Batch turned = batch;
  for (int head = 0; head < batch.heads; ++head) {
    for (int distance = -299; distance < 300; ++distance) {
      const int64_t zero = head * batch.bias_stride + batch.bias_zero;
      turned.bias[zero + distance] = batch.bias[zero - distance];
    }
  }
  const std::vector<float> got = RunKernel(GetParam(), turned);
  EXPECT_NE(FirstOutOfBounds(got, Expect(GetParam(), batch)), -1);
}

TEST_P(AttentionTest, Causal) {
  Batch batch = RandomBatch({1, 2, 63, 128, 400}, 2, 2, 32, 1, 14);
  batch.mask = Mask::kCausal;
  ExpectCorrect(GetParam(), batch);
  AddBias(&batch, 400, 15);
  ExpectCorrect(GetParam(), batch);
}

TEST_P(AttentionTest, Window) {
  for (int window : {0, 1, 5, 64, 127, 200, 1000}) {
    Batch batch = RandomBatch({1, 7, 129, 500}, 2, 1, HeadSize(16), 1, 16);
    batch.mask = Mask::kWindow;
    batch.window = window;
    ExpectCorrect(GetParam(), batch);
    AddBias(&batch, 500, 17);
    ExpectCorrect(GetParam(), batch);
  }
}

// Whatever is around a sequence, even NaN, does not reach its rows, and neither the batch nor the
// range of rows nor the team changes a bit of them.
TEST_P(AttentionTest, ARowDependsOnItsSequenceAlone) {
  for (Mask mask : {Mask::kFull, Mask::kCausal, Mask::kWindow}) {
    Batch batch = RandomBatch({5, 300, 1, 64, 129, 10}, 2, 2, 32, 1, 18);
    batch.mask = mask;
    batch.window = 20;
    if (mask != Mask::kFull) AddBias(&batch, 300, 19);
    const int64_t tokens = batch.tokens(), width = batch.width();
    const std::vector<float> whole = RunKernel(GetParam(), batch);

    for (int threads : {2, 3}) {
      if (!GetParam().on_cpu()) break;
      cpu::Team team(threads);
      const std::vector<float> split =
          RunKernel(GetParam(), batch, {.rows = {0, tokens}, .stream = &team});
      ExpectSameBits(whole.data(), split.data(), tokens * width, "team");
    }
    for (size_t s = 0; s + 1 < batch.offsets.size(); ++s) {
      const int64_t first = batch.offsets[s], last = batch.offsets[s + 1];
      Batch among_nan = batch;
      for (std::vector<float>* x : {&among_nan.q, &among_nan.k, &among_nan.v}) {
        std::fill(x->begin(), x->begin() + first * width, kNan);
        std::fill(x->begin() + last * width, x->end(), kNan);
      }
      const std::vector<float> own = RunKernel(GetParam(), among_nan, {.rows = {first, last}});
      ExpectSameBits(&whole[first * width], &own[first * width], (last - first) * width,
                     "among NaN");
      Batch alone = batch;
      alone.offsets = {0, static_cast<int32_t>(last - first)};
      for (auto member : {&Batch::q, &Batch::k, &Batch::v}) {
        alone.*member = {(batch.*member).begin() + first * width,
                         (batch.*member).begin() + last * width};
      }
      const std::vector<float> single = RunKernel(GetParam(), alone);
      ExpectSameBits(&whole[first * width], single.data(), (last - first) * width, "alone");
    }
    for (Rows rows : {Rows{0, 1}, Rows{3, 17}, Rows{4, 306}, Rows{101, 102}, Rows{200, tokens},
                      Rows{7, 7}, Rows{305, 306}}) {
      const std::vector<float> part = RunKernel(GetParam(), batch, {.rows = rows});
      ExpectSameBits(&whole[rows.begin * width], &part[rows.begin * width],
                     (rows.end - rows.begin) * width, "rows");
      for (int64_t t = 0; t < tokens; ++t) {
        if (t >= rows.begin && t < rows.end) continue;
        ASSERT_TRUE(std::isnan(part[t * width])) << "wrote row " << t;
      }
    }
  }
}

TEST_P(AttentionTest, AValueThatIsNotFiniteShows) {
  for (auto member : {&Batch::q, &Batch::k, &Batch::v}) {
    Batch batch = RandomBatch({150}, 1, 1, 32, 1, 20);
    (batch.*member)[70 * 32 + 5] = kNan;
    const std::vector<float> got = RunKernel(GetParam(), batch);
    EXPECT_TRUE(std::isnan(got[70 * 32 + 5]));
  }
}

TEST(AttentionRowsTest, EveryHeadSizeHasARow) {
  for (const Backend& backend : Backends()) {
    for (int head_size = 8; head_size <= 256; head_size += 8) {
      const auto rows = backend.attention_kernels();
      EXPECT_TRUE(std::any_of(rows.begin(), rows.end(),
                              [&](const AttentionKernel& row) { return row.fits(head_size); }))
          << backend.name << " " << head_size;
    }
  }
}

std::vector<Row> AllRows() {
  std::vector<Row> rows;
  for (const OpenedDevice& device : OpenedDevices()) {
    for (const AttentionKernel& kernel : device.backend->attention_kernels()) {
      rows.push_back({device, kernel});
    }
  }
  return rows;
}

INSTANTIATE_TEST_SUITE_P(Rows, AttentionTest, testing::ValuesIn(AllRows()),
                         [](const auto& info) { return std::string(info.param.kernel.name); });

}  // namespace
}  // namespace octavo
