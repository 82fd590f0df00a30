// Every backend's RowOperations against their definitions: encodings exactly, norms and means
// against float64. Values lie between poison, rows begin at multiples of 16 bytes and not.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/element_bytes.h"
#include "quant/e4m3.h"
#include "quant/half.h"
#include "tests/kernels/device_copies.h"
#include "tests/kernels/random_vector.h"
#include "tests/reference/reference.h"

namespace octavo {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kColumns[] = {1,   7,   8,   24,   64,   128,  136,  384,
                                385, 392, 768, 1000, 1024, 1536, 2048, 2056};
constexpr int64_t kWideColumns[] = {3072, 4096, 4104};
constexpr int64_t kE4m3Columns = 128;  // that share a scale

// A matrix in host memory, poisoned: NaN, or 99 in int8.
struct HostMatrix {
  HostMatrix(Element element, int64_t rows, int64_t columns, int64_t padding)
      : element(element),
        rows(rows),
        columns(columns),
        stride(columns + padding),
        bytes(rows * stride * ElementBytes(element), element == Element::kInt8 ? 99 : 0xff),
        scale_stride((rows + 31) / 32 * 32),
        scales((columns + kE4m3Columns - 1) / kE4m3Columns * scale_stride, 99.0f),
        sums(rows, 99) {}

  float Get(int64_t row, int64_t column) const {
    const uint8_t* at = &bytes[(row * stride + column) * ElementBytes(element)];
    uint16_t half;
    float value;
    switch (element) {
      case Element::kF32:
        std::memcpy(&value, at, 4);
        return value;
      case Element::kF16:
      case Element::kBf16:
        std::memcpy(&half, at, 2);
        return element == Element::kF16 ? F16ToFloat(half) : Bf16ToFloat(half);
      case Element::kInt8:
        return static_cast<int8_t>(*at);
      default:
        return E4m3ToFloat(*at);
    }
  }
  // Rounds to the element.
  void Set(int64_t row, int64_t column, float value) {
    uint8_t* at = &bytes[(row * stride + column) * ElementBytes(element)];
    if (element == Element::kF32) {
      std::memcpy(at, &value, 4);
    } else {
      const uint16_t half = element == Element::kF16 ? FloatToF16(value) : FloatToBf16(value);
      std::memcpy(at, &half, 2);
    }
  }
  std::vector<float> Row(int64_t row) const {
    std::vector<float> values(columns);
    for (int64_t c = 0; c < columns; ++c) values[c] = Get(row, c);
    return values;
  }

  Matrix In(DeviceCopies& copies) {
    return {copies.In(bytes.data(), std::ssize(bytes)), stride, element};
  }
  Matrix Out(DeviceCopies& copies) {
    Matrix matrix = {copies.Out(bytes.data(), std::ssize(bytes)), stride, element};
    matrix.scales = copies.Out(scales.data(), std::ssize(scales) * 4);
    matrix.sums = copies.Out(sums.data(), rows * 4);
    matrix.scale_stride = scale_stride;
    return matrix;
  }

  Element element;
  int64_t rows, columns, stride;
  std::vector<uint8_t> bytes;
  int64_t scale_stride;
  std::vector<float> scales;
  std::vector<int32_t> sums;
};

struct Group {
  std::vector<float> q;
  float scale;  // NaN: any value that is not finite
};

// How values that share a scale are encoded. `round` is to the element's nearest.
template <typename Round>
Group EncodeGroup(const float* x, int64_t count, float limit, const Round& round) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) return {std::vector<float>(count), kNan};
    largest = std::max(largest, std::abs(x[i]));
  }
  if (largest < 0x1p-100f) return {std::vector<float>(count), 0.0f};
  const float inverse = limit / largest;
  Group group = {{}, largest / limit};
  for (int64_t i = 0; i < count; ++i) group.q.push_back(round(x[i] * inverse));
  return group;
}

