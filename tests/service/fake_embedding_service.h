// An EmbeddingService that computes nothing: vectors are made from the bytes of a text, and it
// misbehaves on demand. For tests of clients.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "octavo/v1/embedding.grpc.pb.h"

namespace octavo::testing {

inline constexpr int kFakeDimensions = 8;

// The vector of length 1 the service answers for a text. Equal texts have equal vectors.
std::vector<float> FakeVector(const std::string& text, int dimensions = kFakeDimensions);

// How the service misbehaves. Set before the calls it applies to.
struct FakeBehaviour {
  std::string model = "fake-model";
  std::string revision = "revision-1";
  std::string format = "a8w8_int8";
  uint64_t max_text_bytes = 1000;
  uint32_t max_inputs = 64;
  // Unary calls.
  int stall_call = -1;  // this call, from 0, and all behind it wait
  int stall_milliseconds = 0;
  int call_microseconds = 0;  // of every call, one at a time
  int refuse_calls = 0;       // the first so many are RESOURCE_EXHAUSTED
  bool drift = false;         // the same text gets another vector every time
  // Streams. Message counts are over all streams.
  int unavailable_after = -1;          // the stream that takes this many messages ends, once
  int forever_unavailable_after = -1;  // so does every stream from then on
  int busy_messages = 0;               // the first so many answers are RESOURCE_EXHAUSTED
  int change_revision_after = -1;      // answers
  int change_format_after = -1;        // answers
  bool answer_twice = false;
  bool end_without_answers = false;
  bool silent = false;  // takes messages and answers none
  bool not_finite = false;
  int max_message_inputs = 1 << 20;  // larger messages are refused whole
  std::string poison;                // a text containing it fails its message with INVALID_ARGUMENT
  std::string bad_input;             // a text containing it fails alone
};

class FakeEmbeddingService final : public octavo::v1::EmbeddingService::Service {
 public:
  FakeBehaviour behaviour;

  // Seen so far.
  std::atomic<int> streams{0};
  std::atomic<int> messages{0};
  std::atomic<int> answers{0};
  std::atomic<int> calls{0};
  std::atomic<int> most_unanswered{0};

  grpc::Status Embed(grpc::ServerContext* context, const octavo::v1::EmbedRequest* request,
                     octavo::v1::EmbedResponse* response) override;
  grpc::Status EmbedStream(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<octavo::v1::EmbedStreamResponse, octavo::v1::EmbedStreamRequest>*
          stream) override;
  grpc::Status GetInfo(grpc::ServerContext* context, const octavo::v1::GetInfoRequest* request,
                       octavo::v1::GetInfoResponse* response) override;

 private:
  std::mutex stall_mutex_;
  grpc::Status Check(const octavo::v1::EmbedRequest& request) const;
  void Answer(const octavo::v1::EmbedRequest& request, octavo::v1::EmbedResponse* response) const;
  octavo::v1::EmbedStreamResponse AnswerMessage(const octavo::v1::EmbedStreamRequest& message);
};

// The service on a port of its own.
class FakeServer {
 public:
  FakeServer();
  ~FakeServer();
  FakeEmbeddingService service;
  std::string address() const;

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace octavo::testing
