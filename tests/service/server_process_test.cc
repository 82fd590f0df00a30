// octavo-server itself: flags, ports, signals, memory, metrics, with the real model.
#include "tests/service/server_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/service/fake_calls.h"
#include "tests/service/http_client.h"
#include "tests/service/memory_tells.h"
#include "tests/service/metric_text.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ServerFlags, BadOnesExitTwoWithOneClearLine) {
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{}, "--model"},
      {{"--model=x", "--nope=1"}, "unknown flag --nope"},
      {{"--model=x", "stray"}, "stray"},
      {{"--model=x", "--max_inputs=abc"}, "--max_inputs=abc"},
      {{"--model=x", "--max_inputs=0"}, "--max_inputs: 0 is not between"},
      {{"--model=x", "--document_min_share=2"}, "--document_min_share"},
      {{"--model=x", "--listen=here"}, "--listen: 'here' is not HOST:PORT"},
      {{"--model=x", "--listen=0.0.0.0:1234"}, "--insecure_listen_anywhere"},
      {{"--model=x", "--listen"}, "--listen needs a value"},
  };
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = RunToEnd(OCTAVO_SERVER, arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.log;
    EXPECT_THAT(outcome.log, HasSubstr(message));
    EXPECT_EQ(std::count(outcome.log.begin(), outcome.log.end(), '\n'), 1) << outcome.log;
  }
  EXPECT_EQ(RunToEnd(OCTAVO_SERVER, {"--version"}).code, 0);
  const Outcome help = RunToEnd(OCTAVO_SERVER, {"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* flag : {"--model=", "--drain_grace_seconds=5", "--max_inputs=1024"}) {
    EXPECT_THAT(help.log, HasSubstr(flag));
  }
}

TEST(ServerStart, AModelThatIsNotThereIsAClearError) {
  const Outcome outcome = RunToEnd(
      OCTAVO_SERVER,
      {"--model=/nonexistent/model", "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.log, HasSubstr("error: "));
  EXPECT_THAT(outcome.log, HasSubstr("/nonexistent/model"));
}

class ServerProcessTest : public ServerProcessFixture {
 protected:
  void SetUp() override {
    const char* model = std::getenv("OCTAVO_MODEL");
    if (model == nullptr) GTEST_SKIP() << "OCTAVO_MODEL names no model directory";
    model_ = model;
  }
  void Start(std::vector<std::string> more = {}) {
    StartProcess(OCTAVO_SERVER, model_, std::move(more));
  }

  std::string model_;
};

TEST_F(ServerProcessTest, SaysWhichFormatItChoseForQueriesAndWhy) {
  Start();
  EXPECT_THAT(process_->Log(), HasSubstr("lane query: chose a8w8_int8 for cpu: from 8 tokens on"));
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"cat dog"}), &response).ok());
  EXPECT_EQ(response.execution().format(), "a8w8_int8");
}

