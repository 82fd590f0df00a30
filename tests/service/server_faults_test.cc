// octavo-server when devices are missing or fail.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tests/runtime/model_directory.h"
#include "tests/service/fake_calls.h"
#include "tests/service/http_client.h"
#include "tests/service/metric_text.h"
#include "tests/service/server_process.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

const std::vector<std::string> kAnyPorts = {"--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0"};

class ServerFaultsTest : public ServerProcessFixture {
 protected:
  void SetUp() override {
    model_.config["num_attention_heads"] = 1;  // of 8: attention rows take no smaller
    model_.Save();
  }

  // The arguments with the small model in f32, which every processor computes.
  std::vector<std::string> Arguments(std::vector<std::string> more) {
    more.insert(more.end(), {"--query_format=f32", "--document_format=f32", "--threads=1"});
    return more;
  }
  void Start(const std::string& device) {
    StartProcess(OCTAVO_FAULTY_SERVER, model_.path(), Arguments({"--device=" + device}));
  }
  Outcome RunToTheEnd(const std::string& program, std::vector<std::string> more) {
    more = Arguments(std::move(more));
    more.push_back("--model=" + model_.path());
    more.insert(more.end(), kAnyPorts.begin(), kAnyPorts.end());
    return RunToEnd(program, more);
  }

  static std::string ReasonOf(const grpc::Status& status) {
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    if (details.ParseFromString(status.error_details()) && details.details_size() > 0) {
      details.details(0).UnpackTo(&info);
    }
    return info.domain() == "octavo" ? info.reason() : "";
  }
  MetricText Metrics() { return MetricText(HttpGet(metrics_port_, "/metrics")); }
  // Embeds until a call fails, and returns how it failed.
  grpc::Status EmbedUntilItFails() {
    const Time limit = Clock::now() + std::chrono::seconds(60);
    while (Clock::now() < limit) {
      v1::EmbedResponse response;
      grpc::Status status = Embed(TextRequest(v1::INPUT_TYPE_DOCUMENT, {"cat dog"}), &response);
      if (!status.ok()) return status;
    }
    return grpc::Status::OK;
  }

  ModelDirectory model_;
};

TEST_F(ServerFaultsTest, ADeviceThatIsNotHereEndsTheStartWithOneClearLine) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);  // also on a machine that has one
  const Outcome cuda = RunToTheEnd(OCTAVO_SERVER, {"--device=cuda:0"});
  const Outcome second = RunToTheEnd(OCTAVO_FAULTY_SERVER, {"--device=faulty:0,faulty:9"});
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(cuda.code, 1);
  EXPECT_THAT(cuda.log, HasSubstr("error: --device=cuda:0"));
#ifdef OCTAVO_WITH_CUDA
  EXPECT_THAT(cuda.log, ::testing::AnyOf(HasSubstr("no NVIDIA driver is installed here"),
                                         HasSubstr("no CUDA device is present")));
#else
  EXPECT_THAT(cuda.log, HasSubstr("is not a device of this build"));
#endif
  EXPECT_EQ(second.code, 1);
  EXPECT_THAT(second.log, HasSubstr("error: there is no device faulty:9"));
}

TEST_F(ServerFaultsTest, TooLittleMemoryEndsTheStartAndSaysHowMuchIsNeeded) {
  setenv("OCTAVO_FAULTY_MEMORY", "1000", 1);
  const Outcome outcome = RunToTheEnd(OCTAVO_FAULTY_SERVER, {"--device=faulty:0"});
  unsetenv("OCTAVO_FAULTY_MEMORY");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_THAT(outcome.log, HasSubstr("error: faulty:0: the device is out of memory"));
  EXPECT_THAT(outcome.log, HasSubstr(" needs about 1 MiB there for its weights in f32 and f32"));
}

TEST_F(ServerFaultsTest, AutoTakesTheProcessorWhereThereIsNothingFasterAndSaysWhy) {
  setenv("CUDA_VISIBLE_DEVICES", "", 1);
  ASSERT_NO_FATAL_FAILURE(StartProcess(OCTAVO_SERVER, model_.path(), Arguments({"--device=auto"})));
  unsetenv("CUDA_VISIBLE_DEVICES");
  v1::EmbedResponse response;
  ASSERT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"cat"}), &response).ok());
  EXPECT_EQ(response.execution().device(), "cpu");
#ifdef OCTAVO_WITH_CUDA
  EXPECT_THAT(process_->Log(), HasSubstr("device auto passed over cuda: no "));
#endif
  grpc::ClientContext context;
  v1::GetInfoResponse info;
  ASSERT_TRUE(stub_->GetInfo(&context, {}, &info).ok());
  ASSERT_EQ(info.devices_size(), 1);
  EXPECT_THAT(info.devices(0), ::testing::StartsWith("cpu ("));
}

