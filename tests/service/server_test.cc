// The wire contract over real gRPC: what tests of the handlers cannot see.
#include "service/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/service/http_client.h"
#include "tests/service/metric_text.h"
#include "tests/service/server_fixture.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

class ContractTest : public ServerTest {
 protected:
  ContractTest() { Serve(); }

  grpc::Status Embed(const v1::EmbedRequest& request, v1::EmbedResponse* response = nullptr,
                     std::multimap<grpc::string_ref, grpc::string_ref>* trailers = nullptr) {
    contexts_.push_back(std::make_unique<grpc::ClientContext>());
    v1::EmbedResponse ignored;
    const grpc::Status status =
        stub_->Embed(contexts_.back().get(), request, response ? response : &ignored);
    if (trailers != nullptr) *trailers = contexts_.back()->GetServerTrailingMetadata();
    return status;
  }

  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
};

TEST_F(ContractTest, EmbedAnswersABatch) {
  v1::EmbedResponse response;
  const grpc::Status status = Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"one", "two"}), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(Float32Row(response.vectors(0), 1), FakeVector("query: two"));
  EXPECT_EQ(response.execution().lane(), "query");
}

TEST_F(ContractTest, StreamAnswersEachIdOnceThenOk) {
  engine_.SetDelay(std::chrono::microseconds(200));
  grpc::ClientContext context;
  auto stream = stub_->EmbedStream(&context);
  constexpr uint64_t kMessages = 1000;
  std::thread writer([&] {
    for (uint64_t i = 0; i < kMessages; ++i) {
      ASSERT_TRUE(stream->Write(
          StreamRequest(i, TextRequest(v1::INPUT_TYPE_DOCUMENT, {absl::StrCat("t", i), "b"}))));
    }
    stream->WritesDone();
  });
  std::vector<int> answers(kMessages);
  for (v1::EmbedStreamResponse response; stream->Read(&response);) {
    ++answers.at(response.id());
    EXPECT_EQ(Float32Row(response.response().vectors(0), 0),
              FakeVector(absl::StrCat("t", response.id())));
  }
  writer.join();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(answers, ::testing::Each(1));
}

TEST_F(ContractTest, ErrorsCarryReasonDomainAndViolations) {
  const grpc::Status status = Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"a", ""}));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(Info(status).reason(), "TEXT_EMPTY");
  EXPECT_EQ(Info(status).domain(), "octavo");
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  google::rpc::BadRequest bad;
  ASSERT_TRUE(details.details(1).UnpackTo(&bad));
  EXPECT_EQ(bad.field_violations(0).field(), "inputs[1].text");
  EXPECT_EQ(details.message(), status.error_message());

  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_QUERY, {"a"});
  request.set_model("other");
  EXPECT_EQ(Embed(request).error_code(), grpc::NOT_FOUND);
  request.set_model("fake");
  request.set_revision("other");
  EXPECT_EQ(Embed(request).error_code(), grpc::FAILED_PRECONDITION);
}

// A status survives the journey however much is wrong.
TEST_F(ContractTest, ManyViolationsStillArrive) {
  const grpc::Status status =
      Embed(TextRequest(v1::INPUT_TYPE_QUERY, std::vector<std::string>(1024)));
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(status), "TEXT_EMPTY");
  EXPECT_LE(status.error_details().size(), 6144u);
  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_QUERY, {"a"});
  request.set_model(std::string(100000, 'm'));
  EXPECT_EQ(ReasonOf(Embed(request)), "MODEL_NOT_FOUND");
}

TEST_F(ContractTest, BytesThatAreNoMessageAreInvalidArgument) {
  for (const char* method : {kEmbedMethod, kInfoMethod}) {
    for (const std::string& bytes :
         {std::string("\xFF\xFF"), std::string("\x0A\x04\x0A\x02\xC3\x28"),
          std::string("\x0A\x02\xC3\x28"), std::string("\x0A\x7F")}) {
      grpc::ClientContext context;
      const grpc::Status status = RawCall(channel_, method, bytes, &context);
      EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT) << status.error_message();
      EXPECT_NE(ReasonOf(status), "");
    }
  }
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(RawCall(channel_, kEmbedMethod, "", &context)), "INPUT_TYPE_INVALID");
}

