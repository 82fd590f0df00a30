#include "kernels/plan.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A backend of made-up rows, whose run times by a made-up clock are what a test needs.

int runs = 0;  // of any row
double seconds = 0;

double Now() { return seconds; }

template <int kFixed, int kPerToken>
void RunFor(const LinearArgs& args, Stream&) {
  ++runs;
  seconds += 1e-6 * (1 + kFixed + static_cast<double>(kPerToken) * static_cast<double>(args.rows));
}

bool AcceptsF32(const Format& format) { return format.name == "f32"; }
bool AcceptsInt8(const Format& format) { return format.name == "a8w8_int8"; }
bool FitsAll(const LinearShape&) { return true; }
bool FitsMultiplesOf64(const LinearShape& shape) { return shape.k % 64 == 0; }

absl::Status PackNothing(const Format& format, const EncodedMatrix& weight, PackedWeight* packed) {
  *packed = {.format = &format,
             .shape = {weight.rows, weight.columns},
             .bytes = 1000,
             .data = std::make_shared<int>(0)};
  return absl::OkStatus();
}

LinearKernel Row(std::string_view name, bool (*accepts)(const Format&), uint32_t sets, int packing,
                 void (*run)(const LinearArgs&, Stream&),
                 bool (*fits)(const LinearShape&) = FitsAll) {
  return {name, accepts, sets, packing, Element::kF32, fits, PackNothing, run, 1.0, Element::kF32};
}

std::vector<LinearKernel>& Table() {
  static std::vector<LinearKernel> table;
  return table;
}
std::span<const LinearKernel> TableRows() { return Table(); }
uint32_t Sets() { return cpu::kAvx2 | cpu::kAvx512; }

const Backend& Fake() {
  static const Backend fake = {.name = "fake",
                               .numbers_devices = false,
                               .linear_kernels = TableRows,
                               .attention_kernels = nullptr,
                               .instruction_sets = Sets,
                               .instruction_set_names = cpu::InstructionSetNames,
                               .rows = (*FindBackend("cpu"))->rows,
                               .hidden = [](const Format&) { return Element::kF32; },
                               .product_adds_residual = true,
                               .outputs = {},
                               .allocate = (*FindBackend("cpu"))->allocate,
                               .allocate_host = nullptr,
                               .check_device = nullptr,
                               .read_counters = nullptr,
                               .peak_flops = nullptr,
                               .open_stream = nullptr,
                               .default_document_step_us = 0,
                               .document_unit = {},
                               .document_batch_tokens = 0,
                               .timing = (*FindBackend("cpu"))->timing};
  return fake;
}

const Format& F32() { return **FindFormat("f32"); }
constexpr LinearShape kShape = {.n = 64, .k = 64};

std::vector<std::string> Names(const LinearChoice& choice) {
  std::vector<std::string> names;
  for (const LinearChoice::Step& step : choice.steps()) names.emplace_back(step.kernel->name);
  return names;
}

class PlanTest : public testing::Test {
 protected:
  void SetUp() override {
    runs = 0;
    Table() = {
        Row("few", AcceptsF32, cpu::kAvx512, 1, RunFor<0, 15>),
        Row("many", AcceptsF32, cpu::kAvx512, 2, RunFor<700, 0>),
        Row("many_avx2", AcceptsF32, cpu::kAvx2, 2, RunFor<700, 0>),
        Row("any", AcceptsF32, cpu::kPortable, 3, RunFor<0, 0>),
        Row("bf16", AcceptsF32, cpu::kAvx512Bf16, 4, RunFor<0, 0>),
        Row("odd", AcceptsF32, cpu::kAvx2, 5, RunFor<3000, 0>, FitsMultiplesOf64),
        Row("int8", AcceptsInt8, cpu::kAvx512, 6, RunFor<0, 0>),
    };
  }
  LinearPlanner Planner(const std::string& forced = "") {
    return LinearPlanner(Fake(), cpu::Inline(), {.forced_kernels = forced, .now = Now});
  }
};

