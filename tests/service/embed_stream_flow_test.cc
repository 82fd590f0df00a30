// What a stream holds back, drops and leaves behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <thread>
#include <vector>

#include "service/embed_call.h"
#include "service/embed_stream.h"
#include "tests/service/embed_stream_fixture.h"

namespace octavo {
namespace {

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

}  // namespace
}  // namespace octavo