TEST_F(ContractTest, ABadMessageEndsAStreamAfterItsAnswersAndNeverOk) {
  const std::string good =
      StreamRequest(7, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"good"})).SerializeAsString();
  const std::string not_utf8("\x12\x06\x0A\x04\x0A\x02\xC3\x28", 8);
  for (const std::string& bytes : {std::string("\xFF"), not_utf8, std::string("\x12\x7F")}) {
    RawStream stream(channel_, kStreamMethod);
    ASSERT_TRUE(stream.Write(good));
    stream.Write(bytes);
    stream.WritesDone();
    v1::EmbedStreamResponse response;
    const std::optional<std::string> answer = stream.Read();
    ASSERT_TRUE(answer.has_value() && response.ParseFromString(*answer));
    EXPECT_EQ(response.id(), 7u);
    EXPECT_TRUE(response.has_response());
    EXPECT_FALSE(stream.Read().has_value());
    const grpc::Status status = stream.Finish();
    EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
    EXPECT_EQ(ReasonOf(status), "MESSAGE_MALFORMED");
  }
}

TEST_F(ContractTest, AnOversizeMessageNeverEndsOk) {
  std::string huge(17 << 20, 'x');
  grpc::ClientContext context;
  EXPECT_EQ(RawCall(channel_, kEmbedMethod, huge, &context).error_code(), grpc::RESOURCE_EXHAUSTED);
  for (int i = 0; i < 20; ++i) {
    RawStream stream(channel_, kStreamMethod);
    stream.Write(
        StreamRequest(1, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"good"})).SerializeAsString());
    stream.Write(huge);
    stream.WritesDone();
    while (stream.Read().has_value()) {
    }
    EXPECT_EQ(stream.Finish().error_code(), grpc::RESOURCE_EXHAUSTED);
  }
}

TEST_F(ContractTest, AFullLanePushesBack) {
  engine_.SetHang(true);
  std::vector<std::thread> callers;
  v1::EmbedRequest big;
  big.mutable_options()->set_input_type(v1::INPUT_TYPE_QUERY);
  for (uint32_t i = 0; i < 900; ++i) big.add_inputs()->mutable_token_ids()->add_ids(i);
  for (int i = 0; i < 2; ++i) {
    callers.emplace_back([&] {
      grpc::ClientContext context;
      v1::EmbedResponse response;
      EXPECT_TRUE(stub_->Embed(&context, big, &response).ok());
    });
    // The first one's batch of 64 hangs; 836 wait; the second does not fit beside them, until
    // nothing waits. Only its own admission decides, so wait for the first.
    ASSERT_TRUE(engine_.WaitUntilHung());
    if (i == 0) {
      std::multimap<grpc::string_ref, grpc::string_ref> trailers;
      const grpc::Status status = Embed(big, nullptr, &trailers);
      EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
      EXPECT_EQ(ReasonOf(status), "LANE_FULL");
      google::rpc::Status details;
      google::rpc::RetryInfo retry;
      ASSERT_TRUE(details.ParseFromString(status.error_details()));
      ASSERT_TRUE(details.details(1).UnpackTo(&retry));
      EXPECT_GT(retry.retry_delay().seconds() + retry.retry_delay().nanos(), 0);
      const auto pushback = trailers.find("grpc-retry-pushback-ms");
      ASSERT_NE(pushback, trailers.end());
      EXPECT_GE(std::stoi(std::string(pushback->second.data(), pushback->second.size())), 1);
      break;
    }
  }
  engine_.SetHang(false);
  for (std::thread& caller : callers) caller.join();
}

