// Start, health, reflection and the end of a server over real gRPC.
#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "tests/service/server_fixture.h"

namespace octavo {
namespace {

namespace reflection = grpc::reflection::v1alpha;
using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using ::testing::HasSubstr;

class LifeTest : public ServerTest {
 protected:
  // The status of a name, or "NOT_FOUND".
  std::string Check(const std::shared_ptr<grpc::Channel>& channel, const std::string& name) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    const grpc::Status status = Health::NewStub(channel)->Check(&context, request, &response);
    if (status.error_code() == grpc::NOT_FOUND) return "NOT_FOUND";
    EXPECT_TRUE(status.ok()) << status.error_message();
    return HealthCheckResponse::ServingStatus_Name(response.status());
  }
  v1::EmbedStreamRequest Document(uint64_t id) {
    return StreamRequest(id, TextRequest(v1::INPUT_TYPE_DOCUMENT, {absl::StrCat("text ", id)}));
  }
  static double Seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
  }
};

TEST_F(LifeTest, NothingServesBeforeTheModelIsLoaded) {
  const auto probes = Connect(server_->health_port());
  for (const auto& channel : {channel_, probes}) {
    for (const char* name : {"", "octavo.v1.EmbeddingService", "liveness"}) {
      EXPECT_EQ(Check(channel, name), "NOT_SERVING") << name;
    }
    EXPECT_EQ(Check(channel, "octavo.v1.Other"), "NOT_FOUND");
  }
  grpc::ClientContext context;
  v1::EmbedResponse response;
  const grpc::Status status =
      stub_->Embed(&context, TextRequest(v1::INPUT_TYPE_QUERY, {"a"}), &response);
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "LOADING");
  Serve();
  for (const auto& channel : {channel_, probes}) {
    for (const char* name : {"", "octavo.v1.EmbeddingService", "liveness"}) {
      EXPECT_EQ(Check(channel, name), "SERVING") << name;
    }
  }
}

TEST_F(LifeTest, TheHealthAddressServesHealthAlone) {
  Serve();
  const auto probes = Connect(server_->health_port());
  grpc::ClientContext context;
  v1::EmbedResponse response;
  EXPECT_EQ(v1::EmbeddingService::NewStub(probes)
                ->Embed(&context, TextRequest(v1::INPUT_TYPE_QUERY, {"a"}), &response)
                .error_code(),
            grpc::UNIMPLEMENTED);
  grpc::ClientContext reflection_context;
  auto stream =
      reflection::ServerReflection::NewStub(probes)->ServerReflectionInfo(&reflection_context);
  stream->WritesDone();
  EXPECT_EQ(stream->Finish().error_code(), grpc::UNIMPLEMENTED);
  grpc::ClientContext compressed;
  compressed.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  HealthCheckRequest request;
  request.set_service(std::string(2000, 'x'));
  HealthCheckResponse answer;
  EXPECT_EQ(Health::NewStub(probes)->Check(&compressed, request, &answer).error_code(),
            grpc::UNIMPLEMENTED);
}