TEST_F(PlanTest, TimesRowsAndSplitsAtTheCrossover) {
  LinearPlanner planner = Planner();
  const absl::StatusOr<LinearChoice> choice = planner.Plan(F32(), kShape);
  ASSERT_TRUE(choice.ok()) << choice.status().ToString();
  EXPECT_THAT(Names(*choice), ElementsAre("few", "many"));
  EXPECT_GE(choice->steps()[0].up_to, 16);
  EXPECT_LE(choice->steps()[0].up_to, 64);
  EXPECT_THAT(choice->Describe(), HasSubstr("few to "));
}

TEST_F(PlanTest, PacksOnlyTheLayoutsInUse) {
  LinearPlanner planner = Planner();
  const LinearChoice choice = *planner.Plan(F32(), kShape);
  EncodedMatrix weight;
  weight.rows = kShape.n;
  weight.columns = kShape.k;
  const absl::StatusOr<PackedLinear> packed = choice.Pack(F32(), weight);
  ASSERT_TRUE(packed.ok());
  EXPECT_EQ(packed->bytes(), 2000);
  EXPECT_THAT(packed->kernel_names(), ElementsAre("few", "many"));
  EXPECT_EQ(packed->kernel(1).name, "few");
  EXPECT_EQ(packed->kernel(10000).name, "many");
}

TEST_F(PlanTest, ASecondLayoutMustPay) {
  Table() = {Row("first", AcceptsF32, cpu::kAvx512, 1, RunFor<400, 10>),
             Row("second", AcceptsF32, cpu::kAvx512, 2, RunFor<410, 10>)};
  LinearPlanner planner = Planner();
  EXPECT_EQ(Names(*planner.Plan(F32(), kShape)).size(), 1u);
}

TEST_F(PlanTest, RowsOfOneLayoutAndArithmeticAreTakenInOrderUntimed) {
  Table() = {Row("avx512", AcceptsF32, cpu::kAvx512, 1, RunFor<100, 0>),
             Row("avx2", AcceptsF32, cpu::kAvx2, 1, RunFor<0, 0>),
             Row("portable", AcceptsF32, cpu::kPortable, 1, RunFor<0, 0>)};
  LinearPlanner planner = Planner();
  EXPECT_THAT(Names(*planner.Plan(F32(), kShape)), ElementsAre("avx512"));
  EXPECT_EQ(runs, 0);
}

LinearKernel WithArithmetic(LinearKernel row, Element arithmetic) {
  row.arithmetic = arithmetic;
  return row;
}

TEST_F(PlanTest, AFormatKeepsItsFirstArithmeticUnlessAnotherIsClearlyFaster) {
  Table() = {Row("first", AcceptsF32, cpu::kAvx512, 1, RunFor<300, 0>),
             WithArithmetic(Row("little_faster", AcceptsF32, cpu::kAvx512, 1, RunFor<270, 0>),
                            Element::kBf16)};
  LinearPlanner planner = Planner();
  EXPECT_THAT(Names(*planner.Plan(F32(), kShape)), ElementsAre("first"));
  Table().push_back(
      WithArithmetic(Row("twice", AcceptsF32, cpu::kAvx2, 1, RunFor<150, 0>), Element::kInt16));
  LinearPlanner other = Planner();
  EXPECT_THAT(Names(*other.Plan(F32(), kShape)), ElementsAre("twice"));
}

