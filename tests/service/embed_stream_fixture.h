// A stream over a fake transport and a fake engine, with small budgets.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "service/service_context.h"
#include "tests/service/fake_calls.h"
#include "tests/service/fake_engine.h"

namespace octavo {

inline ServiceOptions SmallOptions() {
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
    context_.metrics().SetModel(FakeModelInfo());
  }

  ~EmbedStreamTest() override { context_.pool().Stop(); }  // before the engine goes

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

}  // namespace octavo