void ExpectSame(float got, float want, const std::string& what) {
  if (std::isfinite(want)) {
    ASSERT_EQ(got, want) << what;
  } else {
    ASSERT_FALSE(std::isfinite(got)) << what;
  }
}

// A row of `got` holds `x` in its encoding.
void ExpectEncoded(const HostMatrix& got, int64_t row, const std::vector<float>& x,
                   const std::string& where) {
  const std::string what = where + " row " + std::to_string(row);
  std::vector<float> want = x;
  if (got.element == Element::kInt8) {
    const Group group = EncodeGroup(x.data(), got.columns, 127.0f,
                                    [](float value) { return std::nearbyint(value); });
    want = group.q;
    ExpectSame(got.scales[row], group.scale, what + " scale");
    int sum = 0;
    for (float q : group.q) sum += static_cast<int>(q);
    EXPECT_EQ(got.sums[row], sum) << what;
  } else if (got.element == Element::kE4m3) {
    for (int64_t begin = 0; begin < got.columns; begin += kE4m3Columns) {
      const Group group =
          EncodeGroup(x.data() + begin, std::min(kE4m3Columns, got.columns - begin), 448.0f,
                      [](float value) { return E4m3ToFloat(FloatToE4m3(value)); });
      std::copy(group.q.begin(), group.q.end(), want.begin() + begin);
      ExpectSame(got.scales[begin / kE4m3Columns * got.scale_stride + row], group.scale,
                 what + " scale");
    }
  } else if (got.element != Element::kF32) {
    HostMatrix rounded(got.element, 1, got.columns, 0);
    for (int64_t c = 0; c < got.columns; ++c) rounded.Set(0, c, x[c]);
    want = rounded.Row(0);
  }
  for (int64_t c = 0; c < got.columns; ++c) {
    ExpectSame(got.Get(row, c), want[c], what + " column " + std::to_string(c));
  }
}

// Nothing was written after the columns, nor to rows from `rows` on.
void ExpectPoison(const HostMatrix& matrix, int64_t rows, const std::string& what) {
  for (int64_t row = 0; row < matrix.rows; ++row) {
    for (int64_t c = row < rows ? matrix.columns : 0; c < matrix.stride; ++c) {
      const float value = matrix.Get(row, c);
      ASSERT_TRUE(std::isnan(value) || (matrix.element == Element::kInt8 && value == 99))
          << what << " wrote " << row << " " << c;
    }
    if (row < rows) continue;
    EXPECT_EQ(matrix.sums[row], 99) << what;
    for (int64_t i = row; i < std::ssize(matrix.scales); i += matrix.scale_stride) {
      EXPECT_EQ(matrix.scales[i], 99.0f) << what;
    }
  }
}

class RowOperationsTest : public testing::TestWithParam<OpenedDevice> {
 protected:
  static constexpr int64_t kRows = 11;
  static constexpr int64_t kMostRows = 14;  // those past kRows are not there

  void SetUp() override {
    if (GetParam().stream == nullptr) {
      GTEST_SKIP() << GetParam().backend->name << ": " << GetParam().reason;
    }
  }

  const Backend& backend() const { return *GetParam().backend; }
  Stream& stream() const { return *GetParam().stream; }
  DeviceCopies Copies() const { return DeviceCopies({backend(), stream()}); }
  bool on_cpu() const { return backend().name == "cpu"; }

  // Rows that a call is given: on a device more than there are, their number in its memory.
  template <typename Args>
  void SetRows(Args* args, DeviceCopies& copies) const {
    args->rows = on_cpu() ? kRows : kMostRows;
    if (!on_cpu()) args->device_rows = copies.In(&rows_, sizeof(rows_));
  }

  // Of hidden states here.
  std::vector<Element> HiddenElements() const {
    std::vector<Element> elements = {backend().hidden(**FindFormat("f16"))};
    const Element other = backend().hidden(**FindFormat("bf16"));
    if (other != elements[0]) elements.push_back(other);
    return elements;
  }