TEST_F(ServerFaultsTest, ALostDeviceFailsItsCallsAndTheOtherGoesOn) {
  ASSERT_NO_FATAL_FAILURE(Start("faulty:0,faulty:1"));
  EXPECT_EQ(Metrics().value("octavo_device_errors_total{device=\"faulty:1\",reason=\"lost\"}"), 0);
  process_->Signal(SIGUSR2);
  const grpc::Status status = EmbedUntilItFails();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(ReasonOf(status), "NO_DEVICE");
  EXPECT_THAT(status.error_message(), HasSubstr("faulty:1 failed"));
  for (int i = 0; i < 50; ++i) {
    v1::EmbedResponse response;
    const grpc::Status after = Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"dog"}), &response);
    ASSERT_TRUE(after.ok()) << after.error_message();
    EXPECT_EQ(response.execution().device(), "faulty:0");
  }
  EXPECT_EQ(Health(probes_, "octavo.v1.EmbeddingService"), "SERVING");
  const MetricText metrics = Metrics();
  EXPECT_EQ(metrics.value("octavo_device_errors_total{device=\"faulty:1\",reason=\"lost\"}"), 1);
  EXPECT_EQ(metrics.value("octavo_device_errors_total{device=\"faulty:0\",reason=\"lost\"}"), 0);
  EXPECT_EQ(metrics.value("octavo_ready"), 1);
  EXPECT_EQ(metrics.value("octavo_energy_joules_total{device=\"faulty:1\"}"), 101);
  Disconnect();
  process_->Signal(SIGTERM);
  EXPECT_EQ(process_->Wait(std::chrono::seconds(20)), 0) << process_->Log();
  EXPECT_THAT(process_->Log(), HasSubstr("error: lost faulty:1: faulty:1 failed"));
}

TEST_F(ServerFaultsTest, WithItsLastDeviceItDrainsAndExitsOne) {
  ASSERT_NO_FATAL_FAILURE(Start("faulty:0"));
  grpc::ClientContext watch_context, stream_context;
  grpc::health::v1::HealthCheckRequest watched;
  watched.set_service("octavo.v1.EmbeddingService");
  const auto health = grpc::health::v1::Health::NewStub(channel_);
  const auto watch = health->Watch(&watch_context, watched);
  grpc::health::v1::HealthCheckResponse serving;
  ASSERT_TRUE(watch->Read(&serving));
  EXPECT_EQ(serving.status(), grpc::health::v1::HealthCheckResponse::SERVING);
  const auto stream = stub_->EmbedStream(&stream_context);

  process_->Signal(SIGUSR1);
  const grpc::Status status = EmbedUntilItFails();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << status.error_message();
  EXPECT_EQ(ReasonOf(status), "NO_DEVICE");
  EXPECT_THAT(status.error_message(), HasSubstr("faulty:0 failed"));
  constexpr uint64_t kMessages = 20;
  for (uint64_t id = 0; id < kMessages; ++id) {
    ASSERT_TRUE(stream->Write(StreamRequest(id, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"cat"}))));
  }
  ASSERT_TRUE(watch->Read(&serving));
  EXPECT_EQ(serving.status(), grpc::health::v1::HealthCheckResponse::NOT_SERVING);
  v1::EmbedResponse response;
  const grpc::Status late = Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"cat"}), &response);
  EXPECT_EQ(late.error_code(), grpc::UNAVAILABLE) << late.error_message();
  EXPECT_EQ(ReasonOf(late), "NO_DEVICE");
  EXPECT_EQ(Metrics().value("octavo_device_errors_total{device=\"faulty:0\",reason=\"lost\"}"), 1);
  EXPECT_EQ(Metrics().value("octavo_ready"), 0);

  // Each message is answered, and then the stream ends.
  v1::EmbedStreamResponse answer;
  uint64_t answers = 0;
  while (stream->Read(&answer)) {
    ++answers;
    EXPECT_EQ(answer.error().code(), static_cast<int>(grpc::UNAVAILABLE));
    EXPECT_EQ(answer.error().reason(), "NO_DEVICE");
  }
  EXPECT_EQ(answers, kMessages);
  EXPECT_EQ(stream->Finish().error_code(), grpc::UNAVAILABLE);
  watch_context.TryCancel();
  Disconnect();
  EXPECT_EQ(process_->Wait(std::chrono::seconds(20)), 1) << process_->Log();
  EXPECT_THAT(process_->Log(), HasSubstr("error: lost faulty:0: faulty:0 failed: as told"));
  EXPECT_THAT(process_->Log(), HasSubstr("error: no device is left"));
}

}  // namespace
}  // namespace octavo
