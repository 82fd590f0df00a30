// The whole-model benches: what they count, and that they run and say what they promise.
#include "tests/bench/model_bench.h"

#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/models/models.h"
#include "tests/bench/crossover_bench.h"
#include "tests/bench/forward_bench.h"
#include "tests/bench/lengths_bench.h"
#include "tests/bench/profile_bench.h"
#include "tests/bench/workload.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::json;

std::vector<Json> Lines(const std::string& text) {
  std::vector<Json> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  return lines;
}

TEST(WorkloadTest, CountsStoredBytesOfLinearLayers) {
  const ModelSpec spec = *NamedShape("minilm");
  const double weights = 6 * (3.0 * 384 * 384 + 384 * 384 + 2 * 384 * 1536);
  EXPECT_DOUBLE_EQ(LinearWeightBytes(spec, **FindFormat("f32")), 4 * weights);
  EXPECT_DOUBLE_EQ(LinearWeightBytes(spec, **FindFormat("bf16")), 2 * weights);
  // 4 bits, and a half-precision scale and zero point for every 32.
  EXPECT_DOUBLE_EQ(LinearWeightBytes(spec, **FindFormat("a16w4_int4_g32z")), 5.0 / 8 * weights);
}

TEST(WorkloadTest, CountsFlopsOfLinearLayersAndAttention) {
  const ModelSpec spec = *NamedShape("minilm");
  const double linear = 2 * 6 * (3.0 * 384 * 384 + 384 * 384 + 2 * 384 * 1536);
  const double attention = 4 * 6 * 384.0;  // a query and a key
  EXPECT_DOUBLE_EQ(Flops(spec, RandomIds({5, 3}, 100, 1)), 8 * linear + (25 + 9) * attention);
}

TEST(WorkloadTest, RandomIdsAreTheSameForTheSameSeed) {
  const TokenIds ids = RandomIds({2, 7}, 50, 3);
  ASSERT_EQ(ids.size(), 2u);
  EXPECT_EQ(ids[0].size(), 2u);
  EXPECT_EQ(ids[1].size(), 7u);
  EXPECT_EQ(ids, RandomIds({2, 7}, 50, 3));
  EXPECT_NE(ids, RandomIds({2, 7}, 50, 4));
}

TEST(LengthsBenchTest, EqualLengthHasTheSameAttentionWorkAToken) {
  EXPECT_EQ(EqualWorkLength({7, 7, 7}), 7);
  EXPECT_EQ(EqualWorkLength({1, 3}), 3);  // 10 / 4, rounded
  EXPECT_EQ(EqualWorkLength({10, 20, 30}), 23);
}

TEST(LengthsBenchTest, ReportsCost) {
  std::ostringstream output;
  LengthsBenchOptions options;
  options.source = {.shape = "minilm", .threads = 1};
  options.shortest = 2;
  options.longest = 9;
  options.tokens = 60;
  options.rounds = 1;
  options.output = &output;
  ASSERT_TRUE(RunLengthsBench(options).ok());
  const std::vector<Json> lines = Lines(output.str());
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_GT(lines[0]["mixed_tokens_per_second"], 0);
  EXPECT_EQ(lines[0]["equal_length"], 6);
  options.longest = 100'000;
  EXPECT_EQ(RunLengthsBench(options).code(), absl::StatusCode::kInvalidArgument);
}

TEST(ModelBenchTest, ComparesEveryFormatToF32) {
  std::ostringstream output;
  ModelBenchOptions options;
  options.source = {.shape = "minilm", .threads = 1};
  options.load = {.max_documents = 2, .max_queries = 10, .tokens = 8};
  options.formats = {{"a8w8_int8", "a8w8_int8"}};
  options.rounds = 2;
  options.output = &output;
  ASSERT_TRUE(RunModelBench(options).ok());
  const std::vector<Json> lines = Lines(output.str());
  ASSERT_EQ(lines.size(), 2u);  // f32 was not asked for
  for (const Json& line : lines) {
    EXPECT_EQ(line["format"], "a8w8_int8");
    EXPECT_GT(line["ratio_to_f32"], 0);
    EXPECT_GT(line["cosine_min"], 0.9);
  }
  EXPECT_EQ(lines[0]["tokens"], 16);
  EXPECT_GT(lines[0]["gops"], 0);
  EXPECT_GT(lines[1]["weight_gbytes_per_second"], 0);
}

