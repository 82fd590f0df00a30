// octavo-server itself: flags, ports, signals, memory, metrics, with the real model.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/embedding.grpc.pb.h"
#include "tests/service/fake_calls.h"
#include "tests/service/http_client.h"
#include "tests/service/memory_tells.h"
#include "tests/service/metric_text.h"

extern char** environ;

namespace octavo {
namespace {

using ::testing::HasSubstr;

// A process whose output goes to a file. Killed when this goes.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    static int count = 0;
    log_ = absl::StrCat(::testing::TempDir(), "octavo_server_", getpid(), "_", count++, ".log");
    arguments.insert(arguments.begin(), OCTAVO_SERVER);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    EXPECT_EQ(posix_spawn(&pid_, OCTAVO_SERVER, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (!status_.has_value()) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove(log_);
  }

  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, 128 + the signal that ended it, or -1 if it has not ended in time.
  int Wait(std::chrono::milliseconds limit) {
    const Time end = Clock::now() + limit;
    while (!status_.has_value()) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      } else if (Clock::now() > end) {
        return -1;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    return *status_;
  }
  std::string Log() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // A line of /proc/PID/status in KiB: "VmHWM", "VmRSS".
  int64_t StatusKib(const std::string& name) const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(file, line);) {
      if (line.rfind(name + ":", 0) == 0) return std::atoll(line.c_str() + name.size() + 1);
    }
    return -1;
  }
  // Forgets the peak so far.
  void ResetPeak() const { std::ofstream(absl::StrCat("/proc/", pid_, "/clear_refs")) << "5"; }

 private:
  pid_t pid_ = -1;
  std::string log_;
  std::optional<int> status_;
};

struct Outcome {
  int code;
  std::string log;
};
Outcome RunToEnd(std::vector<std::string> arguments) {
  Process process(std::move(arguments));
  const int code = process.Wait(std::chrono::seconds(60));
  return {code, process.Log()};
}

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
    const Outcome outcome = RunToEnd(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.log;
    EXPECT_THAT(outcome.log, HasSubstr(message));
    EXPECT_EQ(std::count(outcome.log.begin(), outcome.log.end(), '\n'), 1) << outcome.log;
  }
  EXPECT_EQ(RunToEnd({"--version"}).code, 0);
  const Outcome help = RunToEnd({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* flag : {"--model=", "--drain_grace_seconds=5", "--max_inputs=1024"}) {
    EXPECT_THAT(help.log, HasSubstr(flag));
  }
}

TEST(ServerStart, AModelThatIsNotThereIsAClearError) {
  const Outcome outcome = RunToEnd(
      {"--model=/nonexistent/model", "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.log, HasSubstr("error: "));
  EXPECT_THAT(outcome.log, HasSubstr("/nonexistent/model"));
}

class ServerProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* model = std::getenv("OCTAVO_MODEL");
    if (model == nullptr) GTEST_SKIP() << "OCTAVO_MODEL names no model directory";
    model_ = model;
  }

  // Starts a server on free ports and waits until it is SERVING.
  void Start(std::vector<std::string> more = {}) {
    const std::string ports = absl::StrCat(::testing::TempDir(), "octavo_ports_", getpid());
    std::filesystem::remove(ports);
    std::vector<std::string> arguments = {
        "--model=" + model_,           "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
        "--health_listen=127.0.0.1:0", "--port_file=" + ports, "--drain_grace_seconds=0.5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    process_ = std::make_unique<Process>(arguments);
    const Time limit = Clock::now() + std::chrono::seconds(120);
    while (!std::filesystem::exists(ports) && Clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    std::ifstream file(ports);
    ASSERT_TRUE(file) << process_->Log();
    const nlohmann::json json = nlohmann::json::parse(file);
    metrics_port_ = json["metrics_port"];
    grpc::ChannelArguments channel_arguments;
    channel_arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_arguments.SetMaxSendMessageSize(-1);
    const auto connect = [&](int port) {
      return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                       grpc::InsecureChannelCredentials(), channel_arguments);
    };
    channel_ = connect(json["port"]);
    probes_ = connect(json["health_port"]);
    stub_ = v1::EmbeddingService::NewStub(channel_);
    while (Health(probes_, "") != "SERVING" && Clock::now() < limit) {
      ASSERT_EQ(process_->Wait(std::chrono::milliseconds(5)), -1) << process_->Log();
    }
    ASSERT_EQ(Health(probes_, ""), "SERVING") << process_->Log();
  }

  std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& name) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(name);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status =
        grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
    if (!status.ok()) return status.error_message();
    return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
  }
  grpc::Status Embed(const v1::EmbedRequest& request, v1::EmbedResponse* response) {
    grpc::ClientContext context;
    return stub_->Embed(&context, request, response);
  }

  std::string model_;
  std::unique_ptr<Process> process_;
  int metrics_port_ = 0;
  std::shared_ptr<grpc::Channel> channel_, probes_;
  std::unique_ptr<v1::EmbeddingService::Stub> stub_;
};

TEST_F(ServerProcessTest, ServesBothLanesAndCountsThemExactly) {
  Start();
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
