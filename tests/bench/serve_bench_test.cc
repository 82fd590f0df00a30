// The load generator itself, against a service whose speed is known.
#include "tests/bench/serve_bench.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/bench/serve_load.h"
#include "tests/bench/served_pass.h"
#include "tests/service/fake_embedding_service.h"

namespace octavo::bench {
namespace {

using ::octavo::testing::FakeServer;
using ::octavo::testing::kFakeDimensions;
constexpr std::chrono::milliseconds kLimit(5000);

const std::vector<std::string>& Texts() {
  static const std::vector<std::string> texts = {"one", "two", "three", "four", "five"};
  return texts;
}

TEST(QueryLoadTest, SendsAtThePoissonRate) {
  FakeServer server;
  QueryLoad load(server.address(), Texts(), kFakeDimensions, 1);
  const QueryRun run = load.RunOpenLoop(400, 1, 0, kLimit);
  // 400 expected with a deviation of 20.
  EXPECT_NEAR(static_cast<double>(run.scheduled), 400, 100);
  EXPECT_EQ(run.milliseconds.size(), static_cast<size_t>(run.scheduled));
  EXPECT_EQ(server.service.calls, run.scheduled);
  EXPECT_TRUE(run.failures.empty());
  EXPECT_EQ(run.wrong, 0);
  EXPECT_GT(run.tokens, run.scheduled * 3);
  EXPECT_LE(run.seconds, 1);
}

TEST(QueryLoadTest, SendsAtLeastSoMany) {
  FakeServer server;
  QueryLoad load(server.address(), Texts(), kFakeDimensions, 1);
  EXPECT_EQ(load.RunOpenLoop(1000, 0.01, 100, kLimit).scheduled, 100);
}

// While the server stalls, queries keep falling due, and each counts from when it was due: a load
// generator that waited for answers would show one slow query.
TEST(QueryLoadTest, CountsTheTimeQueriesWaitedForAStalledServer) {
  FakeServer server;
  server.service.behaviour.stall_call = 20;
  server.service.behaviour.stall_milliseconds = 400;
  QueryLoad load(server.address(), Texts(), kFakeDimensions, 1);
  const QueryRun run = load.RunOpenLoop(200, 1, 0, kLimit);
  const auto slow = std::count_if(run.milliseconds.begin(), run.milliseconds.end(),
                                  [](double ms) { return ms > 100; });
  EXPECT_GE(slow, 30);  // 60 expected: 200 a second for the 300 ms left at 100 ms
  EXPECT_GE(*std::max_element(run.milliseconds.begin(), run.milliseconds.end()), 390);
}

TEST(QueryLoadTest, CountsRefusals) {
  FakeServer server;
  server.service.behaviour.refuse_calls = 7;
  QueryLoad load(server.address(), Texts(), kFakeDimensions, 1);
  const QueryRun run = load.RunOpenLoop(500, 0.2, 50, kLimit);
  EXPECT_EQ(run.failures.at("RESOURCE_EXHAUSTED"), 7);
  EXPECT_EQ(static_cast<int64_t>(run.milliseconds.size()), run.scheduled - 7);
}

TEST(QueryLoadTest, NoticesAnswersThatChange) {
  FakeServer server;
  server.service.behaviour.drift = true;
  QueryLoad load(server.address(), Texts(), kFakeDimensions, 1);
  EXPECT_GT(load.RunOpenLoop(500, 0.1, 50, kLimit).wrong, 20);
}

TEST(DocumentLoadTest, StreamsUntilItIsDestroyed) {
  FakeServer server;
  {
    DocumentLoad load(server.address(), Texts(), kFakeDimensions,
                      {.inputs_per_message = 4, .messages_in_flight = 3});
    while (load.count().documents < 100) std::this_thread::yield();
    EXPECT_EQ(load.count().wrong, 0);
    EXPECT_GT(load.count().tokens, 300);
    EXPECT_TRUE(load.status().ok());
  }
  EXPECT_LE(server.service.most_unanswered, 3);
}

TEST(DocumentLoadTest, ReportsTheEndOfTheStream) {
  FakeServer server;
  server.service.behaviour.unavailable_after = 10;
  DocumentLoad load(server.address(), Texts(), kFakeDimensions, {});
  while (load.status().ok()) std::this_thread::yield();
  EXPECT_EQ(load.status().code(), absl::StatusCode::kUnavailable);
}

class ServedTextsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<ServedTexts>> Connect(const std::string& document_format) {
    return ServedTexts::Connect(server_.address(), document_format, "a8w8_int8", Texts(), Texts());
  }

