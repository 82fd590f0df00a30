// Every row of every backend's table of linear kernels, on every format it accepts. A row that this
// machine cannot run is skipped by name.
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"
#include "kernels/plan.h"
#include "tests/kernels/device_copies.h"
#include "tests/kernels/linear_amx_emulated.h"
#include "tests/kernels/linear_cases.h"

namespace octavo {

// A row and where it runs.
struct Row {
  LinearKernel kernel;
  const OpenedDevice* device;
};

// What gtest shows of a parameter.
void PrintTo(const Row& row, std::ostream* to) { *to << row.kernel.name; }

namespace {

struct Size {
  int64_t k, n, m;
};

// Sizes of real layers, multiples and non-multiples of every block, and K and N that fill no
// vector.
constexpr Size kSizes[] = {
    {1, 8, 1},       {7, 24, 3},      {33, 1000, 7},  {32, 384, 65},  {64, 24, 257},
    {96, 1000, 17},  {384, 384, 64},  {384, 2304, 2}, {384, 8, 257},  {416, 1000, 16},
    {416, 24, 63},   {2624, 384, 7},  {2624, 8, 65},  {3072, 24, 17}, {3072, 1000, 3},
    {4096, 2304, 1}, {4096, 384, 16}, {96, 8, 64},    {32, 2304, 63}, {64, 1000, 2},
    {130, 34, 19},   {5, 2, 5},       {1000, 96, 40},
};

// Sanitizers look for races and stray accesses, up to twenty times slower: the smaller sizes show
// them all. The numerics of the others are the other builds' to test; LinearTable.RunsEverySize
// names them.
#if defined(__SANITIZE_THREAD__)
constexpr int64_t kLargestProblem = 1'000'000;
#elif defined(__SANITIZE_ADDRESS__)
constexpr int64_t kLargestProblem = 4'000'000;  // every epilogue is still at one of the sizes
#else
constexpr int64_t kLargestProblem = std::numeric_limits<int64_t>::max();
#endif

std::vector<EpilogueCase> EpilogueCases(std::span<const Element> outputs) {
  std::vector<EpilogueCase> cases;
  for (Element output : outputs) {
    for (EpilogueCase epilogue : {
             EpilogueCase{},
             EpilogueCase{.bias = true},
             EpilogueCase{.bias = true, .activation = Activation::kGelu},
             EpilogueCase{.bias = true, .activation = Activation::kGeluTanh},
             EpilogueCase{.bias = true, .activation = Activation::kSilu},
             EpilogueCase{.bias = true, .activation = Activation::kSilu, .gated = true},
             EpilogueCase{.activation = Activation::kGelu, .gated = true},
             EpilogueCase{.bias = true, .residual = true},
             EpilogueCase{.bias = true, .activation = Activation::kGelu, .residual = true},
             EpilogueCase{.activation = Activation::kNone, .gated = true, .residual = true},
         }) {
      epilogue.output = output;
      cases.push_back(epilogue);
    }
  }
  return cases;
}

// Of the epilogues, those run at size i: a few each, all of them over the sizes.
std::vector<EpilogueCase> EpilogueCasesAt(size_t i, std::span<const Element> outputs) {
  constexpr size_t kPerSize = 5;
  const std::vector<EpilogueCase> all = EpilogueCases(outputs);
  std::vector<EpilogueCase> cases = {EpilogueCase{}};
  for (size_t j = 0; j < kPerSize; ++j) cases.push_back(all[(i * kPerSize + j) % all.size()]);
  return cases;
}

// NMSE that encoding normal values may cost, weights and activations together.
double AllowedQuantizationError(const Format& format) {
  switch (format.weight.element) {
    case Element::kF32:
      return 1e-11;
    case Element::kBf16:
    case Element::kF16:
      return 1e-5;
    case Element::kInt8:
      return 4e-4;
    case Element::kE4m3:
      return 2e-3;
    default:
      return 0.02;  // 4 bits
  }
}

PackedWeight Pack(const LinearKernel& kernel, const LinearProblem& problem) {
  const absl::StatusOr<PackedWeight> packed =
      PackWeight(kernel, problem.format(), problem.weight());
  EXPECT_TRUE(packed.ok()) << packed.status().ToString();
  EXPECT_EQ(packed->packing, kernel.packing);
  EXPECT_EQ(packed->shape.n, problem.shape().n);
  EXPECT_EQ(packed->shape.k, problem.shape().k);
  EXPECT_GE(packed->bytes, problem.shape().n * problem.shape().k / 2);
  return *packed;
}

bool Runs(const LinearKernel& kernel) {
  return (kernel.instruction_sets & ~cpu::DetectedInstructionSets()) == 0;
}

class LinearRow : public testing::TestWithParam<Row> {
 protected:
  void SetUp() override {
    const auto [backend, stream, reason] = *GetParam().device;
    if (stream == nullptr) {
      GTEST_SKIP() << kernel().name << " needs a device: " << reason;
    }
    const uint32_t missing = kernel().instruction_sets & ~backend->instruction_sets();
    if (missing != 0) {
      GTEST_SKIP() << kernel().name << " needs " << backend->instruction_set_names(missing);
    }
  }
  const LinearKernel& kernel() const { return GetParam().kernel; }
  bool on_cpu() const { return GetParam().device->backend->name == "cpu"; }
  DeviceStream device() const { return {*GetParam().device->backend, *GetParam().device->stream}; }
  std::span<const Element> outputs() const { return GetParam().device->backend->outputs; }

