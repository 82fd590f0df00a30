// Load on a server of octavo.v1: queries that arrive by a Poisson process whatever the server does,
// and documents as fast as it takes them. Every answer is checked.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/embedding.grpc.pb.h"

namespace octavo::bench {

using ServeClock = std::chrono::steady_clock;

// A connection that shares no socket with another, so that bulk bytes hold no query up in front of
// the server.
std::unique_ptr<octavo::v1::EmbeddingService::Stub> ConnectAlone(const std::string& server);

// The first answer for each text, and whether later ones agree with it. Thread-safe.
class AnswerCheck {
 public:
  explicit AnswerCheck(size_t texts, uint32_t dimensions)
      : dimensions_(dimensions), first_(texts) {}

  // True if row `row` of the answer is finite, has the model's dimensions, and is within a cosine
  // of 0.9999 of the first answer for text `text`.
  bool Agrees(const octavo::v1::EmbedResponse& response, int64_t row, size_t text);

 private:
  const uint32_t dimensions_;
  std::mutex mutex_;
  std::vector<std::vector<float>> first_;
};

struct QueryRun {
  std::vector<double> milliseconds;  // of each query answered, from its scheduled start
  std::vector<double> queue_milliseconds, compute_milliseconds;  // as the server reports them
  std::map<std::string, int64_t> failures;  // by reason, or by code where an error has none
  int64_t scheduled = 0;
  int64_t late = 0;   // sent more than a millisecond after their time: the load generator's fault
  int64_t wrong = 0;  // answers that AnswerCheck refused
  int64_t tokens = 0;
  double seconds = 0;  // from the first scheduled start to the last
};

// Sends one text a call. One run at a time.
class QueryLoad {
 public:
  QueryLoad(const std::string& server, std::vector<std::string> texts, uint32_t dimensions,
            uint32_t seed);
  ~QueryLoad();

  // Open loop: queries start at the times of a Poisson process of `rate` a second, for `seconds`
  // and until there were `least_queries`. Returns once all are answered. A query that is not
  // answered within `limit` of being sent counts as DEADLINE_EXCEEDED.
  QueryRun RunOpenLoop(double rate, double seconds, int64_t least_queries,
                       std::chrono::milliseconds limit);

  // One query after the other, from the first text on; `warm_up` more before that do not count.
  QueryRun RunOneByOne(int64_t queries, int64_t warm_up);

  // Closed loop: `outstanding` queries at a time. Returns queries answered a second.
  double RunClosedLoop(int outstanding, double seconds);

 private:
  struct Call;
  void Send(ServeClock::time_point scheduled, std::chrono::milliseconds limit);
  // Takes one answer off the queue.
  void Receive(QueryRun* run);

  const std::vector<std::string> texts_;
  AnswerCheck check_;
  const uint32_t seed_;
  std::unique_ptr<octavo::v1::EmbeddingService::Stub> stub_;
  grpc::CompletionQueue queue_;
  size_t next_text_ = 0;
};

// Streams documents, as many messages in flight as given, until it is destroyed.
class DocumentLoad {
 public:
  struct Options {
    int inputs_per_message = 32;
    int messages_in_flight = 64;
  };
  struct Count {
    int64_t documents = 0;
    int64_t tokens = 0;
    int64_t wrong = 0;
  };

  DocumentLoad(const std::string& server, std::vector<std::string> texts, uint32_t dimensions,
               Options options);
  ~DocumentLoad();

  // Answered so far. Any thread.
  Count count() const;
  // OK while the stream lasts. Any thread.
  absl::Status status() const;

 private:
  using Stream =
      grpc::ClientReaderWriter<octavo::v1::EmbedStreamRequest, octavo::v1::EmbedStreamResponse>;
  void Write();
  void Read();

  const std::vector<std::string> texts_;
  const Options options_;
  AnswerCheck check_;
  std::unique_ptr<octavo::v1::EmbeddingService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t sent_ = 0, answered_ = 0;
  bool stopping_ = false;
  Count count_;
  absl::Status status_;
  std::thread writer_, reader_;
};

}  // namespace octavo::bench