TEST_F(PlanTest, AnArithmeticIsChosenOnceAndKeptInTheSavedPlan) {
  Table() = {
      Row("first", AcceptsF32, cpu::kAvx512, 1, RunFor<300, 0>),
      WithArithmetic(Row("second", AcceptsF32, cpu::kAvx512, 1, RunFor<100, 0>), Element::kBf16)};
  LinearPlanner planner = Planner();
  EXPECT_THAT(Names(*planner.Plan(F32(), kShape)), ElementsAre("second"));
  const std::string json = planner.ToJson();
  // Now the first would be faster.
  Table()[0].run = RunFor<0, 0>;
  const int chosen = runs;
  EXPECT_THAT(Names(*planner.Plan(F32(), {.n = 32, .k = 64})), ElementsAre("second"));
  EXPECT_EQ(runs, chosen);
  LinearPlanner later = Planner();
  ASSERT_TRUE(later.LoadJson(json).ok());
  EXPECT_THAT(Names(*later.Plan(F32(), {.n = 32, .k = 64})), ElementsAre("second"));
  EXPECT_EQ(runs, chosen);
  LinearPlanner fresh = Planner();
  EXPECT_THAT(Names(*fresh.Plan(F32(), {.n = 32, .k = 64})), ElementsAre("first"));
}

TEST_F(PlanTest, FindsTheCrossoverOfTwoFormats) {
  Table() = {Row("f32", AcceptsF32, cpu::kAvx512, 1, RunFor<0, 15>),
             Row("int8", AcceptsInt8, cpu::kAvx512, 2, RunFor<300, 0>)};
  const Format& int8 = **FindFormat("a8w8_int8");
  LinearPlanner planner = Planner();
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  const auto crossovers = planner.Crossovers(F32(), int8);
  ASSERT_TRUE(crossovers.ok()) << crossovers.status().ToString();
  ASSERT_EQ(crossovers->size(), 1u);
  EXPECT_EQ((*crossovers)[0].shape.n, kShape.n);
  EXPECT_GE((*crossovers)[0].up_to, 8);
  EXPECT_LE((*crossovers)[0].up_to, 32);
  EXPECT_EQ((*planner.Crossovers(int8, F32()))[0].up_to, 0);
  Table()[0].run = RunFor<0, 1>;
  LinearPlanner other = Planner();
  ASSERT_TRUE(other.Plan(F32(), kShape).ok());
  EXPECT_EQ((*other.Crossovers(F32(), int8))[0].up_to, std::numeric_limits<int64_t>::max());
}

TEST_F(PlanTest, CrossoversAreOfTheTimingsThatPlansWereMadeFrom) {
  Table() = {Row("few", AcceptsF32, cpu::kAvx512, 1, RunFor<0, 15>),
             Row("many", AcceptsF32, cpu::kAvx512, 2, RunFor<300, 1>),
             Row("int8_few", AcceptsInt8, cpu::kAvx512, 3, RunFor<0, 20>),
             Row("int8_many", AcceptsInt8, cpu::kAvx512, 4, RunFor<300, 2>)};
  const Format& int8 = **FindFormat("a8w8_int8");
  LinearPlanner planner = Planner();
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  ASSERT_TRUE(planner.Plan(int8, kShape).ok());
  const int planned = runs;
  EXPECT_GT(planned, 0);
  EXPECT_EQ((*planner.Crossovers(F32(), int8))[0].up_to, std::numeric_limits<int64_t>::max());
  EXPECT_EQ(runs, planned);
}

TEST_F(PlanTest, ARowForManyRowsIsTimedBesideTheNextOfItsLayout) {
  Table() = {Row("tiles", AcceptsF32, cpu::kAvx512, 1, RunFor<300, 0>),
             Row("vectors", AcceptsF32, cpu::kAvx512, 1, RunFor<0, 15>),
             Row("slow_vectors", AcceptsF32, cpu::kAvx2, 1, RunFor<0, 1>)};
  Table()[0].for_many_rows = true;
  LinearPlanner planner = Planner();
  const LinearChoice choice = *planner.Plan(F32(), kShape);
  EXPECT_THAT(Names(choice), ElementsAre("vectors", "tiles"));
  EXPECT_GE(choice.steps()[0].up_to, 8);
  EXPECT_LE(choice.steps()[0].up_to, 32);
  // They share the packed weight.
  EncodedMatrix weight;
  weight.rows = kShape.n;
  weight.columns = kShape.k;
  EXPECT_EQ(choice.Pack(F32(), weight)->bytes(), 1000);
}