TEST_F(ServerProcessTest, ServesBothLanesAndCountsThemExactly) {
  Start({"--query_format=a16w4_int4"});
  EXPECT_THAT(process_->Log(), Not(HasSubstr("lane query: chose")));
  EXPECT_THAT(process_->Log(), HasSubstr("SERVING after"));
  if (kMemoryTells) {
    EXPECT_LT(process_->StatusKib("VmRSS"), 150 << 10);
  }
  RecordProperty("resident_kib", static_cast<int>(process_->StatusKib("VmRSS")));

  v1::EmbedResponse query, document;
  const std::string text = "How long is a piece of string?";
  ASSERT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {text, "Another one."}), &query).ok());
  ASSERT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_DOCUMENT, {text}), &document).ok());
  EXPECT_EQ(query.execution().device(), "cpu");
  EXPECT_NE(query.execution().format(), document.execution().format());
  const std::vector<float> a = Float32Row(query.vectors(0), 0);
  const std::vector<float> b = Float32Row(document.vectors(0), 0);
  double dot = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    norm += static_cast<double>(a[i]) * a[i];
  }
  EXPECT_NEAR(norm, 1, 1e-5);
  EXPECT_GT(dot, 0.95) << "the same text in both formats";

  grpc::ClientContext context;
  auto stream = stub_->EmbedStream(&context);
  for (uint64_t id = 0; id < 30; ++id) {
    ASSERT_TRUE(stream->Write(StreamRequest(
        id, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"first text", "second text", ""}))));
  }
  stream->WritesDone();
  int64_t tokens = document.results(0).tokens();
  v1::EmbedStreamResponse response;
  while (stream->Read(&response)) {
    for (const v1::InputResult& result : response.response().results()) tokens += result.tokens();
  }
  ASSERT_TRUE(stream->Finish().ok());

  const std::string page = HttpGet(metrics_port_, "/metrics");
  const MetricText metrics(page);
  const auto lane = [&](const v1::EmbedResponse& of, const char* name) {
    return absl::StrCat(name, "{format=\"", of.execution().format(), "\",lane=\"",
                        of.execution().lane(), "\"}");
  };
  EXPECT_EQ(metrics.value(lane(query, "octavo_inputs_total")), 2);
  EXPECT_EQ(metrics.value(lane(query, "octavo_tokens_total")),
            query.results(0).tokens() + query.results(1).tokens());
  EXPECT_EQ(metrics.value(lane(document, "octavo_inputs_total")), 61);
  EXPECT_EQ(metrics.value(lane(document, "octavo_tokens_total")), static_cast<double>(tokens));
  EXPECT_EQ(metrics.value("octavo_requests_total{code=\"OK\",lane=\"document\","
                          "method=\"octavo.v1.EmbeddingService/EmbedStream\"}"),
            30);
  EXPECT_EQ(metrics.value("octavo_ready"), 1);
  EXPECT_GT(metrics.value("octavo_device_memory_bytes{device=\"cpu\"}"), 1 << 20);
  if (std::system("command -v promtool >/dev/null 2>&1") == 0) {
    const std::string path = absl::StrCat(::testing::TempDir(), "octavo_page_", getpid());
    std::ofstream(path) << page;
    EXPECT_EQ(std::system(("promtool check metrics < " + path).c_str()), 0);
    std::filesystem::remove(path);
  } else {
    std::printf("promtool is not installed: its check is skipped\n");
  }
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(std::chrono::seconds(20)), 0) << process_->Log();
}

TEST_F(ServerProcessTest, SigtermDrainsAndExitsZero) {
  Start({"--drain_grace_seconds=1.5"});
  grpc::ClientContext context;
  auto stream = stub_->EmbedStream(&context);
  v1::EmbedStreamResponse response;
  constexpr uint64_t kMessages = 50;
  for (uint64_t id = 0; id < kMessages; ++id) {
    ASSERT_TRUE(stream->Write(StreamRequest(
        id, TextRequest(v1::INPUT_TYPE_DOCUMENT, std::vector<std::string>(8, "some words")))));
  }
  ASSERT_TRUE(stream->Read(&response));
  process_->Signal(SIGTERM);
  const Time limit = Clock::now() + std::chrono::seconds(1);
  while (Health(probes_, "octavo.v1.EmbeddingService") == "SERVING" && Clock::now() < limit) {
  }
  EXPECT_EQ(Health(probes_, "octavo.v1.EmbeddingService"), "NOT_SERVING");
  EXPECT_EQ(Health(channel_, ""), "NOT_SERVING");
  EXPECT_EQ(Health(probes_, "liveness"), "SERVING");
  v1::EmbedResponse answer;
  EXPECT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"late"}), &answer).ok())
      << "calls are accepted during the grace";
  uint64_t answers = 1;
  while (stream->Read(&response)) ++answers;
  EXPECT_EQ(answers, kMessages);
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(status.error_details(), HasSubstr("DRAINING"));
  EXPECT_EQ(process_->Wait(std::chrono::seconds(20)), 0) << process_->Log();
}

TEST_F(ServerProcessTest, ASecondSigtermExitsAtOnce) {
  Start({"--drain_grace_seconds=60"});
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(std::chrono::milliseconds(300)), -1);
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(std::chrono::seconds(2)), 128 + SIGTERM);
}

TEST_F(ServerProcessTest, AGzipBombDoesNotMovePeakMemory) {
  Start();
  v1::EmbedResponse answer;
  ASSERT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"warm"}), &answer).ok());
  const v1::EmbedRequest bomb =
      TextRequest(v1::INPUT_TYPE_QUERY, {std::string(std::size_t{192} << 20, 'a')});
  process_->ResetPeak();
  const int64_t before = process_->StatusKib("VmHWM");
  for (int i = 0; i < 3; ++i) {
    grpc::ClientContext context;
    context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
    EXPECT_EQ(stub_->Embed(&context, bomb, &answer).error_code(), grpc::UNIMPLEMENTED);
  }
  if (kMemoryTells) {
    EXPECT_LT(process_->StatusKib("VmHWM") - before, 8 << 10);
  }
  EXPECT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"still here"}), &answer).ok());
}

}  // namespace
}  // namespace octavo
