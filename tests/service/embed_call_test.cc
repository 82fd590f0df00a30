#include "service/embed_call.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/vectors.h"
#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

class EmbedCallTest : public ::testing::Test {
 protected:
  explicit EmbedCallTest(const ServiceOptions& options = {})
      : context_(options), engine_(FakeModelInfo(), &context_.metrics()) {
    context_.SetModel(engine_.Serve());
    context_.metrics().SetModel(FakeModelInfo());
  }
  ~EmbedCallTest() override { context_.pool().Stop(); }  // before the engine goes

  struct Started {
    std::unique_ptr<FakeUnaryCall> transport;
    std::shared_ptr<EmbedCall> call;
  };
  Started Start(const std::string& bytes, Time deadline = Time::max()) {
    Started started;
    started.transport = std::make_unique<FakeUnaryCall>(deadline);
    started.call = std::make_shared<EmbedCall>(&context_, started.transport.get());
    started.call->Start(bytes);
    return started;
  }
  Started Start(const v1::EmbedRequest& request, Time deadline = Time::max()) {
    return Start(request.SerializeAsString(), deadline);
  }
  v1::EmbedResponse Embed(const v1::EmbedRequest& request) {
    Started started = Start(request);
    EXPECT_TRUE(started.transport->Wait());
    EXPECT_FALSE(started.transport->error().has_value()) << started.transport->error()->message;
    return started.transport->response().value_or(v1::EmbedResponse());
  }
  RequestError Refused(const v1::EmbedRequest& request, Time deadline = Time::max()) {
    Started started = Start(request, deadline);
    EXPECT_TRUE(started.transport->Wait());
    EXPECT_TRUE(started.transport->error().has_value());
    return started.transport->error().value_or(RequestError());
  }
  // Fills the query lane behind a hung batch: 1000 tokens are its limit.
  std::vector<Started> FillQueryLane() {
    engine_.SetHang(true);
    std::vector<Started> calls;
    calls.push_back(Start(TextRequest(v1::INPUT_TYPE_QUERY, {"first"})));
    EXPECT_TRUE(engine_.WaitUntilHung());
    v1::EmbedRequest big;  // 1000 tokens
    big.mutable_options()->set_input_type(v1::INPUT_TYPE_QUERY);
    for (uint32_t i = 0; i < 1000; ++i) big.add_inputs()->mutable_token_ids()->add_ids(i);
    calls.push_back(Start(big));
    return calls;
  }

  ServiceContext context_;
  FakeEngine engine_;
};

TEST_F(EmbedCallTest, AnswersEachInputInOrder) {
  const std::vector<std::string> texts = {"one", "two three", "four five six"};
  const v1::EmbedResponse response = Embed(TextRequest(v1::INPUT_TYPE_DOCUMENT, texts));
  ASSERT_EQ(response.vectors_size(), 1);
  EXPECT_EQ(response.vectors(0).type(), v1::DATA_TYPE_FLOAT32);
  EXPECT_EQ(response.vectors(0).dimensions(), static_cast<uint32_t>(kFakeHidden));
  ASSERT_EQ(response.vectors(0).data().size(), 3u * kFakeHidden * 4);
  ASSERT_EQ(response.results_size(), 3);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(Float32Row(response.vectors(0), i), FakeVector(texts[i])) << i;
    EXPECT_EQ(response.results(static_cast<int>(i)).tokens(), i + 3);
    EXPECT_FALSE(response.results(static_cast<int>(i)).truncated());
    EXPECT_FALSE(response.results(static_cast<int>(i)).has_error());
  }
  EXPECT_EQ(response.execution().lane(), "document");
  EXPECT_EQ(response.execution().format(), "a8w8_int8");
  EXPECT_EQ(response.execution().device(), "cpu");
  EXPECT_EQ(response.model(), "fake");
  EXPECT_EQ(response.revision(), "abc123");
}