TEST_F(ContractTest, DeadlinesAndCancellation) {
  engine_.SetHang(true);
  std::thread first([&] { EXPECT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"a"})).ok()); });
  ASSERT_TRUE(engine_.WaitUntilHung());
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  v1::EmbedResponse response;
  EXPECT_EQ(
      stub_->Embed(&late, TextRequest(v1::INPUT_TYPE_QUERY, {"late"}), &response).error_code(),
      grpc::DEADLINE_EXCEEDED);
  grpc::ClientContext cancelled;
  std::thread canceller([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    cancelled.TryCancel();
  });
  EXPECT_EQ(
      stub_->Embed(&cancelled, TextRequest(v1::INPUT_TYPE_QUERY, {"b"}), &response).error_code(),
      grpc::CANCELLED);
  canceller.join();
  // The server hears of it a little later; then the engine may go on.
  const std::string in_flight =
      "octavo_requests_in_flight{method=\"octavo.v1.EmbeddingService/Embed\"}";
  const Time limit = Clock::now() + kPatience;
  while (MetricText(context_.metrics().Text()).value(in_flight) > 1 && Clock::now() < limit) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  engine_.SetHang(false);
  first.join();
  engine_.Stop();
  EXPECT_EQ(engine_.computed_inputs(), 1);
}

TEST_F(ContractTest, CompressedRequestsAreUnimplemented) {
  for (grpc_compression_algorithm algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::EmbedResponse response;
    const grpc::Status status = stub_->Embed(
        &context, TextRequest(v1::INPUT_TYPE_QUERY, {std::string(100000, 'a')}), &response);
    EXPECT_EQ(status.error_code(), grpc::UNIMPLEMENTED) << status.error_message();
    grpc::ClientContext stream_context;
    stream_context.set_compression_algorithm(algorithm);
    auto stream = stub_->EmbedStream(&stream_context);
    stream->Write(
        StreamRequest(1, TextRequest(v1::INPUT_TYPE_DOCUMENT, {std::string(100000, 'a')})));
    stream->WritesDone();
    v1::EmbedStreamResponse answer;
    while (stream->Read(&answer)) {
    }
    EXPECT_EQ(stream->Finish().error_code(), grpc::UNIMPLEMENTED);
  }
}

TEST_F(ContractTest, UnknownMethodsAreUnimplemented) {
  grpc::ClientContext context;
  EXPECT_EQ(RawCall(channel_, "/octavo.v1.EmbeddingService/Nope", "", &context).error_code(),
            grpc::UNIMPLEMENTED);
}