TEST(ForwardBenchTest, TimesDocumentsAndQueries) {
  std::ostringstream output, log;
  ForwardBenchOptions options;
  options.source = {.shape = "minilm", .threads = 1};
  options.formats = {"a8w8_int8", "f16"};
  options.batch = 5;
  options.tokens = {3, 8};
  options.rounds = 1;
  options.seconds = 0;
  options.output = &output;
  options.log = &log;
  ASSERT_TRUE(RunForwardBench(options).ok());
  const std::vector<Json> lines = Lines(output.str());
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["format"], "f16");  // which the CPU has no kernels for
  EXPECT_TRUE(lines[0].contains("skipped"));
  EXPECT_EQ(lines[2]["tokens"], 8);
  EXPECT_GT(lines[2]["tokens_per_second"], 0);
  EXPECT_GT(lines[2]["centred_cosine_mean"], 0.9);
  EXPECT_EQ(lines[3]["cache"], "warm");
  EXPECT_EQ(lines[4]["cache"], "cold");
  EXPECT_GT(lines[4]["p50_us"], 0);
}

TEST(ForwardBenchTest, WorkerAnswersEveryCommand) {
  std::ostringstream output, log;
  ForwardBenchOptions options;
  options.source = {.shape = "minilm", .threads = 1};
  options.formats = {"a8w8_int8"};
  options.batch = 2;
  options.tokens = {4};
  options.seconds = 0;
  options.output = &output;
  options.log = &log;
  const std::string file = testing::TempDir() + "/forward_bench_test";
  std::istringstream commands("documents a8w8_int8 4\ndocuments a8w8_int8 5\nvectors a8w8_int8 4 " +
                              file + "\nids 4 " + file + "\nquit\nids 4 " + file + "\n");
  ASSERT_TRUE(RunForwardWorker(options, commands).ok());
  const std::vector<Json> lines = Lines(output.str());
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["formats"], Json::array({"a8w8_int8"}));
  EXPECT_GT(lines[1]["us"], 0);
  EXPECT_TRUE(lines[2].contains("error"));
  EXPECT_EQ(lines[3]["columns"], 384);
  EXPECT_EQ(lines[4], (Json{{"rows", 2}, {"columns", 4}}));
}

class CrossoverBenchTest : public ::testing::Test {
 protected:
  CrossoverBenchTest() {
    options_.source = {.shape = "minilm", .threads = 1};
    options_.rounds = 1;
    options_.seconds = 0;
    options_.output = &output_;
  }

  CrossoverBenchOptions options_;
  std::ostringstream output_;
};

TEST_F(CrossoverBenchTest, TimesEveryFormatAtEveryNumberOfTokens) {
  options_.formats = {"f32", "a8w8_int8"};
  options_.tokens = {1, 40};
  options_.longest_sequence = 16;
  options_.command = "octavo-bench crossover";
  ASSERT_TRUE(RunCrossoverBench(options_).ok());
  const std::vector<Json> lines = Lines(output_.str());
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(lines[0]["command"], "octavo-bench crossover");
  EXPECT_EQ(lines[0]["shape"], "minilm");
  EXPECT_EQ(lines[1]["ratio_to_f32"], 1.0);
  EXPECT_EQ(lines[4]["format"], "a8w8_int8");
  EXPECT_EQ(lines[4]["tokens"], 40);
  EXPECT_FALSE(lines[4].contains("ratio_to_bf16"));
  options_.tokens = {0};
  EXPECT_EQ(RunCrossoverBench(options_).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CrossoverBenchTest, SaysTheWorstRatioOfFourBitsToSixteen) {
  EXPECT_EQ(CrossoverDefaultsOf(/*on_cpu=*/true).tokens.back(), 1024);
  EXPECT_EQ(CrossoverDefaultsOf(/*on_cpu=*/false).tokens.back(), 32768);
  options_.formats = {"bf16", "a16w4_int4"};
  options_.tokens = {1, 8};
  ASSERT_TRUE(RunCrossoverBench(options_).ok());
  const std::vector<Json> lines = Lines(output_.str());
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[5]["format"], "a16w4_int4");
  const double ratios[] = {lines[2]["ratio_to_bf16"], lines[4]["ratio_to_bf16"]};
  EXPECT_EQ(lines[5]["worst_ratio_to_bf16"], std::min(ratios[0], ratios[1]));
  EXPECT_FALSE(lines[5].contains("worst_ratio_from_4096_tokens"));
}

