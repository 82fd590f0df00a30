// The life of one EmbedStream, apart from gRPC: every id read is answered exactly once, in any
// order, while reading is held back by what is in flight.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>

#include "service/embed_work.h"
#include "service/errors.h"
#include "service/service_context.h"

namespace octavo {

// The transport's side of a stream. Called by one thread at a time, never after End.
class StreamCall {
 public:
  virtual ~StreamCall() = default;
  virtual Time deadline() const = 0;
  // One at a time: answered by OnRead, even after End.
  virtual void Read() = 0;
  // One at a time: answered by OnWritten when the transport has taken the bytes.
  virtual void Write(std::string response) = 0;
  // Breaks the stream: OnCancel follows.
  virtual void Cancel() = 0;
  // Once, never while a write is under way. Unset: OK. The object may be gone when it returns.
  virtual void End(const std::optional<RequestError>& error) = 0;
};

// Thread-safe.
class EmbedStream : public std::enable_shared_from_this<EmbedStream> {
 public:
  // `context` and, until it has been finished, `call` outlive this.
  EmbedStream(ServiceContext* context, StreamCall* call);

  void Start();
  // A message, or nothing more: half-closed or broken.
  void OnRead(std::optional<std::string_view> bytes);
  void OnWritten(bool ok);
  void OnCancel();

  // Reads no more; ends UNAVAILABLE, reason DRAINING, when everything taken has been answered.
  void Drain();
  // Cancels the stream if a write has been under way for longer than the limit.
  void CheckWriteTimeout(Time now);

 private:
  struct Message;
  using MessagePtr = std::shared_ptr<Message>;
  struct Answer {
    MessagePtr message;
    std::string bytes;
    absl::StatusCode code = absl::StatusCode::kOk;
  };
  // What a message that is read but not admitted waits for.
  enum class Hold : uint8_t { kBudget, kAsking, kLane, kCancelling };
  struct Actions;
  using Lock = std::unique_lock<std::mutex>;

  // Performs whatever the state allows, one thread at a time, without the lock.
  void Pump(Lock* lock);
  Actions Decide();
  bool DecideEnd(Actions* actions);
  void Perform(Actions actions);
  bool HasRoomToRead() const;
  bool FitsBudget(const Message& message) const;

  void Take(const MessagePtr& message, const std::optional<RequestError>& parse_error);
  void AskLane(const MessagePtr& message);
  void Admitted(const MessagePtr& message);
  void Tokenize(const MessagePtr& message);
  void OnJobDone(const MessagePtr& message, const Job& job);

  void PushError(const MessagePtr& message, const RequestError& error);
  void PushResponse(const MessagePtr& message, const Job* job);
  void Charge(Message* message, int64_t tokens, int64_t response_bytes);
  // Ends a message that will not be answered: the stream is broken.
  void Forget(const MessagePtr& message, std::optional<Stage> stage);
  void EndMessage(const MessagePtr& message, absl::StatusCode code);

  ServiceContext* const context_;
  StreamCall* const call_;
  const Time began_;
  const Time deadline_;

  std::mutex mutex_;
  bool reading_ = false;
  bool read_closed_ = false;
  bool draining_ = false;
  bool cancelled_ = false;
  bool write_timed_out_ = false;
  bool transport_cancelled_ = false;
  bool finished_ = false;
  bool pumping_ = false;
  std::optional<RequestError> end_error_;

  MessagePtr held_;
  Hold hold_ = Hold::kBudget;
  uint64_t ticket_ = 0;
  std::unordered_set<MessagePtr> accepted_;  // admitted, not yet in the outbox
  std::deque<Answer> outbox_;
  std::optional<Answer> writing_;  // its bytes are with the transport
  Time writing_since_{};

  // Of messages accepted and not yet written.
  int64_t messages_ = 0;
  int64_t tokens_[kLanes] = {};
  int64_t response_bytes_ = 0;
};

}  // namespace octavo