  // Rows of different magnitude and mean.
  HostMatrix RandomMatrix(Element element, int64_t columns, int64_t padding, int seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    HostMatrix x(element, kMostRows, columns, padding);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t c = 0; c < columns; ++c) {
        x.Set(row, c, std::ldexp(normal(random) + 0.25f * row, static_cast<int>(row % 5 * 3) - 6));
      }
    }
    return x;
  }

  void ExpectEncodes(Element input, Element output, int64_t columns, int64_t padding) const;
  void ExpectNorms(Element hidden, int64_t columns, int64_t padding, float mean) const;

 private:
  const int32_t rows_ = kRows;
};

void RowOperationsTest::ExpectEncodes(Element input, Element output, int64_t columns,
                                      int64_t padding) const {
  HostMatrix x = RandomMatrix(input, columns, padding, 1);
  for (int64_t c = 0; c < columns; ++c) {
    x.Set(1, c, 0.0f);
    x.Set(2, c, static_cast<float>(c % 127) + 0.5f);  // halves: q = 0.5, 1.5, 2.5, ...
    x.Set(3, c, c % 2 == 0 ? 0x1p-101f : -0x1p-102f);
  }
  x.Set(2, columns - 1, -127.0f);
  x.Set(4, columns / 2, 1e4f);
  if (output == Element::kInt8 || output == Element::kE4m3) {
    x.Set(5, columns - 1, kNan);
    x.Set(6, columns / 3, kInfinity);
    x.Set(7, 0, -kInfinity);
  }
  HostMatrix y(output, kMostRows, columns, padding);
  DeviceCopies copies = Copies();
  EncodeArgs args;
  SetRows(&args, copies);
  args.columns = columns;
  args.input = x.In(copies);
  args.output = y.Out(copies);
  backend().rows.encode(args, stream());
  const std::string what = "element " + std::to_string(static_cast<int>(input)) + " to " +
                           std::to_string(static_cast<int>(output)) + ", " +
                           std::to_string(columns) + " columns, padding " + std::to_string(padding);
  ASSERT_EQ(copies.Finish(), "") << what;
  for (int64_t row = 0; row < kRows; ++row) ExpectEncoded(y, row, x.Row(row), what);
  ExpectPoison(y, kRows, what);
}

TEST_P(RowOperationsTest, EncodesExactlyAsDefined) {
  std::vector<Element> inputs = HiddenElements();
  if (inputs[0] != Element::kF32) inputs.push_back(Element::kF32);
  for (Element input : inputs) {
    for (Element output : backend().outputs) {
      for (int64_t columns : kColumns) {
        ExpectEncodes(input, output, columns, 8);
        ExpectEncodes(input, output, columns, 3);
      }
      for (int64_t columns : kWideColumns) ExpectEncodes(input, output, columns, 8);
    }
  }
}