class ProfileBenchTest : public ::testing::Test {
 protected:
  ProfileBenchTest() {
    options_.source = {.shape = "minilm", .threads = 1};
    options_.load = {.max_documents = 2, .max_queries = 20, .tokens = 64};
    // One format, which is planned and quantized fastest: a sanitizer sees every load of a kernel.
    options_.formats = {"a8w8_int8", "a8w8_int8"};
    options_.rounds = 1;
    options_.peak_flops = [](Element, int) { return kPeak; };
    options_.read_rate = [](int64_t, int) { return 1e18; };  // so that arithmetic bounds products
    options_.output = &output_;
  }

  // Lines of "documents" or "queries" by their part.
  std::map<std::string, Json> Parts(const std::string& what) {
    std::map<std::string, Json> parts;
    for (const Json& line : Lines(output_.str())) {
      if (line["what"] == what) parts[line["part"]] = line;
    }
    return parts;
  }

  static constexpr double kPeak = 1e12;
  ProfileBenchOptions options_;
  std::ostringstream output_;
};

TEST_F(ProfileBenchTest, PartsAreAllOfTheWholeAndProductsBoundByTheirArithmetic) {
  ASSERT_TRUE(RunProfileBench(options_).ok());
  for (const auto& [what, tokens] : {std::pair("documents", 64), std::pair("queries", 16)}) {
    std::map<std::string, Json> parts = Parts(what);
    double sum = 0;
    for (const auto& [part, line] : parts) {
      if (part != "whole") sum += line["us"].get<double>();
    }
    const double whole = parts["whole"]["us"];
    EXPECT_NEAR(sum, whole, 1e-6 * whole) << what;
    EXPECT_EQ(parts["whole"]["mean_tokens"], tokens);
    const double layer = 2.0 * 6 * tokens * 384 / kPeak * 1e6;  // of one column of a weight
    EXPECT_NEAR(parts["query_key_value"]["bound_us"], layer * 3 * 384, 1e-6) << what;
    EXPECT_NEAR(parts["attention_output"]["bound_us"], layer * 384, 1e-6) << what;
    EXPECT_NEAR(parts["up"]["bound_us"], layer * 1536, 1e-6) << what;
    EXPECT_NEAR(parts["down"]["bound_us"], layer * 1536, 1e-6) << what;
    for (const char* part : {"embed", "query_key_value", "attention", "up", "down", "norm"}) {
      EXPECT_GT(parts[part]["us"], 0) << what << " " << part;
    }
  }
}

TEST_F(ProfileBenchTest, WhatTheServerTakesBeyondThePassIsTheRpc) {
  options_.served = [](const Workload&) {
    return ProfileBenchOptions::Served{.query_seconds = 10, .document_seconds = 0};
  };
  ASSERT_TRUE(RunProfileBench(options_).ok());
  std::map<std::string, Json> queries = Parts("queries");
  EXPECT_GT(queries["rpc"]["us"], 9e6);
  EXPECT_LT(queries["rpc"]["us"], 1e7);
  EXPECT_GT(queries["whole"]["us"], queries["rpc"]["us"]);
  EXPECT_EQ(Parts("documents")["rpc"]["us"], 0);  // a server cannot be faster
}

TEST_F(ProfileBenchTest, NothingIsReportedWhereTheServerFailed) {
  options_.served = [](const Workload&) { return absl::UnavailableError("gone"); };
  EXPECT_EQ(RunProfileBench(options_).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(output_.str(), "");
}

}  // namespace
}  // namespace octavo::bench