  FakeServer server_;
};

TEST_F(ServedTextsTest, MeasuresTheTimeThatTheServerTakes) {
  constexpr double kServerSeconds = 0.02;
  server_.service.behaviour.call_microseconds = static_cast<int>(kServerSeconds * 1e6);
  auto served = Connect("a8w8_int8");
  ASSERT_TRUE(served.ok()) << served.status();
  const auto query = (*served)->QuerySeconds();
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_GE(*query, kServerSeconds);
  EXPECT_LT(*query, 10 * kServerSeconds);
  EXPECT_EQ(server_.service.calls, static_cast<int>(Texts().size()));
  // Documents come in streams, which the fake answers at once.
  const auto document = (*served)->DocumentSeconds();
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_GT(*document, 0);
  EXPECT_LT(*document, kServerSeconds);
}

TEST_F(ServedTextsTest, RefusesAServerOfOtherFormats) {
  EXPECT_EQ(Connect("f32").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ServedTextsTest, NothingIsReportedOfFailedOrWrongAnswers) {
  auto served = Connect("a8w8_int8");
  ASSERT_TRUE(served.ok()) << served.status();
  server_.service.behaviour.refuse_calls = 2;
  EXPECT_EQ((*served)->QuerySeconds().status().code(), absl::StatusCode::kInternal);
  server_.service.behaviour.unavailable_after = server_.service.messages + 3;
  EXPECT_FALSE((*served)->DocumentSeconds().ok());
}

class ServeBenchTest : public ::testing::Test {
 protected:
  ServeBenchTest() {
    std::string name = ::testing::TempDir() + "/octavo-serve-XXXXXX";
    directory_ = mkdtemp(name.data());
    std::ofstream(directory_ + "/queries.jsonl")
        << "{\"question\": \"a\"}\n{\"question\": \"b\"}\n";
    std::ofstream(directory_ + "/documents.jsonl")
        << "{\"title\": \"t\", \"text\": \"one\"}\n{\"title\": \"\", \"text\": \"two\"}\n";
    options_.server = server_.address();
    options_.rate = "200";
    options_.seconds = 0.3;
    options_.least_queries = 10;
    options_.warm_up_seconds = 0.1;
    options_.query_texts = directory_ + "/queries.jsonl";
    options_.document_texts = directory_ + "/documents.jsonl";
    options_.output = &output_;
    options_.log = &log_;
  }
  ~ServeBenchTest() override { std::filesystem::remove_all(directory_); }

  std::vector<nlohmann::json> Lines() {
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(output_, line);) {
      lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  FakeServer server_;
  std::string directory_;
  ServeBenchOptions options_;
  std::stringstream output_, log_;
};

TEST_F(ServeBenchTest, ComparesQueriesAloneAndBesideDocuments) {
  const absl::Status status = RunServeBench(options_);
  ASSERT_TRUE(status.ok()) << status;
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0]["run"], "queries");
  EXPECT_FALSE(lines[0].contains("documents_per_second"));
  EXPECT_EQ(lines[0]["answered"], lines[0]["queries"]);
  EXPECT_LE(lines[0]["p50_ms"], lines[0]["p99_ms"]);
  EXPECT_LE(lines[0]["p99_ms"], lines[0]["max_ms"]);
  EXPECT_EQ(lines[0]["document_format"], "a8w8_int8");
  EXPECT_EQ(lines[1]["run"], "queries beside documents");
  EXPECT_GT(lines[1]["documents_per_second"], 0);
  EXPECT_EQ(lines[2]["run"], "documents");
  EXPECT_FALSE(lines[2].contains("p99_ms"));
  EXPECT_NEAR(lines[3]["p99_ms_added"].get<double>(),
              lines[1]["p99_ms"].get<double>() - lines[0]["p99_ms"].get<double>(), 1e-9);
}

TEST_F(ServeBenchTest, RunsAtAShareOfTheCapacity) {
  server_.service.behaviour.call_microseconds = 5000;  // at most 200 a second
  options_.rate = "20%";
  options_.documents = "off";
  options_.warm_up_seconds = 0.5;
  options_.probe_seconds = 0.5;
  options_.probe_queries = 50;
  options_.seconds = 0.5;
  const absl::Status status = RunServeBench(options_);
  ASSERT_TRUE(status.ok()) << status << log_.str();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 2u);
  const double capacity = lines[0]["queries_per_second"];
  EXPECT_GT(capacity, 60) << log_.str();
  // A short trial can hold a rate a little above what would last.
  EXPECT_LT(capacity, 250) << log_.str();
  EXPECT_LT(lines[0]["p99_ms"], 50);
  EXPECT_NEAR(lines[1]["rate"].get<double>(), capacity * 0.2, 1e-6);
}

TEST_F(ServeBenchTest, FailsWhenAnswersAreWrong) {
  server_.service.behaviour.not_finite = true;
  options_.documents = "off";
  EXPECT_EQ(RunServeBench(options_).code(), absl::StatusCode::kInternal);
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0]["wrong"], lines[0]["queries"]);
}

TEST_F(ServeBenchTest, WorksOnCommand) {
  options_.documents = "off";
  std::istringstream commands("queries\nsing\nquit\nqueries\n");
  const absl::Status status = RunServeWorker(options_, commands);
  ASSERT_TRUE(status.ok()) << status;
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0]["model"], "fake-model");
  EXPECT_EQ(lines[1]["ms"].size(), 180u);
  EXPECT_EQ(lines[1]["wrong"], 0);
  EXPECT_TRUE(lines[2].contains("error"));
  EXPECT_EQ(server_.service.calls, 200);
}

TEST_F(ServeBenchTest, RefusesBadOptions) {
  for (const char* rate : {"", "fast", "-1", "0%"}) {
    options_.rate = rate;
    EXPECT_EQ(RunServeBench(options_).code(), absl::StatusCode::kInvalidArgument) << rate;
  }
  options_.rate = "10";
  options_.documents = "maybe";
  EXPECT_EQ(RunServeBench(options_).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace octavo::bench