  // Formats the row accepts; it must accept at least one.
  std::vector<const Format*> AcceptedFormats() const {
    std::vector<const Format*> accepted;
    for (const Format& format : Formats()) {
      if (kernel().accepts(format)) accepted.push_back(&format);
    }
    EXPECT_FALSE(accepted.empty());
    return accepted;
  }
  // Calls body(problem, i, packed) for every `stride`th size i and each format; a row of many
  // formats sees each size in two of them. A device's rows may refuse a size that is no
  // multiple of 128, the CPU's take all; a device's see strides of whole vectors, which have
  // kernels of their own, and odd ones.
  void ForEachProblem(
      Values values, size_t stride,
      const std::function<void(const LinearProblem&, size_t, const PackedWeight&)>& body) const {
    const std::vector<const Format*> formats = AcceptedFormats();
    stride *= std::max<size_t>(1, formats.size() / 2);
    for (size_t f = 0; f < formats.size(); ++f) {
      for (size_t i = 0; i < std::size(kSizes); ++i) {
        if ((i + f) % stride != 0) continue;
        const Size& size = kSizes[i];
        if (size.k * size.n * size.m > kLargestProblem) continue;
        const LinearShape shape = {.n = size.n, .k = size.k};
        if (!kernel().fits(shape)) {
          ASSERT_TRUE(!on_cpu() && (size.n % 128 != 0 || size.k % 128 != 0))
              << "N " << size.n << " K " << size.k;
          continue;
        }
        Operands operands(kernel());
        operands.aligned = !on_cpu() && i % 4 != 3;
        const LinearProblem problem(*formats[f], operands, shape, size.m, values, 1000 * f + i);
        body(problem, i, Pack(kernel(), problem));
      }
    }
  }
  // A problem beside the sizes above.
  LinearProblem MakeProblem(const Format& format, const LinearShape& shape, int64_t rows,
                            Values values, uint64_t seed) const {
    return LinearProblem(format, Operands(kernel()), shape, rows, values, seed);
  }
};

// Within the row's bound of the float64 product; the same bits on a team of three (or a second
// time), and for any rows alone.
TEST_P(LinearRow, AgreesWithDecodedFloat64WhateverTheOtherRows) {
  cpu::Team three(3);
  const DeviceStream other = on_cpu() ? OnCpu(three) : device();
  const auto body = [&](const LinearProblem& problem, size_t i, const PackedWeight& packed) {
    for (const EpilogueCase& epilogue : EpilogueCasesAt(i, outputs())) {
      SCOPED_TRACE(problem.Describe() + " " + Describe(epilogue));
      const LinearOutput whole = problem.Run(epilogue, &packed, kernel().run, device());
      EXPECT_EQ(problem.Check(epilogue, whole, ErrorBound(kernel())), "");
      const LinearOutput again = problem.Run(epilogue, &packed, kernel().run, other);
      EXPECT_EQ(problem.CheckGuards(again), "");
      EXPECT_TRUE(SameRows(whole, 0, again)) << "other bits a second time";
      const int64_t m = problem.rows();
      const std::pair<int64_t, int64_t> ranges[] = {
          {0, 1}, {m - 1, m}, {m / 2, std::min(m, m / 2 + 3)}, {m / 4, std::min(m, m / 4 + 7)}};
      for (const auto& [begin, end] : ranges) {
        const LinearOutput part = problem.Run(epilogue, &packed, kernel().run,
                                              begin % 2 == 0 ? device() : other, begin, end);
        if (kernel().bits_depend_on_m) {
          EXPECT_EQ(problem.Check(epilogue, part, ErrorBound(kernel()), begin), "");
        } else {
          EXPECT_EQ(problem.CheckGuards(part), "");
          EXPECT_TRUE(SameRows(whole, begin, part)) << "rows " << begin << " to " << end;
        }
      }
    }
  };
  ForEachProblem(Values::kSpread, /*stride=*/1, body);
}

// The device's memory says how many rows there are: what lies past them reaches none of them.
TEST_P(LinearRow, LeavesTheRowsOfADeviceCountAlone) {
  for (int64_t m : {2, 16, 40, 200}) {
    for (const EpilogueCase& epilogue : EpilogueCases(outputs())) {
      if (epilogue.gated || epilogue.residual || m * 192 * 256 > kLargestProblem) continue;
      Operands operands(kernel());
      operands.aligned = true;
      LinearProblem problem(*AcceptedFormats().front(), operands, {.n = 192, .k = 256}, m,
                            Values::kSpread, m);
      SCOPED_TRACE(problem.Describe() + " " + Describe(epilogue));
      const PackedWeight packed = Pack(kernel(), problem);
      const LinearOutput whole = problem.Run(epilogue, &packed, kernel().run, device());
      const int32_t count = static_cast<int32_t>(m / 2);
      problem.Poison(count);
      DeviceCopies copies(device());
      const int32_t* device_count = copies.In(&count, sizeof(count));
      const LinearOutput counted = problem.Run(
          epilogue, &packed,
          [&](LinearArgs args, Stream& stream) {
            args.device_rows = device_count;
            kernel().run(args, stream);
          },
          device());
      EXPECT_EQ(copies.Finish(), "");
      EXPECT_EQ(counted.fault, "");
      EXPECT_TRUE(SameRows(whole, 0, counted, count));
    }
  }
}

TEST_P(LinearRow, IsExactOnIntegers) {
  ForEachProblem(Values::kInteger, /*stride=*/2,
                 [&](const LinearProblem& problem, size_t, const PackedWeight& packed) {
                   SCOPED_TRACE(problem.Describe());
                   const LinearOutput output = problem.Run({}, &packed, kernel().run, device());
                   EXPECT_EQ(problem.CheckExact(output), "");
                 });
}

TEST_P(LinearRow, HoldsAtExtremes) {
  ForEachProblem(Values::kExtreme, /*stride=*/2,
                 [&](const LinearProblem& problem, size_t, const PackedWeight& packed) {
                   for (Element element : outputs()) {
                     const EpilogueCase epilogue = {.output = element};
                     SCOPED_TRACE(problem.Describe() + " " + Describe(epilogue));
                     const LinearOutput output =
                         problem.Run(epilogue, &packed, kernel().run, device());
                     EXPECT_EQ(problem.Check(epilogue, output, ErrorBound(kernel())), "");
                   }
                 });
}

// Sums that grow with K: where an accumulator of few bits loses what is added last.
TEST_P(LinearRow, HoldsWhereAllTermsArePositive) {
  for (const Format* format : AcceptedFormats()) {
    if (format->activation.element != Element::kE4m3) continue;
    const LinearProblem problem =
        MakeProblem(*format, {.n = 64, .k = 4096}, 5, Values::kPositive, 9);
    const PackedWeight packed = Pack(kernel(), problem);
    const LinearOutput output = problem.Run({}, &packed, kernel().run, device());
    EXPECT_EQ(problem.Check({}, output, ErrorBound(0x1p-10 / 0x1p-23, Element::kF32)), "");
  }
}

TEST_P(LinearRow, QuantizesWithinItsFormat) {
  for (const Format* format : AcceptedFormats()) {
    const LinearProblem problem = MakeProblem(*format, {.n = 96, .k = 512}, 48, Values::kPlain, 7);
    SCOPED_TRACE(problem.Describe());
    const PackedWeight packed = Pack(kernel(), problem);
    const double error =
        problem.QuantizationError(problem.Run({}, &packed, kernel().run, device()));
    EXPECT_LT(error, AllowedQuantizationError(*format));
    EXPECT_GE(error, 0.0);
  }
}

// A value that is not finite shows in every output of its row and in no other row.
TEST_P(LinearRow, PassesOnWhatIsNotFinite) {
  const Format& format = *AcceptedFormats().front();
  const LinearProblem problem = MakeProblem(format, {.n = 48, .k = 128}, 9, Values::kPlain, 3);
  const PackedWeight packed = Pack(kernel(), problem);
  for (Element element : outputs()) {
    const EpilogueCase epilogue = {.activation = Activation::kGelu, .output = element};
    SCOPED_TRACE(Describe(epilogue));
    // Through the bias, which every row of the table adds in f32.
    std::vector<float> bias(48, 0.0f);
    bias[21] = std::nanf("");
    DeviceCopies copies(device());
    const float* device_bias = copies.In(bias.data(), std::ssize(bias) * sizeof(float));
    const LinearOutput output = problem.Run(
        epilogue, &packed,
        [&](LinearArgs args, Stream& stream) {
          args.epilogue.bias = device_bias;
          kernel().run(args, stream);
        },
        device());
    EXPECT_EQ(copies.Finish(), "");
    EXPECT_EQ(output.fault, "");
    for (int64_t r = 0; r < problem.rows(); ++r) {
      if (element == Element::kInt8 || element == Element::kE4m3) {
        EXPECT_FALSE(std::isfinite(output.scales[LinearOutput::kGuardRows + r]));
      } else if (element == Element::kBf16) {
        EXPECT_EQ(output.row(r)[2 * 21 + 1] & 0x7f, 0x7f);
      } else if (element == Element::kF16) {
        EXPECT_EQ(output.row(r)[2 * 21 + 1] & 0x7e, 0x7e);
      } else {
        EXPECT_TRUE(std::isnan(reinterpret_cast<const float*>(output.row(r))[21]));
      }
    }
  }
}

std::vector<Row> RowsOfEveryBackend() {
  std::vector<Row> rows;
  for (const OpenedDevice& device : OpenedDevices()) {
    for (const LinearKernel& kernel : device.backend->linear_kernels()) {
      rows.push_back({kernel, &device});
    }
  }
  return rows;
}

std::string RowName(const testing::TestParamInfo<Row>& row) {
  const std::string backend(row.param.device->backend->name);
  return (backend == "cpu" ? "" : backend + "_") + std::string(row.param.kernel.name);
}

INSTANTIATE_TEST_SUITE_P(Table, LinearRow, testing::ValuesIn(RowsOfEveryBackend()), RowName);

#if defined(__x86_64__)
// The AMX rows of the table, on emulated tiles: what an AVX-512 processor without tiles can test.
template <const cpu::BlockKernel& kKernel>
LinearKernel Emulated(std::string_view name, std::string_view emulated_name) {
  for (LinearKernel kernel : cpu::LinearKernels()) {
    if (kernel.name != name) continue;
    kernel.name = emulated_name;
    kernel.instruction_sets = cpu::kAvx512 | cpu::kAvx512Bf16;
    kernel.run = [](const LinearArgs& args, Stream& stream) {
      cpu::RunBlocks(kKernel, args, stream);
    };
    return kernel;
  }
  ADD_FAILURE() << "the table has no row " << name;
  return {};
}

const LinearKernel kEmulatedInt8 =
    Emulated<cpu::kA8W8EmulatedAmx>("a8w8_int8_amx", "a8w8_int8_amx_emulated");

Row OnTheCpu(const LinearKernel& kernel) {
  for (const OpenedDevice& device : OpenedDevices()) {
    if (device.backend->name == "cpu") return {kernel, &device};
  }
  return {kernel, nullptr};
}

INSTANTIATE_TEST_SUITE_P(
    EmulatedTiles, LinearRow,
    testing::Values(
        OnTheCpu(kEmulatedInt8),
        OnTheCpu(Emulated<cpu::kLinearBf16EmulatedAmx>("bf16_amx", "bf16_amx_emulated")),
        OnTheCpu(Emulated<cpu::kLinearA16W4Int4EmulatedAmx>("a16w4_int4_bf16_amx",
                                                            "a16w4_int4_bf16_amx_emulated"))),
    RowName);
#endif

// What lets a8w8_int8 be bit-identical end to end whatever the plan chooses.
TEST(LinearTable, Int8RowsGiveTheSameBits) {
  const Format& format = **FindFormat("a8w8_int8");
  std::vector<const LinearKernel*> rows;
  for (const LinearKernel& kernel : cpu::LinearKernels()) {
    if (kernel.accepts(format) && Runs(kernel)) rows.push_back(&kernel);
  }
#if defined(__x86_64__)
  if (Runs(kEmulatedInt8)) rows.push_back(&kEmulatedInt8);
#endif
  ASSERT_GE(rows.size(), 1u);
  for (size_t i = 0; i < std::size(kSizes); ++i) {
    const Size& size = kSizes[i];
    // The portable row is slow.
    if (size.k * size.n * size.m > std::min<int64_t>(kLargestProblem, 5'000'000)) continue;
    for (Values values : {Values::kSpread, Values::kExtreme}) {
      const LinearProblem problem(format, {.n = size.n, .k = size.k}, size.m, values, i);
      for (const EpilogueCase& epilogue : EpilogueCasesAt(i, OnCpu().backend.outputs)) {
        SCOPED_TRACE(problem.Describe() + " " + Describe(epilogue));
        const PackedWeight packed = Pack(*rows[0], problem);
        const LinearOutput first = problem.Run(epilogue, &packed, rows[0]->run, OnCpu());
        for (const LinearKernel* row : rows) {
          ASSERT_EQ(row->packing, rows[0]->packing);
          EXPECT_TRUE(SameRows(first, 0, problem.Run(epilogue, &packed, row->run, OnCpu())))
              << std::string(row->name) << " differs from " << std::string(rows[0]->name);
        }
      }
    }
  }
}

TEST(LinearTable, RunsEverySize) {
  std::string left_out;
  for (const Size& size : kSizes) {
    if (size.k * size.n * size.m <= kLargestProblem) continue;
    left_out += " M " + std::to_string(size.m) + " N " + std::to_string(size.n) + " K " +
                std::to_string(size.k);
  }
  if (!left_out.empty()) GTEST_SKIP() << "for builds without sanitizers:" << left_out;
}

TEST(LinearTable, NamesAreUniqueAndEveryCpuFormatHasAPortableRow) {
  for (const Backend& backend : Backends()) {
    std::vector<std::string_view> names;
    for (const LinearKernel& kernel : backend.linear_kernels()) names.push_back(kernel.name);
    std::sort(names.begin(), names.end());
    EXPECT_EQ(std::unique(names.begin(), names.end()), names.end()) << backend.name;
  }
  for (const Format& format : Formats()) {
    bool any = false, portable = false;
    for (const LinearKernel& kernel : cpu::LinearKernels()) {
      any |= kernel.accepts(format);
      portable |= kernel.accepts(format) && kernel.instruction_sets == cpu::kPortable;
    }
    EXPECT_EQ(any, portable) << std::string(format.name);
  }
}

TEST(LinearTable, PackingRefusesWhatDoesNotFit) {
  const Format& format = **FindFormat("a8w8_int8");
  const Format& f32 = **FindFormat("f32");
  for (const LinearKernel& kernel : cpu::LinearKernels()) {
    if (!kernel.accepts(format)) continue;
    EncodedMatrix weight = LinearProblem(format, {.n = 8, .k = 8}, 1, Values::kPlain, 1).weight();
    PackedWeight packed;
    EXPECT_FALSE(kernel.pack(f32, weight, &packed).ok());
    weight.values.pop_back();
    EXPECT_FALSE(kernel.pack(format, weight, &packed).ok());
    EXPECT_FALSE(kernel.fits({.n = 8, .k = 1 << 20}));
  }
}

}  // namespace
}  // namespace octavo