TEST_F(EmbedCallTest, QueriesGetTheirPromptLaneAndFormat) {
  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_QUERY, {"what"});
  v1::EmbedResponse response = Embed(request);
  EXPECT_EQ(Float32Row(response.vectors(0), 0), FakeVector("query: what"));
  EXPECT_EQ(response.execution().lane(), "query");
  EXPECT_EQ(response.execution().format(), "f32");
  request.mutable_options()->set_prompt_name("");
  EXPECT_EQ(Float32Row(Embed(request).vectors(0), 0), FakeVector("what"));
  request.mutable_options()->set_prompt_name("code");
  EXPECT_EQ(Float32Row(Embed(request).vectors(0), 0), FakeVector("code: what"));
}

TEST_F(EmbedCallTest, TokenIdsAreUsedAsGiven) {
  v1::EmbedRequest request;
  request.mutable_options()->set_input_type(v1::INPUT_TYPE_QUERY);
  for (uint32_t length = 1; length <= 3; ++length) {
    v1::TokenIds* ids = request.add_inputs()->mutable_token_ids();
    for (uint32_t i = 0; i < length; ++i) ids->add_ids(999 - i);
  }
  const v1::EmbedResponse response = Embed(request);
  const auto computed = engine_.computed();
  ASSERT_EQ(computed.size(), 3u);
  EXPECT_EQ(computed[2], (std::vector<int32_t>{999, 998, 997}));
  EXPECT_EQ(response.results(2).tokens(), 3u);
}

TEST_F(EmbedCallTest, OutputTypesDimensionsAndNormalizing) {
  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_DOCUMENT, {"a", "b"});
  v1::EmbedOptions* options = request.mutable_options();
  options->set_dimensions(8);
  options->set_normalize(false);
  for (v1::DataType type : {v1::DATA_TYPE_BINARY, v1::DATA_TYPE_INT8, v1::DATA_TYPE_FLOAT32}) {
    options->add_output_types(type);
  }
  const v1::EmbedResponse response = Embed(request);
  ASSERT_EQ(response.vectors_size(), 3);
  const char* texts[] = {"a", "b"};
  for (size_t i = 0; i < 2; ++i) {
    std::vector<float> expected = FakePooled(FakeIds(texts[i]));
    expected.resize(8);
    EXPECT_EQ(Float32Row(response.vectors(2), i), expected);
    uint8_t int8[8], binary;
    const float scale = EncodeVector(v1::DATA_TYPE_INT8, expected, int8);
    EncodeVector(v1::DATA_TYPE_BINARY, expected, &binary);
    EXPECT_EQ(response.vectors(1).data().substr(8 * i, 8),
              std::string(reinterpret_cast<char*>(int8), 8));
    EXPECT_EQ(response.vectors(1).scales(static_cast<int>(i)), scale);
    EXPECT_EQ(static_cast<uint8_t>(response.vectors(0).data()[i]), binary);
  }
  EXPECT_EQ(response.vectors(0).scales_size(), 0);
  EXPECT_EQ(response.vectors(1).dimensions(), 8u);
}

TEST_F(EmbedCallTest, TruncatesAtTheSideAsked) {
  std::vector<std::string> words;
  for (int i = 0; i < 30; ++i) words.push_back(absl::StrCat("w", i));
  const auto join = [&](int begin, int end) {
    return absl::StrJoin(words.begin() + begin, words.begin() + end, " ");
  };
  v1::EmbedRequest request = TextRequest(v1::INPUT_TYPE_DOCUMENT, {join(0, 30)});
  v1::EmbedResponse response = Embed(request);  // END is the default
  EXPECT_EQ(Float32Row(response.vectors(0), 0), FakeVector(join(0, kFakeMaxTokens - 2)));
  EXPECT_TRUE(response.results(0).truncated());
  EXPECT_EQ(response.results(0).tokens(), static_cast<uint32_t>(kFakeMaxTokens));
  request.mutable_options()->set_truncation(v1::TRUNCATION_START);
  response = Embed(request);
  EXPECT_EQ(Float32Row(response.vectors(0), 0), FakeVector(join(30 - kFakeMaxTokens + 2, 30)));
  request.mutable_options()->set_truncation(v1::TRUNCATION_NONE);
  const RequestError error = Refused(request);
  EXPECT_EQ(error.reason, Reason::kTooManyTokens);
  EXPECT_EQ(error.violations[0].field, "inputs[0].text");
  EXPECT_THAT(error.message, HasSubstr("32 tokens, at most 12"));
}