TEST_F(LifeTest, WatchTellsEveryChange) {
  grpc::ClientContext context, unknown_context;
  HealthCheckRequest request;
  request.set_service("octavo.v1.EmbeddingService");
  auto watch = Health::NewStub(channel_)->Watch(&context, request);
  request.set_service("other");
  auto unknown = Health::NewStub(channel_)->Watch(&unknown_context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  ASSERT_TRUE(unknown->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  Serve();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  server_->SetNotReady();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check(channel_, "liveness"), "SERVING") << "draining is no reason to be killed";
  unknown_context.TryCancel();
  EXPECT_EQ(unknown->Finish().error_code(), grpc::CANCELLED);
}

TEST_F(LifeTest, OpenCallsDoNotHoldTheShutdown) {
  Serve();
  const auto probes = Connect(server_->health_port());
  grpc::ClientContext contexts[3];
  auto watch = Health::NewStub(channel_)->Watch(&contexts[0], {});
  auto probe_watch = Health::NewStub(probes)->Watch(&contexts[1], {});
  auto info = reflection::ServerReflection::NewStub(channel_)->ServerReflectionInfo(&contexts[2]);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  ASSERT_TRUE(probe_watch->Read(&response));
  reflection::ServerReflectionRequest request;
  reflection::ServerReflectionResponse answer;
  request.set_list_services("");
  ASSERT_TRUE(info->Write(request));
  ASSERT_TRUE(info->Read(&answer));
  const Time begin = Clock::now();
  std::thread reader([&] {
    while (watch->Read(&response)) {
    }
    EXPECT_EQ(watch->Finish().error_code(), grpc::UNAVAILABLE);
  });
  server_->Shutdown(Clock::now() + std::chrono::seconds(20));
  EXPECT_LT(Seconds(Clock::now() - begin), 5);
  reader.join();
  EXPECT_EQ(info->Finish().error_code(), grpc::UNAVAILABLE);
}

TEST_F(LifeTest, ReflectionDescribesTheContract) {
  grpc::ClientContext context;
  auto stream = reflection::ServerReflection::NewStub(channel_)->ServerReflectionInfo(&context);
  reflection::ServerReflectionRequest request;
  reflection::ServerReflectionResponse response;
  request.set_list_services("*");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  std::vector<std::string> services;
  for (const auto& service : response.list_services_response().service()) {
    services.push_back(service.name());
  }
  EXPECT_THAT(services,
              ::testing::UnorderedElementsAre("octavo.v1.EmbeddingService", "grpc.health.v1.Health",
                                              "grpc.reflection.v1alpha.ServerReflection"));

  // Every service can be rebuilt from what its symbol's answer carries, as grpcurl does.
  for (const std::string& name : services) {
    request.set_file_containing_symbol(name);
    ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
    google::protobuf::SimpleDescriptorDatabase database;
    for (const std::string& bytes : response.file_descriptor_response().file_descriptor_proto()) {
      google::protobuf::FileDescriptorProto file;
      ASSERT_TRUE(file.ParseFromString(bytes));
      EXPECT_TRUE(database.Add(file)) << file.name() << " came twice";
    }
    google::protobuf::DescriptorPool pool(&database);
    ASSERT_NE(pool.FindServiceByName(name), nullptr) << name;
  }
  request.set_file_by_filename("octavo/v1/embedding.proto");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_GE(response.file_descriptor_response().file_descriptor_proto_size(), 2);
  request.set_file_containing_symbol("octavo.v1.Nothing");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::NOT_FOUND);
  request.set_all_extension_numbers_of_type("octavo.v1.EmbedRequest");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.all_extension_numbers_response().base_type_name(), "octavo.v1.EmbedRequest");
  request.mutable_file_containing_extension()->set_containing_type("octavo.v1.EmbedRequest");
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::NOT_FOUND);
  request.clear_message_request();
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  EXPECT_EQ(response.error_response().error_code(), grpc::INVALID_ARGUMENT);
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(LifeTest, DrainingAnswersOpenStreamsAndCallsThenEndsThem) {
  Serve();
  engine_.SetHang(true);
  grpc::ClientContext stream_context, idle_context;
  auto stream = stub_->EmbedStream(&stream_context);
  auto idle = stub_->EmbedStream(&idle_context);
  ASSERT_TRUE(stream->Write(Document(1)));
  ASSERT_TRUE(engine_.WaitUntilHung());
  for (uint64_t id = 2; id <= 10; ++id) ASSERT_TRUE(stream->Write(Document(id)));
  std::thread caller([&] {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    EXPECT_TRUE(stub_->Embed(&context, TextRequest(v1::INPUT_TYPE_QUERY, {"a"}), &response).ok());
  });
  const Time limit = Clock::now() + kPatience;
  const auto accepted = [&] {
    return engine_.scheduler().Snapshot(Lane::kDocument, Clock::now()).queue_requests == 9 &&
           engine_.scheduler().Snapshot(Lane::kQuery, Clock::now()).queue_requests == 1;
  };
  while (!accepted() && Clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(accepted());
  server_->SetNotReady();
  std::thread closer([&] { server_->Shutdown(Clock::now() + std::chrono::seconds(20)); });
  v1::EmbedStreamResponse response;
  EXPECT_FALSE(idle->Read(&response));
  grpc::Status status = idle->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "DRAINING");
  engine_.SetHang(false);
  int answers = 0;
  while (stream->Read(&response)) {
    EXPECT_TRUE(response.has_response());
    ++answers;
  }
  EXPECT_EQ(answers, 10);
  status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "DRAINING");
  caller.join();
  closer.join();
}

