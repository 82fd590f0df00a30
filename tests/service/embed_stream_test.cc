#include "service/embed_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

ServiceOptions SmallOptions() {
  ServiceOptions options;
  options.max_stream_tokens = 100;
  options.query_stream_share = 0.05;  // of 1000
  options.write_timeout = std::chrono::milliseconds(200);
  return options;
}

class EmbedStreamTest : public ::testing::Test {
 protected:
  EmbedStreamTest() : context_(SmallOptions()), engine_(FakeModelInfo(), &context_.metrics()) {
    context_.SetModel(engine_.Serve());
    context_.metrics().SetModel(FakeModelInfo(), 0);
  }

  v1::EmbedStreamRequest Document(uint64_t id, const std::vector<std::string>& texts) {
    return StreamRequest(id, TextRequest(v1::INPUT_TYPE_DOCUMENT, texts));
  }
  // A message of `tokens` tokens, exactly.
  v1::EmbedStreamRequest Tokens(uint64_t id, v1::InputType type, int tokens) {
    v1::EmbedRequest request;
    request.mutable_options()->set_input_type(type);
    while (tokens > 0) {
      v1::TokenIds* ids = request.add_inputs()->mutable_token_ids();
      for (int i = 0; i < 10 && tokens > 0; ++i, --tokens) ids->add_ids(5);
    }
    return StreamRequest(id, request);
  }
  bool MetricsSoonSay(const std::string& line) {
    const Time limit = Clock::now() + kPatience;
    while (Clock::now() < limit) {
      if (context_.metrics().Text().find(line + "\n") != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return false;
  }
  // No answer is owed any more, nothing is reserved.
  void ExpectIdle() {
    EXPECT_TRUE(MetricsSoonSay(
        "octavo_requests_in_flight{method=\"octavo.v1.EmbeddingService/EmbedStream\"} 0"));
    EXPECT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 0"));
    EXPECT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"query\"} 0"));
    EXPECT_TRUE(MetricsSoonSay(
        "octavo_streams_active{method=\"octavo.v1.EmbeddingService/EmbedStream\"} 0"));
    EXPECT_EQ(context_.streams().size(), 0u);
    engine_.Stop();
    for (Lane lane : kAllLanes) {
      EXPECT_EQ(engine_.scheduler().Snapshot(lane, Clock::now()).queue_tokens, 0);
    }
  }

  ServiceContext context_;
  FakeEngine engine_;
};

TEST_F(EmbedStreamTest, EveryIdIsAnsweredOnceThenOk) {
  FakeStreamCall call(&context_);
  call.Start();
  std::map<uint64_t, std::string> texts;
  for (uint64_t i = 0; i < 300; ++i) {
    const uint64_t id = i * 7919 + (i % 3 ? 0 : 1ull << 60);
    texts[id] = absl::StrCat("text ", i);
    call.Send(Document(id, {texts[id]}));
  }
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value()) << call.status()->message;
  EXPECT_EQ(call.responses().size(), 300u);
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    ASSERT_TRUE(response.has_response());
    EXPECT_EQ(Float32Row(response.response().vectors(0), 0), FakeVector(texts.at(response.id())));
    texts.erase(response.id());
  }
  EXPECT_TRUE(texts.empty());
  EXPECT_EQ(call.ends(), 1);
  EXPECT_FALSE(call.violated());
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AnEmptyStreamIsOk) {
  FakeStreamCall call(&context_);
  call.Start();
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  ExpectIdle();
}