void RowOperationsTest::ExpectNorms(Element element, int64_t columns, int64_t padding,
                                    float mean) const {
  constexpr float kEpsilon = 1e-6f;
  const std::string what = "element " + std::to_string(static_cast<int>(element)) + ", " +
                           std::to_string(columns) + " columns, padding " + std::to_string(padding);
  HostMatrix input = RandomMatrix(element, columns, padding, 2);
  HostMatrix residual = RandomMatrix(element, columns, padding, 3);
  for (int64_t c = 0; c < columns; ++c) input.Set(8, c, input.Get(8, c) + mean);
  const std::vector<float> gain = RandomVector(columns, 4), bias = RandomVector(columns, 5);
  const bool apart = !backend().product_adds_residual;
  // As Forward calls it: in place where products add the residual, else over the residual.
  const auto norm = [&](HostMatrix* hidden, HostMatrix* encoded) {
    DeviceCopies copies = Copies();
    NormArgs args;
    SetRows(&args, copies);
    args.columns = columns;
    args.gain = copies.In(gain.data(), columns * 4);
    args.bias = copies.In(bias.data(), columns * 4);
    args.epsilon = kEpsilon;
    args.hidden = hidden->Out(copies);
    args.input = apart ? input.In(copies) : args.hidden;
    if (apart) args.residual = args.hidden;
    if (encoded != nullptr) args.encoded = encoded->Out(copies);
    backend().rows.norm(args, stream());
    ASSERT_EQ(copies.Finish(), "") << what;
    ExpectPoison(*hidden, kRows, what);
    if (encoded != nullptr) ExpectPoison(*encoded, kRows, what);
  };

  HostMatrix hidden = apart ? residual : input;
  HostMatrix exact(Element::kF32, kMostRows, columns, padding);  // the norm before it is rounded
  norm(&hidden, &exact);
  for (int64_t row = 0; row < kRows; ++row) {
    std::vector<float> x = input.Row(row);
    for (int64_t c = 0; apart && c < columns; ++c) x[c] += residual.Get(row, c);
    const std::vector<double> want = reference::LayerNorm(x, gain, bias, 1, columns, kEpsilon);
    double largest = 0;
    for (double value : want) largest = std::max(largest, std::abs(value));
    for (int64_t c = 0; c < columns; ++c) {
      // A mean far from 0 is itself rounded.
      ASSERT_NEAR(exact.Get(row, c), want[c], (mean != 0 && row == 8 ? 2e-4 : 3e-6) * largest)
          << what << ", row " << row << " column " << c;
    }
    ExpectEncoded(hidden, row, exact.Row(row), what + " hidden");
  }
  HostMatrix alone = apart ? residual : input;
  norm(&alone, nullptr);
  EXPECT_EQ(alone.bytes, hidden.bytes) << what;
  for (Element output : backend().outputs) {
    HostMatrix again = apart ? residual : input;
    HostMatrix encoded(output, kMostRows, columns, padding);
    norm(&again, &encoded);
    EXPECT_EQ(again.bytes, hidden.bytes) << what;
    for (int64_t row = 0; row < kRows; ++row) {
      ExpectEncoded(encoded, row, exact.Row(row), what + " encoded");
    }
  }
}

TEST_P(RowOperationsTest, NormsAndEncodesWhatItNormed) {
  for (Element element : HiddenElements()) {
    for (int64_t columns : kColumns) {
      if (columns == 1) continue;  // the variance is 0
      ExpectNorms(element, columns, 8, 0);
      ExpectNorms(element, columns, 3, 0);
    }
    for (int64_t columns : kWideColumns) ExpectNorms(element, columns, 8, 0);
    // A variance taken as E[x^2] - mean^2 would have no digits.
    ExpectNorms(element, 384, 8, 1000.0f);
    ExpectNorms(element, 385, 3, 1000.0f);
  }
}