TEST_F(EmbedCallTest, OneBadInputFailsTheCallAndComputesNothing) {
  const RequestError error =
      Refused(TextRequest(v1::INPUT_TYPE_DOCUMENT, {"good", "", "good", ""}));
  EXPECT_EQ(error.reason, Reason::kTextEmpty);
  ASSERT_EQ(error.violations.size(), 2u);
  EXPECT_EQ(error.violations[0].field, "inputs[1].text");
  EXPECT_EQ(error.violations[1].field, "inputs[3].text");
  EXPECT_EQ(engine_.computed_inputs(), 0);
  EXPECT_EQ(engine_.scheduler().Snapshot(Lane::kDocument, Clock::now()).queue_tokens, 0);
}

TEST_F(EmbedCallTest, MalformedBytesAreInvalidArgument) {
  Started started = Start(std::string("\xFF\xFF\xFF"));
  ASSERT_TRUE(started.transport->Wait());
  EXPECT_EQ(started.transport->error()->reason, Reason::kMessageMalformed);
}

TEST_F(EmbedCallTest, LongTextsAreTokenizedByThePool) {
  const std::string text(5000, 'x');
  EXPECT_EQ(Float32Row(Embed(TextRequest(v1::INPUT_TYPE_DOCUMENT, {text})).vectors(0), 0),
            FakeVector(text));
}

TEST_F(EmbedCallTest, AFullLaneIsResourceExhaustedWithADelay) {
  std::vector<Started> calls = FillQueryLane();
  const RequestError error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"too much"}));
  EXPECT_EQ(error.reason, Reason::kLaneFull);
  ASSERT_TRUE(error.retry_delay.has_value());
  EXPECT_GE(*RetryPushbackMs(error), 1);
  // The other lane has room.
  Started document = Start(TextRequest(v1::INPUT_TYPE_DOCUMENT, {"fine"}));
  engine_.SetHang(false);
  ASSERT_TRUE(document.transport->Wait());
  EXPECT_TRUE(document.transport->response().has_value());
  for (Started& call : calls) {
    ASSERT_TRUE(call.transport->Wait());
    EXPECT_TRUE(call.transport->response().has_value());
  }
}

TEST_F(EmbedCallTest, ADeadlineThatCannotBeMetIsRefusedAtOnce) {
  engine_.SetDelay(std::chrono::milliseconds(50));
  Embed(TextRequest(v1::INPUT_TYPE_QUERY, {"measures the rate: about 100 tokens a second"}));
  engine_.SetHang(true);
  std::vector<Started> calls;
  calls.push_back(Start(TextRequest(v1::INPUT_TYPE_QUERY, {"first"})));
  ASSERT_TRUE(engine_.WaitUntilHung());
  for (int i = 0; i < 10; ++i) {
    calls.push_back(Start(TextRequest(v1::INPUT_TYPE_QUERY, {"six words that wait their turn"})));
  }
  const RequestError error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"hurry"}),
                                     Clock::now() + std::chrono::milliseconds(5));
  EXPECT_EQ(ReasonName(error.reason), "DEADLINE_UNREACHABLE");
  EXPECT_EQ(error.code(), absl::StatusCode::kResourceExhausted);
  engine_.SetHang(false);
  for (Started& call : calls) ASSERT_TRUE(call.transport->Wait());
}

TEST_F(EmbedCallTest, APassedDeadlineCostsNoCompute) {
  const RequestError error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"late"}),
                                     Clock::now() - std::chrono::milliseconds(1));
  EXPECT_EQ(error.reason, Reason::kDeadlineExceeded);
  // Queued, then expired behind a hung batch.
  engine_.SetHang(true);
  Started first = Start(TextRequest(v1::INPUT_TYPE_QUERY, {"first"}));
  ASSERT_TRUE(engine_.WaitUntilHung());
  Started second = Start(TextRequest(v1::INPUT_TYPE_QUERY, {"second"}),
                         Clock::now() + std::chrono::milliseconds(20));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  engine_.SetHang(false);
  ASSERT_TRUE(second.transport->Wait());
  EXPECT_EQ(second.transport->error()->reason, Reason::kDeadlineExceeded);
  ASSERT_TRUE(first.transport->Wait());
  EXPECT_EQ(engine_.computed_inputs(), 1);
}