TEST_F(EmbedStreamTest, BadInputsHaveErrorsAndZeroRowsWhileOthersStand) {
  FakeStreamCall call(&context_);
  call.Start();
  v1::EmbedStreamRequest request = Document(5, {"good", "", "one two three", "also good"});
  request.mutable_request()->add_inputs()->mutable_token_ids()->add_ids(kFakeVocabulary);
  std::string long_text;
  for (int i = 0; i < 20; ++i) absl::StrAppend(&long_text, "w", i, " ");
  request.mutable_request()->add_inputs()->set_text(long_text);
  request.mutable_request()->mutable_options()->set_truncation(v1::TRUNCATION_NONE);
  request.mutable_request()->mutable_options()->add_output_types(v1::DATA_TYPE_FLOAT32);
  request.mutable_request()->mutable_options()->add_output_types(v1::DATA_TYPE_INT8);
  call.Send(request);
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  ASSERT_EQ(call.responses().size(), 1u);
  const v1::EmbedResponse response = call.responses()[0].response();
  ASSERT_EQ(response.results_size(), 6);
  const std::vector<float> zeros(kFakeHidden, 0.0f);
  const std::map<int, std::string> good = {{0, "good"}, {2, "one two three"}, {3, "also good"}};
  const std::map<int, std::string> bad = {
      {1, "TEXT_EMPTY"}, {4, "TOKEN_ID_OUT_OF_RANGE"}, {5, "TOO_MANY_TOKENS"}};
  for (const auto& [i, text] : good) {
    EXPECT_FALSE(response.results(i).has_error());
    EXPECT_EQ(Float32Row(response.vectors(0), static_cast<size_t>(i)), FakeVector(text));
    EXPECT_GT(response.vectors(1).scales(i), 0);
  }
  for (const auto& [i, reason] : bad) {
    EXPECT_EQ(response.results(i).error().reason(), reason);
    EXPECT_EQ(response.results(i).error().code(), 3);
    EXPECT_THAT(response.results(i).error().message(), HasSubstr(absl::StrCat("inputs[", i, "]")));
    EXPECT_EQ(response.results(i).tokens(), 0u);
    EXPECT_EQ(Float32Row(response.vectors(0), static_cast<size_t>(i)), zeros);
    EXPECT_EQ(response.vectors(1).scales(i), 0);
  }
  ExpectIdle();
}