TEST_P(RowOperationsTest, EmbedsTheTablesThereAre) {
  constexpr float kEpsilon = 1e-12f;
  const std::vector<int32_t> ids = {8, 0, 3, 3, 7, 1, 2, 8, 4, 5, 6, -1, -1, -1};
  const std::vector<int32_t> positions = {0, 1, 5, 0, 2, 3, 4, 0, 1, 2, 3, -1, -1, -1};
  for (Element element : HiddenElements()) {
    for (int64_t columns : kColumns) {
      if (columns == 1) continue;
      const std::vector<float> word = RandomVector(9 * columns, 11);
      const std::vector<float> position = RandomVector(6 * columns, 12);
      const std::vector<float> type = RandomVector(columns, 13);
      const std::vector<float> gain = RandomVector(columns, 14), bias = RandomVector(columns, 15);
      for (int parts = 0; parts < 4; ++parts) {
        HostMatrix hidden(element, kMostRows, columns, 8);
        HostMatrix exact(Element::kF32, kMostRows, columns, 8);
        DeviceCopies copies = Copies();
        EmbeddingTables tables;
        tables.word = copies.In(word.data(), std::ssize(word) * 4);
        if (parts & 1) tables.position = copies.In(position.data(), std::ssize(position) * 4);
        if (parts & 2) tables.token_type = copies.In(type.data(), columns * 4);
        NormArgs norm;
        SetRows(&norm, copies);
        norm.columns = columns;
        norm.gain = copies.In(gain.data(), columns * 4);
        norm.bias = copies.In(bias.data(), columns * 4);
        norm.epsilon = kEpsilon;
        norm.hidden = hidden.Out(copies);
        norm.encoded = exact.Out(copies);
        backend().rows.embed(tables, copies.In(ids.data(), std::ssize(ids) * 4),
                             copies.In(positions.data(), std::ssize(positions) * 4), norm,
                             stream());
        ASSERT_EQ(copies.Finish(), "");
        for (int64_t row = 0; row < kRows; ++row) {
          std::vector<float> x(columns);
          for (int64_t c = 0; c < columns; ++c) {
            x[c] = word[ids[row] * columns + c];
            if (parts & 1) x[c] += position[positions[row] * columns + c];
            if (parts & 2) x[c] += type[c];
          }
          const std::vector<double> want =
              reference::LayerNorm(x, gain, bias, 1, columns, kEpsilon);
          double largest = 0;
          for (double value : want) largest = std::max(largest, std::abs(value));
          for (int64_t c = 0; c < columns; ++c) {
            ASSERT_NEAR(exact.Get(row, c), want[c], 3e-6 * largest) << columns << " " << parts;
          }
          ExpectEncoded(hidden, row, exact.Row(row), std::to_string(columns) + " columns");
        }
        ExpectPoison(hidden, kRows, std::to_string(columns) + " columns");
        ExpectPoison(exact, kRows, std::to_string(columns) + " columns");
      }
    }
  }
}

TEST_P(RowOperationsTest, Pools) {
  std::vector<int32_t> lengths = {1, 2, 31, 32, 33, 200, 3};
  if (!on_cpu()) lengths.insert(lengths.begin() + 2, 0);  // not there
  std::vector<int32_t> offsets = {0};
  for (int32_t length : lengths) offsets.push_back(offsets.back() + length);
  const int64_t sequences = std::ssize(lengths);
  for (Element element : HiddenElements()) {
    for (int64_t columns : kColumns) {
      for (int64_t padding : {8, 3}) {
        HostMatrix x(element, offsets.back(), columns, padding);
        const std::vector<float> values = RandomVector(x.rows * columns, 21);
        for (int64_t i = 0; i < std::ssize(values); ++i) {
          x.Set(i / columns, i % columns, values[i]);
        }
        std::vector<float> mean(sequences * columns, kNan), first = mean;
        for (std::vector<float>* to : {&mean, &first}) {
          DeviceCopies copies = Copies();
          PoolArgs args;
          args.hidden = x.In(copies);
          args.offsets = copies.In(offsets.data(), std::ssize(offsets) * 4);
          args.sequences = sequences;
          args.columns = columns;
          args.output = copies.Out(to->data(), std::ssize(*to) * 4);
          (to == &mean ? backend().rows.mean_pool : backend().rows.first_pool)(args, stream());
          ASSERT_EQ(copies.Finish(), "");
        }
        for (int64_t i = 0; i < sequences * columns; ++i) {
          const int64_t s = i / columns, c = i % columns;
          if (lengths[s] == 0) {
            ASSERT_TRUE(std::isnan(mean[i]) && std::isnan(first[i])) << "wrote sequence " << s;
            continue;
          }
          double sum = 0, magnitude = 0;
          for (int32_t row = offsets[s]; row < offsets[s + 1]; ++row) {
            sum += x.Get(row, c);
            magnitude += std::abs(x.Get(row, c));
          }
          ASSERT_NEAR(mean[i], sum / lengths[s], 1e-6 * magnitude) << columns << " " << s;
          ASSERT_EQ(first[i], x.Get(offsets[s], c)) << columns << " " << s;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, RowOperationsTest, testing::ValuesIn(OpenedDevices()),
                         [](const auto& info) { return std::string(info.param.backend->name); });

}  // namespace
}  // namespace octavo