TEST_F(LifeTest, AtTheDeadlineWhatHangsIsCancelled) {
  Serve();
  engine_.SetHang(true);
  grpc::ClientContext context;
  auto stream = stub_->EmbedStream(&context);
  ASSERT_TRUE(stream->Write(Document(1)));
  ASSERT_TRUE(engine_.WaitUntilHung());
  const Time begin = Clock::now();
  server_->Shutdown(Clock::now() + std::chrono::milliseconds(300));
  EXPECT_GE(Seconds(Clock::now() - begin), 0.29);
  EXPECT_LT(Seconds(Clock::now() - begin), 10);
  EXPECT_FALSE(stream->Finish().ok());
  engine_.SetHang(false);
}

TEST_F(LifeTest, PortsInUseAreAnError) {
  ServiceContext other{ServiceOptions()};
  const auto at = [](int port) { return absl::StrCat("127.0.0.1:", port); };
  for (const ServerOptions& options :
       {ServerOptions{at(server_->port()), "", ""},
        ServerOptions{"127.0.0.1:0", at(server_->metrics_port()), ""},
        ServerOptions{"127.0.0.1:0", "", at(server_->port())}, ServerOptions{"nowhere", "", ""}}) {
    EXPECT_FALSE(Server::Start(options, &other).ok());
  }
}

class SmallLimitsTest : public ServerTest {
 protected:
  SmallLimitsTest()
      : ServerTest([] {
          ServiceOptions options;
          options.limits.max_response_bytes = 4096;
          options.limits.max_message_bytes = 8192;
          options.limits.max_text_bytes = 100;
          options.limits.max_inputs = 50;
          return options;
        }()) {
    Serve();
  }
};

TEST_F(SmallLimitsTest, AreRefusedBeforeCompute) {
  const auto embed = [&](const v1::EmbedRequest& request) {
    grpc::ClientContext context;
    v1::EmbedResponse response;
    return stub_->Embed(&context, request, &response);
  };
  grpc::Status status = embed(TextRequest(v1::INPUT_TYPE_QUERY, std::vector<std::string>(40, "a")));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), "RESPONSE_TOO_LARGE");
  EXPECT_THAT(status.error_message(), HasSubstr("at most 31 inputs fit"));
  EXPECT_EQ(ReasonOf(embed(TextRequest(v1::INPUT_TYPE_QUERY, {std::string(101, 'a')}))),
            "TEXT_TOO_LARGE");
  EXPECT_EQ(ReasonOf(embed(TextRequest(v1::INPUT_TYPE_QUERY, std::vector<std::string>(51, "a")))),
            "TOO_MANY_INPUTS");
  EXPECT_EQ(embed(TextRequest(v1::INPUT_TYPE_QUERY, {std::string(9000, 'a')})).error_code(),
            grpc::RESOURCE_EXHAUSTED);
  EXPECT_EQ(engine_.computed_inputs(), 0);
  EXPECT_TRUE(embed(TextRequest(v1::INPUT_TYPE_QUERY, std::vector<std::string>(31, "a"))).ok());
}

}  // namespace
}  // namespace octavo