TEST_F(EmbedStreamTest, WithoutAGoodInputNothingIsComputed) {
  FakeStreamCall call(&context_);
  call.Start();
  call.Send(Document(1, {"", ""}));  // known before tokenizing
  std::string long_text;
  for (int i = 0; i < 20; ++i) absl::StrAppend(&long_text, "w", i, " ");
  v1::EmbedStreamRequest too_long = Document(2, {long_text});  // known after
  too_long.mutable_request()->mutable_options()->set_truncation(v1::TRUNCATION_NONE);
  call.Send(too_long);
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  ASSERT_EQ(call.responses().size(), 2u);
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    ASSERT_TRUE(response.has_response());
    EXPECT_TRUE(response.response().results(0).has_error());
    EXPECT_EQ(Float32Row(response.response().vectors(0), 0), std::vector<float>(kFakeHidden));
    EXPECT_EQ(response.response().execution().lane(), "document");
  }
  EXPECT_EQ(engine_.computed_inputs(), 0);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, ABadRequestIsAnErrorForItsIdAlone) {
  FakeStreamCall call(&context_);
  call.Start();
  v1::EmbedStreamRequest bad = Document(1, {"x"});
  bad.mutable_request()->mutable_options()->set_dimensions(4000);
  call.Send(bad);
  bad = Document(2, {"x"});
  bad.mutable_request()->set_model("other");
  call.Send(bad);
  bad = Document(3, {"x"});
  bad.mutable_request()->mutable_options()->clear_input_type();
  call.Send(bad);
  call.Send(Document(4, std::vector<std::string>(2000, "too many")));
  v1::EmbedStreamRequest missing;
  missing.set_id(5);
  call.Send(missing);
  call.Send(Document(6, {"good"}));
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  std::map<uint64_t, std::string> reasons;
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    EXPECT_TRUE(reasons.emplace(response.id(), response.error().reason()).second);
  }
  const std::map<uint64_t, std::string> expected = {
      {1, "DIMENSIONS_INVALID"}, {2, "MODEL_NOT_FOUND"},    {3, "INPUT_TYPE_INVALID"},
      {4, "TOO_MANY_INPUTS"},    {5, "INPUT_TYPE_INVALID"}, {6, ""}};
  EXPECT_EQ(reasons, expected);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AMalformedMessageEndsTheStreamAfterAllAnswers) {
  for (const std::string& bytes :
       {std::string("\xFF\x01"), std::string("\x12\x06\x0A\x04\x0A\x02\xC3\x28", 8)}) {
    engine_.SetHang(true);
    FakeStreamCall call(&context_);
    call.Start();
    call.Send(Document(1, {"first"}));
    ASSERT_TRUE(engine_.WaitUntilHung());
    call.Send(Document(2, {"second"}));
    call.SendBytes(bytes);
    call.Send(Document(3, {"never read"}));
    ASSERT_TRUE(call.WaitFor([&] { return call.reads() == 3; }));
    EXPECT_FALSE(call.ended());
    engine_.SetHang(false);
    ASSERT_TRUE(call.WaitForEnd());
    ASSERT_TRUE(call.status().has_value());
    EXPECT_EQ(call.status()->code(), absl::StatusCode::kInvalidArgument);
    std::set<uint64_t> ids;
    for (const v1::EmbedStreamResponse& response : call.responses()) ids.insert(response.id());
    EXPECT_EQ(ids, (std::set<uint64_t>{1, 2}));
    EXPECT_EQ(call.unread(), 1u);
    EXPECT_FALSE(call.violated());
  }
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AFullLaneStopsReadingAndErrorsNothing) {
  engine_.SetHang(true);
  // Other streams fill the document lane: 4000 tokens.
  std::vector<std::unique_ptr<FakeStreamCall>> fillers;
  uint64_t id = 0;
  for (int i = 0; i < 41; ++i) {
    fillers.push_back(std::make_unique<FakeStreamCall>(&context_));
    fillers.back()->Start();
    fillers.back()->Send(Tokens(++id, v1::INPUT_TYPE_DOCUMENT, 100));
    fillers.back()->HalfClose();
    ASSERT_TRUE(fillers.back()->WaitFor([&] { return fillers.back()->reads() == 1; }));
    if (i == 0) {
      ASSERT_TRUE(engine_.WaitUntilHung());
    }
  }
  ASSERT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 4100"));
  context_.metrics().SampleQueues(&engine_.scheduler());

  FakeStreamCall call(&context_);
  call.Start();
  for (uint64_t i = 0; i < 5; ++i) call.Send(Tokens(1000 + i, v1::INPUT_TYPE_DOCUMENT, 20));
  call.HalfClose();
  ASSERT_TRUE(call.WaitFor([&] { return call.reads() == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(call.reads(), 1u) << "read on while its message waits for the lane";
  EXPECT_EQ(call.unread(), 4u);
  EXPECT_TRUE(call.responses().empty());
  // Queries are not touched by a full document lane.
  FakeUnaryCall query;
  std::make_shared<EmbedCall>(&context_, &query)
      ->Start(TextRequest(v1::INPUT_TYPE_QUERY, {"q"}).SerializeAsString());
  engine_.SetHang(false);
  ASSERT_TRUE(query.Wait());
  EXPECT_TRUE(query.response().has_value());
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  EXPECT_EQ(call.responses().size(), 5u);
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    EXPECT_TRUE(response.has_response()) << response.error().message();
  }
  for (auto& filler : fillers) {
    ASSERT_TRUE(filler->WaitForEnd());
    EXPECT_EQ(filler->responses().size(), 1u);
  }
  context_.metrics().SampleQueues(nullptr);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, TokensInFlightAreBoundedAndReleasedWhenWritten) {
  FakeStreamCall call(&context_);
  call.SetStopReading(true);
  call.Start();
  for (uint64_t i = 0; i < 10; ++i) call.Send(Tokens(i, v1::INPUT_TYPE_DOCUMENT, 40));
  call.HalfClose();
  // 40 + 40 fit into 100; the third is read and held; all are computed, none is written.
  ASSERT_TRUE(MetricsSoonSay("octavo_inputs_total{format=\"a8w8_int8\",lane=\"document\"} 8"));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(call.reads(), 3u);
  EXPECT_EQ(engine_.computed_inputs(), 8);
  EXPECT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 80"));
  call.SetStopReading(false);
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  EXPECT_EQ(call.responses().size(), 10u);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, QueriesOfAStreamUseAShareOfTheirLane) {
  engine_.SetHang(true);
  FakeStreamCall call(&context_);
  call.Start();
  // The share is 50 tokens.
  for (uint64_t i = 0; i < 6; ++i) call.Send(Tokens(i, v1::INPUT_TYPE_QUERY, 20));
  call.HalfClose();
  ASSERT_TRUE(call.WaitFor([&] { return call.reads() == 3; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(call.reads(), 3u);
  EXPECT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"query\"} 40"));
  engine_.SetHang(false);
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_EQ(call.responses().size(), 6u);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AMessageLargerThanTheBudgetGoesAlone) {
  FakeStreamCall call(&context_);
  call.Start();
  call.Send(Tokens(1, v1::INPUT_TYPE_DOCUMENT, 500));
  call.Send(Tokens(2, v1::INPUT_TYPE_QUERY, 200));
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_EQ(call.responses().size(), 2u);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, ManyAnswersWithoutTokensAreBoundedToo) {
  FakeStreamCall call(&context_);
  call.SetStopReading(true);
  call.Start();
  for (uint64_t i = 0; i < 3000; ++i) call.Send(Document(i, {}));
  call.HalfClose();
  ASSERT_TRUE(call.WaitFor([&] { return call.reads() >= 1024; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(call.reads(), 1025u);
  call.SetStopReading(false);
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_EQ(call.responses().size(), 3000u);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AStreamThatIsNotReadIsCancelled) {
  FakeStreamCall call(&context_);
  call.SetStopReading(true);
  call.Start();
  call.Send(Document(1, {"x"}));
  call.Send(Document(2, {"x"}));
  ASSERT_TRUE(MetricsSoonSay("octavo_inputs_total{format=\"a8w8_int8\",lane=\"document\"} 2"));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  context_.streams().CheckWriteTimeouts(Clock::now());
  EXPECT_FALSE(call.transport_cancelled());
  context_.streams().CheckWriteTimeouts(Clock::now() + std::chrono::milliseconds(250));
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_TRUE(call.transport_cancelled());
  EXPECT_EQ(call.status()->code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(call.violated());
  ExpectIdle();
}

TEST_F(EmbedStreamTest, CancellingDropsWhatHasNotBegun) {
  engine_.SetHang(true);
  FakeStreamCall call(&context_);
  call.Start();
  call.Send(Document(0, {"begun"}));
  ASSERT_TRUE(engine_.WaitUntilHung());
  for (uint64_t i = 1; i <= 5; ++i) call.Send(Tokens(i, v1::INPUT_TYPE_DOCUMENT, 20));
  ASSERT_TRUE(call.WaitFor([&] { return call.reads() >= 5; }));
  call.Disconnect();
  ASSERT_TRUE(call.WaitForEnd());  // though the engine still hangs
  EXPECT_TRUE(call.responses().empty());
  engine_.SetHang(false);
  ExpectIdle();
  EXPECT_EQ(engine_.computed_inputs(), 1);
  EXPECT_FALSE(call.violated());
}

TEST_F(EmbedStreamTest, CancellingAWaitForTheLaneLeavesNoTrace) {
  engine_.SetHang(true);
  FakeStreamCall filler(&context_);
  filler.Start();
  filler.Send(Document(0, {"begun"}));
  ASSERT_TRUE(engine_.WaitUntilHung());
  filler.Send(Tokens(1, v1::INPUT_TYPE_DOCUMENT, 4000));
  ASSERT_TRUE(filler.WaitFor([&] { return filler.reads() == 2; }));
  // Held by its budget until the first is written: fill the lane by another stream.
  FakeStreamCall other(&context_);
  other.Start();
  other.Send(Tokens(1, v1::INPUT_TYPE_DOCUMENT, 3990));
  ASSERT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 3993"));
  FakeStreamCall call(&context_);
  call.Start();
  call.Send(Tokens(7, v1::INPUT_TYPE_DOCUMENT, 50));
  ASSERT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 4043"));
  call.Disconnect();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_TRUE(MetricsSoonSay("octavo_stream_tokens_in_flight{lane=\"document\"} 3993"));
  engine_.SetHang(false);
  filler.HalfClose();
  other.HalfClose();
  ASSERT_TRUE(filler.WaitForEnd());
  ASSERT_TRUE(other.WaitForEnd());
  EXPECT_EQ(filler.responses().size(), 2u);
  EXPECT_EQ(other.responses().size(), 1u);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, DrainingAnswersWhatWasTakenThenEndsUnavailable) {
  engine_.SetHang(true);
  FakeStreamCall call(&context_);
  FakeStreamCall idle(&context_);
  FakeStreamCall closed(&context_);
  for (FakeStreamCall* stream : {&call, &idle, &closed}) stream->Start();
  call.Send(Document(1, {"first"}));
  ASSERT_TRUE(engine_.WaitUntilHung());
  // The second waits for the stream's budget when the drain begins, and is still answered.
  call.Send(Tokens(2, v1::INPUT_TYPE_DOCUMENT, 99));
  ASSERT_TRUE(call.WaitFor([&] { return call.reads() == 2; }));
  closed.Send(Document(9, {"half-closed before"}));
  closed.HalfClose();
  ASSERT_TRUE(closed.WaitFor([&] { return closed.reads() == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  context_.Drain();
  ASSERT_TRUE(idle.WaitForEnd());
  EXPECT_EQ(idle.status()->reason, Reason::kDraining);
  EXPECT_FALSE(call.ended());
  call.Send(Document(3, {"after"}));
  engine_.SetHang(false);
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_EQ(call.status()->reason, Reason::kDraining);
  EXPECT_EQ(call.status()->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(call.responses().size(), 2u);
  ASSERT_TRUE(closed.WaitForEnd());
  EXPECT_FALSE(closed.status().has_value()) << "everything was answered: OK";
  FakeStreamCall late(&context_);
  late.Start();
  ASSERT_TRUE(late.WaitForEnd());
  EXPECT_EQ(late.status()->reason, Reason::kDraining);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, AfterTheSchedulerStoppedMessagesAreAnsweredUnavailable) {
  FakeStreamCall call(&context_);
  call.Start();
  engine_.scheduler().Stop();
  call.Send(Document(1, {"x"}));
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  ASSERT_EQ(call.responses().size(), 1u);
  EXPECT_EQ(call.responses()[0].error().code(), 14);
  ExpectIdle();
}

TEST_F(EmbedStreamTest, ALostDeviceIsAnErrorForEachId) {
  engine_.SetFailing(true);
  FakeStreamCall call(&context_);
  call.Start();
  for (uint64_t i = 0; i < 20; ++i) call.Send(Document(i, {"x"}));
  call.HalfClose();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_FALSE(call.status().has_value());
  EXPECT_EQ(call.responses().size(), 20u);
  for (const v1::EmbedStreamResponse& response : call.responses()) {
    EXPECT_EQ(response.error().reason(), "NO_DEVICE");
  }
  ExpectIdle();
}

TEST(EmbedStreamLoading, EndsUnavailable) {
  ServiceContext context{ServiceOptions()};
  FakeStreamCall call(&context);
  call.Start();
  ASSERT_TRUE(call.WaitForEnd());
  EXPECT_EQ(call.status()->reason, Reason::kLoading);
  EXPECT_EQ(call.reads(), 0u);
}

// Streams that end every way there is, at once.
TEST_F(EmbedStreamTest, Stress) {
  std::vector<std::thread> threads;
  std::atomic<int> whole{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 0; round < 12; ++round) {
        FakeStreamCall call(&context_);
        call.Start();
        for (uint64_t i = 0; i < 40; ++i) {
          call.Send(i % 9 == 0 ? Document(i, {""})
                               : Tokens(i, i % 4 ? v1::INPUT_TYPE_DOCUMENT : v1::INPUT_TYPE_QUERY,
                                        1 + static_cast<int>(i * 13 % 60)));
        }
        const int kind = (round + t) % 4;
        if (kind == 1) call.SendBytes("\xFF");
        if (kind == 2) std::this_thread::sleep_for(std::chrono::microseconds(500 * round));
        if (kind == 2) call.Disconnect();
        call.HalfClose();
        ASSERT_TRUE(call.WaitForEnd());
        EXPECT_FALSE(call.violated());
        EXPECT_EQ(call.ends(), 1);
        std::set<uint64_t> ids;
        for (const auto& response : call.responses()) EXPECT_TRUE(ids.insert(response.id()).second);
        if (kind != 2) {
          EXPECT_EQ(ids.size(), 40u);
          ++whole;
        }
        if (kind == 1) {
          EXPECT_EQ(call.status()->code(), absl::StatusCode::kInvalidArgument);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(whole, 36);
  ExpectIdle();
}

}  // namespace
}  // namespace octavo