TEST_F(EmbedCallTest, ACancelledCallCostsNoCompute) {
  engine_.SetHang(true);
  Started first = Start(TextRequest(v1::INPUT_TYPE_QUERY, {"first"}));
  ASSERT_TRUE(engine_.WaitUntilHung());
  std::vector<Started> cancelled;
  for (int i = 0; i < 20; ++i) {
    cancelled.push_back(Start(TextRequest(v1::INPUT_TYPE_QUERY, {"gone"})));
    cancelled.back().call->OnCancel();
    EXPECT_EQ(cancelled.back().transport->finishes(), 1) << "finished at once";
    EXPECT_EQ(cancelled.back().transport->error()->reason, Reason::kCancelled);
  }
  first.call->OnCancel();  // its batch has begun: computed, then dropped
  engine_.SetHang(false);
  const Time limit = Clock::now() + kPatience;
  while (engine_.dropped_jobs() < 20 && Clock::now() < limit) std::this_thread::yield();
  engine_.Stop();
  EXPECT_EQ(engine_.dropped_jobs(), 20);
  EXPECT_EQ(engine_.computed_inputs(), 1);
  for (const Started& call : cancelled) EXPECT_EQ(call.transport->finishes(), 1);
  EXPECT_EQ(first.transport->finishes(), 1);
  EXPECT_THAT(context_.metrics().Text(),
              HasSubstr("octavo_cancelled_total{lane=\"query\",stage=\"queue\"} 20"));
  EXPECT_THAT(context_.metrics().Text(),
              HasSubstr("octavo_cancelled_total{lane=\"query\",stage=\"compute\"} 1"));
  EXPECT_EQ(engine_.scheduler().Snapshot(Lane::kQuery, Clock::now()).queue_tokens, 0);
}

TEST_F(EmbedCallTest, LostDeviceNonfiniteOutputAndDraining) {
  engine_.SetFailing(true);
  EXPECT_EQ(Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"x"})).reason, Reason::kNoDevice);
  engine_.SetFailing(false);
  engine_.SetNonfinite(true);
  RequestError error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"x"}));
  EXPECT_EQ(error.reason, Reason::kInternal);
  EXPECT_EQ(error.code(), absl::StatusCode::kInternal);
  engine_.SetNonfinite(false);
  engine_.SetHealthy(false);
  EXPECT_EQ(Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"x"})).reason, Reason::kNoDevice);
  engine_.SetHealthy(true);
  engine_.SetHang(true);
  Started accepted = Start(TextRequest(v1::INPUT_TYPE_QUERY, {"accepted"}));
  context_.Drain();
  error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"x"}));
  EXPECT_EQ(error.reason, Reason::kDraining);
  EXPECT_EQ(error.code(), absl::StatusCode::kUnavailable);
  engine_.SetHang(false);
  ASSERT_TRUE(accepted.transport->Wait());
  EXPECT_TRUE(accepted.transport->response().has_value()) << "what was accepted is answered";
}

TEST_F(EmbedCallTest, AfterTheSchedulerStoppedCallsAreUnavailable) {
  engine_.scheduler().Stop();
  const RequestError error = Refused(TextRequest(v1::INPUT_TYPE_QUERY, {"x"}));
  EXPECT_EQ(error.reason, Reason::kDraining);
}

TEST(EmbedCallLoading, IsUnavailableUntilTheModelIsThere) {
  ServiceContext context{ServiceOptions()};
  FakeUnaryCall transport;
  std::make_shared<EmbedCall>(&context, &transport)
      ->Start(TextRequest(v1::INPUT_TYPE_QUERY, {"x"}).SerializeAsString());
  ASSERT_TRUE(transport.Wait());
  EXPECT_EQ(transport.error()->reason, Reason::kLoading);
  EXPECT_EQ(transport.error()->code(), absl::StatusCode::kUnavailable);
  std::string info;
  EXPECT_EQ(GetInfo(context, "", &info)->reason, Reason::kLoading);
}