TEST_F(ContractTest, MetricsCountKnownTrafficExactly) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"a b", "c"})).ok());
  }
  EXPECT_FALSE(Embed(TextRequest(v1::INPUT_TYPE_QUERY, {""})).ok());
  grpc::ClientContext bad;
  RawCall(channel_, kEmbedMethod, "\xFF", &bad);
  grpc::ClientContext context;
  auto stream = stub_->EmbedStream(&context);
  for (uint64_t i = 0; i < 20; ++i) {
    stream->Write(StreamRequest(i, TextRequest(v1::INPUT_TYPE_DOCUMENT, {"one two", "three"})));
  }
  stream->Write(StreamRequest(99, TextRequest(v1::INPUT_TYPE_UNSPECIFIED, {"x"})));
  stream->WritesDone();
  v1::EmbedStreamResponse answer;
  while (stream->Read(&answer)) {
  }
  EXPECT_TRUE(stream->Finish().ok());

  const MetricText text(HttpGet(server_->metrics_port(), "/metrics"));
  const auto requests = [&](const char* code, const char* lane, const char* method) {
    return text.value(absl::StrCat("octavo_requests_total{code=\"", code, "\",lane=\"", lane,
                                   "\",method=\"octavo.v1.EmbeddingService/", method, "\"}"));
  };
  EXPECT_EQ(requests("OK", "query", "Embed"), 3);
  EXPECT_EQ(requests("INVALID_ARGUMENT", "query", "Embed"), 1);
  EXPECT_EQ(requests("INVALID_ARGUMENT", "none", "Embed"), 1);
  EXPECT_EQ(requests("OK", "document", "EmbedStream"), 20);
  EXPECT_EQ(requests("INVALID_ARGUMENT", "none", "EmbedStream"), 1);
  EXPECT_EQ(text.value("octavo_inputs_total{format=\"f32\",lane=\"query\"}"), 6);
  // "query: a b" is 3 words, "query: c" 2, and 2 special tokens each.
  EXPECT_EQ(text.value("octavo_tokens_total{format=\"f32\",lane=\"query\"}"), 27);
  EXPECT_EQ(text.value("octavo_inputs_total{format=\"a8w8_int8\",lane=\"document\"}"), 40);
  EXPECT_EQ(text.value("octavo_tokens_total{format=\"a8w8_int8\",lane=\"document\"}"), 140);
  EXPECT_EQ(text.value("octavo_batch_inputs_sum{format=\"a8w8_int8\",lane=\"document\"}"), 40);
  EXPECT_EQ(text.value("octavo_batch_inputs_count{format=\"a8w8_int8\",lane=\"document\"}"),
            text.value("octavo_stage_duration_seconds_count{lane=\"document\",stage=\"compute\"}"));
  for (const char* stage : {"tokenize", "queue", "respond"}) {
    const auto count = [&](const char* lane) {
      return text.value(absl::StrCat("octavo_stage_duration_seconds_count{lane=\"", lane,
                                     "\",stage=\"", stage, "\"}"));
    };
    EXPECT_EQ(count("query"), 3) << stage;
    EXPECT_EQ(count("document"), 20) << stage;
  }
  EXPECT_EQ(text.value("octavo_request_duration_seconds_count{lane=\"document\","
                       "method=\"octavo.v1.EmbeddingService/EmbedStream\"}"),
            20);
  EXPECT_EQ(text.value("octavo_stream_duration_seconds_count{"
                       "method=\"octavo.v1.EmbeddingService/EmbedStream\"}"),
            1);
  EXPECT_EQ(text.value("octavo_streams_active{method=\"octavo.v1.EmbeddingService/EmbedStream\"}"),
            0);
  EXPECT_EQ(text.value("octavo_stream_tokens_in_flight{lane=\"document\"}"), 0);
  EXPECT_EQ(text.value("octavo_ready"), 1);
  EXPECT_EQ(text.value("octavo_queue_limit_tokens{lane=\"query\"}"), 1000);
}

TEST_F(ContractTest, AStreamThatIsNeverReadIsCancelledInTheEnd) {
  // Bounded by flow control: the transport takes no more when its window is full.
  ServiceOptions options;
  options.write_timeout = std::chrono::milliseconds(300);
  ServiceContext context(options);
  FakeEngine engine;
  ServerOptions listen{"127.0.0.1:0", "", ""};
  auto server = Server::Start(listen, &context);
  ASSERT_TRUE(server.ok());
  context.SetModel(engine.Serve());
  auto channel = Connect((*server)->port());
  RawStream stream(channel, kStreamMethod);
  std::atomic<int> written{0};
  std::thread writer([&] {
    v1::EmbedRequest request;
    request.mutable_options()->set_input_type(v1::INPUT_TYPE_DOCUMENT);
    for (uint32_t i = 0; i < 256; ++i) request.add_inputs()->mutable_token_ids()->add_ids(i);
    const std::string bytes = StreamRequest(1, request).SerializeAsString();
    while (stream.Write(bytes)) ++written;
  });
  const auto wait_until = [](const auto& condition) {
    const Time limit = Clock::now() + kPatience;
    while (!condition() && Clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return condition();
  };
  EXPECT_TRUE(wait_until([&] { return written > 4; }));
  EXPECT_TRUE(wait_until([&] { return context.streams().size() == 0; }));
  EXPECT_THAT(context.metrics().Text(),
              HasSubstr("octavo_stream_tokens_in_flight{lane=\"document\"} 0"));
  stream.context().TryCancel();  // a blocked Write of gRPC's client does not notice by itself
  writer.join();
  EXPECT_EQ(stream.Finish().error_code(), grpc::CANCELLED);
}

}  // namespace
}  // namespace octavo
