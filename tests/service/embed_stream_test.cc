// What a stream answers.
#include "service/embed_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "tests/service/embed_stream_fixture.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

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