// Threads that call, cancel and scrape at once; every call is finished exactly once.
TEST_F(EmbedCallTest, Stress) {
  std::vector<std::thread> threads;
  std::atomic<int> answered{0}, refused{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<Started> calls;
      for (int i = 0; i < 200; ++i) {
        const v1::InputType type = i % 2 ? v1::INPUT_TYPE_QUERY : v1::INPUT_TYPE_DOCUMENT;
        const std::string text = i % 7 ? absl::StrCat("text ", i) : std::string(3000, 'y');
        calls.push_back(
            Start(TextRequest(type, {text}),
                  i % 11 ? Time::max() : Clock::now() + std::chrono::microseconds(300)));
        if ((i + t) % 5 == 0) calls.back().call->OnCancel();
        if (i % 50 == 0) context_.metrics().Text();
      }
      for (Started& call : calls) {
        ASSERT_TRUE(call.transport->Wait());
        (call.transport->response().has_value() ? answered : refused)++;
      }
      for (Started& call : calls) EXPECT_EQ(call.transport->finishes(), 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answered + refused, 800);
  EXPECT_GT(answered, 300);
  engine_.Stop();
  for (Lane lane : kAllLanes) {
    EXPECT_EQ(engine_.scheduler().Snapshot(lane, Clock::now()).queue_tokens, 0);
  }
  EXPECT_THAT(
      context_.metrics().Text(),
      HasSubstr("octavo_requests_in_flight{method=\"octavo.v1.EmbeddingService/Embed\"} 0"));
}

TEST_F(EmbedCallTest, GetInfoDescribesModelLimitsAndLanes) {
  std::string bytes;
  ASSERT_FALSE(GetInfo(context_, "", &bytes).has_value());
  v1::GetInfoResponse info;
  ASSERT_TRUE(info.ParseFromString(bytes));
  EXPECT_EQ(info.model(), "fake");
  EXPECT_EQ(info.revision(), "abc123");
  EXPECT_EQ(info.architecture(), "FakeModel");
  EXPECT_EQ(info.dimensions(), 16u);
  EXPECT_EQ(info.max_tokens(), 12u);
  EXPECT_EQ(info.pooling(), "mean");
  EXPECT_TRUE(info.normalized());
  EXPECT_THAT(info.prompt_names(), ::testing::ElementsAre("code", "query"));
  EXPECT_THAT(info.devices(), ::testing::ElementsAre("cpu"));
  EXPECT_THAT(info.models(), ::testing::ElementsAre("fake"));
  EXPECT_THAT(info.output_types(), ::testing::ElementsAre(1, 2, 3, 4, 5));
  ASSERT_EQ(info.lanes_size(), 2);
  EXPECT_EQ(info.lanes(0).name(), "query");
  EXPECT_EQ(info.lanes(0).format(), "f32");
  EXPECT_EQ(info.lanes(0).fallback_format(), "");
  EXPECT_EQ(info.lanes(1).max_queue_tokens(), 4000u);
  EXPECT_EQ(info.lanes(1).max_batch_tokens(), 256u);
  EXPECT_EQ(info.lanes(1).method(), "rtn");
  EXPECT_THAT(info.lanes(1).kernels(), ::testing::ElementsAre("fake_a8w8_int8"));
  EXPECT_EQ(info.max_inputs(), 1024u);
  EXPECT_EQ(info.max_text_bytes(), 1u << 20);
  EXPECT_EQ(info.max_message_bytes(), 16u << 20);
  EXPECT_EQ(info.max_response_bytes(), 4u << 20);
  EXPECT_EQ(info.max_stream_tokens(), 65536u);
  EXPECT_EQ(info.version(), "unknown");

  v1::GetInfoRequest request;
  request.set_model("fake");
  EXPECT_FALSE(GetInfo(context_, request.SerializeAsString(), &bytes).has_value());
  request.set_model("other");
  EXPECT_EQ(GetInfo(context_, request.SerializeAsString(), &bytes)->reason, Reason::kModelNotFound);
  EXPECT_EQ(GetInfo(context_, "\x0A\xFF", &bytes)->reason, Reason::kMessageMalformed);
}

}  // namespace
}  // namespace octavo
