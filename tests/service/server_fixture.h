// A server over real gRPC with a fake engine behind it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "octavo/v1/embedding.grpc.pb.h"
#include "service/server.h"
#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"
#include "tests/service/raw_client.h"

namespace octavo {

inline constexpr char kEmbedMethod[] = "/octavo.v1.EmbeddingService/Embed";
inline constexpr char kStreamMethod[] = "/octavo.v1.EmbeddingService/EmbedStream";
inline constexpr char kInfoMethod[] = "/octavo.v1.EmbeddingService/GetInfo";

class ServerTest : public ::testing::Test {
 protected:
  explicit ServerTest(ServiceOptions options = {})
      : context_(options), engine_(FakeModelInfo(), &context_.metrics()) {
    ServerOptions listen;
    listen.listen = listen.metrics_listen = listen.health_listen = "127.0.0.1:0";
    auto server = Server::Start(listen, &context_);
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = Connect(server_->port());
    stub_ = v1::EmbeddingService::NewStub(channel_);
  }

  ~ServerTest() override {
    server_.reset();
    context_.pool().Stop();  // before the engine goes
  }

  // What octavo-server does when the model is loaded.
  void Serve() {
    context_.metrics().SetModel(FakeModelInfo());
    context_.metrics().SampleQueues(&engine_.scheduler());
    context_.SetModel(engine_.Serve());
    server_->SetServing();
  }

  static std::shared_ptr<grpc::Channel> Connect(int port) {
    // A connection of its own, and no message limit on the client's side.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxSendMessageSize(-1);
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  // The ErrorInfo in a status; empty reason if there is none.
  static google::rpc::ErrorInfo Info(const grpc::Status& status) {
    google::rpc::Status details;
    google::rpc::ErrorInfo info;
    if (details.ParseFromString(status.error_details()) && details.details_size() > 0) {
      details.details(0).UnpackTo(&info);
    }
    return info;
  }
  static std::string ReasonOf(const grpc::Status& status) { return Info(status).reason(); }

  ServiceContext context_;
  FakeEngine engine_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::EmbeddingService::Stub> stub_;
};

}  // namespace octavo