TEST_F(PlanTest, PlansOnce) {
  LinearPlanner planner = Planner();
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  const int first = runs;
  EXPECT_GT(first, 0);
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  EXPECT_EQ(runs, first);
}

TEST_F(PlanTest, RefusalNamesEveryRowAndWhy) {
  Table() = {Row("bf16", AcceptsF32, cpu::kAvx512 | cpu::kAvx512Bf16, 1, RunFor<0, 0>),
             Row("aligned", AcceptsF32, cpu::kAvx2, 1, RunFor<0, 0>, FitsMultiplesOf64),
             Row("int8", AcceptsInt8, cpu::kAvx2, 1, RunFor<0, 0>)};
  LinearPlanner planner = Planner();
  const absl::Status status = planner.Plan(F32(), {.n = 8, .k = 63}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(status.message());
  EXPECT_THAT(message, HasSubstr("bf16: needs avx512_bf16\n"));
  EXPECT_THAT(message, HasSubstr("aligned: does not fit N 8, K 63"));
  EXPECT_THAT(message, HasSubstr("int8: computes another format"));
}

TEST_F(PlanTest, ForcedRowsAreTheOnlyOnesOfTheirFormat) {
  LinearPlanner planner = Planner("any,int8");
  EXPECT_THAT(Names(*planner.Plan(F32(), kShape)), ElementsAre("any"));
  EXPECT_THAT(Names(*planner.Plan(**FindFormat("a8w8_int8"), kShape)), ElementsAre("int8"));
  EXPECT_EQ(runs, 0);
  // A row of another format does not bind this one.
  LinearPlanner other = Planner("int8");
  EXPECT_THAT(Names(*other.Plan(F32(), kShape)), ElementsAre("few", "many"));
}

TEST_F(PlanTest, ForcingFailsClearly) {
  LinearPlanner unknown = Planner("fast");
  const absl::Status no_such_row = unknown.Plan(F32(), kShape).status();
  EXPECT_EQ(no_such_row.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(no_such_row.message()), HasSubstr("few, many, many_avx2"));
  LinearPlanner unusable = Planner("bf16");
  const absl::Status refused = unusable.Plan(F32(), kShape).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("bf16: needs avx512_bf16"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("few: not among the forced kernels"));
}

TEST_F(PlanTest, ASavedPlanIsUsedUntimed) {
  LinearPlanner planner = Planner();
  const LinearChoice made = *planner.Plan(F32(), kShape);
  const std::string json = planner.ToJson();
  runs = 0;
  LinearPlanner later = Planner();
  const absl::Status status = later.LoadJson(json);
  ASSERT_TRUE(status.ok()) << status.ToString();
  const LinearChoice loaded = *later.Plan(F32(), kShape);
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(loaded.Describe(), made.Describe());
  EXPECT_EQ(later.ToJson(), json);
  // What the plan does not name is timed.
  ASSERT_TRUE(later.Plan(F32(), {.n = 32, .k = 64}).ok());
  EXPECT_GT(runs, 0);
}

TEST_F(PlanTest, APlanOfAnotherMachineIsRefused) {
  LinearPlanner planner = Planner();
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  const nlohmann::json plan = nlohmann::json::parse(planner.ToJson());
  for (const char* name : {"version", "backend", "processor", "instruction_sets", "threads"}) {
    nlohmann::json other = plan;
    ASSERT_TRUE(other["origin"].contains(name)) << name;
    other["origin"][name] = "another";
    LinearPlanner later = Planner();
    const absl::Status status = later.LoadJson(other.dump());
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << name;
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    EXPECT_THAT(std::string(status.message()), HasSubstr("another"));
  }
  cpu::Team two(2);
  LinearPlanner wider(Fake(), two, {.now = Now});
  EXPECT_EQ(wider.LoadJson(plan.dump()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(PlanTest, WhatIsNotAPlanIsRefused) {
  LinearPlanner planner = Planner();
  ASSERT_TRUE(planner.Plan(F32(), kShape).ok());
  const nlohmann::json plan = nlohmann::json::parse(planner.ToJson());
  const auto refused = [&](const std::string& json) {
    LinearPlanner later = Planner();
    return later.LoadJson(json).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("{"));
  EXPECT_TRUE(refused("[]"));
  EXPECT_TRUE(refused("{\"origin\": 3, \"plans\": []}"));
  const auto with = [&](const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json changed = plan;
    change(changed["plans"][0]);
    return changed.dump();
  };
  EXPECT_TRUE(refused(with([](auto& p) { p = 1; })));
  EXPECT_TRUE(refused(with([](auto& p) { p.erase("n"); })));
  EXPECT_TRUE(refused(with([](auto& p) { p["k"] = "64"; })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"] = nlohmann::json::array(); })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"][0]["kernel"] = "bf16"; })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"][0].erase("up_to_tokens"); })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"].back()["up_to_tokens"] = 9; })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"][0]["up_to_tokens"] = -1; })));
  EXPECT_TRUE(refused(with([](auto& p) { p["steps"][0]["up_to_tokens"] = 1e9; })));
}

// On the real table: every format that has rows is planned, and what is packed runs.
TEST(PlanOnCpu, RunsWhatItPlans) {
  const Backend& backend = **FindBackend("cpu");
  LinearPlanner planner(backend, cpu::Inline(), {});
  const LinearShape shape = {.n = 48, .k = 96};
  int planned = 0;
  for (const Format& format : Formats()) {
    if (UsableKernels(backend, format, shape, nullptr).empty()) continue;
    ++planned;
    const absl::StatusOr<LinearChoice> choice = planner.Plan(format, shape);
    ASSERT_TRUE(choice.ok()) << choice.status().ToString();
    // A weight of ones, an input of ones.
    const std::vector<float> ones(shape.n * shape.k, 1.0f);
    const EncodedMatrix weight =
        *EncodeMatrix(format, Method::kRoundToNearest, ones, shape.n, shape.k);
    const float one_weight = DecodeMatrix(format, weight).front();
    const absl::StatusOr<PackedLinear> packed = choice->Pack(format, weight);
    ASSERT_TRUE(packed.ok()) << packed.status().ToString();
    EXPECT_GT(packed->bytes(), 0);
    for (int64_t rows : {1, 5, 130}) {
      std::vector<float> output(rows * shape.n), scales(rows, 1.0f / 127);
      std::vector<int32_t> sums(rows, 127 * static_cast<int32_t>(shape.k));
      std::vector<uint8_t> input(rows * shape.k * sizeof(float));
      LinearArgs args;
      args.rows = rows;
      args.input = {input.data(), shape.k, packed->input(rows), scales.data(), sums.data(), rows};
      for (int64_t i = 0; i < rows * shape.k; ++i) {
        const float one = 1.0f;
        if (args.input.element == Element::kF32) std::memcpy(&input[4 * i], &one, 4);
        if (args.input.element == Element::kBf16) {
          std::memcpy(&input[2 * i], reinterpret_cast<const char*>(&one) + 2, 2);
        }
        if (args.input.element == Element::kInt8) input[i] = 127;
        if (args.input.element == Element::kE4m3) input[i] = 0x38;  // 1
      }
      if (args.input.element == Element::kE4m3) std::fill(scales.begin(), scales.end(), 1.0f);
      args.output = {output.data(), shape.n, Element::kF32};
      packed->Run(args, cpu::Inline());
      // A row may round decoded weights to bf16.
      const float expected = 96.0f * one_weight;
      for (float y : output) ASSERT_NEAR(y, expected, expected / 256) << std::string(format.name);
    }
  }
  EXPECT_GE(planned, 4);
}

}  // namespace
}  // namespace octavo
