#include "service/client/bulk.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/client/vectors.h"

namespace octavo::client {
namespace {

using octavo::v1::EmbedStreamRequest;
using octavo::v1::EmbedStreamResponse;
using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;
using ClientStream = grpc::ClientReaderWriter<EmbedStreamRequest, EmbedStreamResponse>;

constexpr Milliseconds kInterruptInterval(100);

// A full lane says when to come back; a message that is too large does not.
bool WorthRetrying(const octavo::v1::Error& error) {
  return error.code() == grpc::StatusCode::UNAVAILABLE ||
         (error.code() == grpc::StatusCode::RESOURCE_EXHAUSTED && error.has_retry_delay());
}

// Codes that would meet every other message as well.
bool EndsTheRun(int code) {
  return code == grpc::StatusCode::FAILED_PRECONDITION || code == grpc::StatusCode::NOT_FOUND ||
         code == grpc::StatusCode::UNIMPLEMENTED || code == grpc::StatusCode::UNAUTHENTICATED ||
         code == grpc::StatusCode::PERMISSION_DENIED;
}

Milliseconds RetryDelay(const octavo::v1::Error& error) {
  const auto& delay = error.retry_delay();
  return Milliseconds(delay.seconds() * 1000 + delay.nanos() / 1000000);
}

struct Message {
  std::vector<Document> documents;
  int64_t first = 0;  // place of documents[0] among all
  Clock::time_point not_before{};
};

// The state shared by the thread that writes and the thread that reads. The stream itself is
// started again as often as need be.
class BulkRun {
 public:
  BulkRun(const Connection& connection, const BulkOptions& options,
          const std::function<absl::StatusOr<std::optional<Document>>()>& next,
          const std::function<absl::Status(BulkOutcome)>& finished)
      : connection_(connection), options_(options), next_(next), finished_(finished) {
    result_.revision = options.revision;
    result_.format = options.format;
  }

  absl::StatusOr<BulkResult> Run();

 private:
  enum class Turn { kSend, kAllAnswered, kStreamEnded, kFailed };

  grpc::Status RunStream();
  void WriteMessages(ClientStream& stream, grpc::ClientContext& context);
  Turn NextToSend(uint64_t* id, EmbedStreamRequest* request);
  bool FillMessage(std::unique_lock<std::mutex>& lock);
  void Describe(uint64_t id, const Message& message, EmbedStreamRequest* request) const;

  absl::Status Take(const EmbedStreamResponse& answer);
  absl::Status TakeVectors(Message message, const octavo::v1::EmbedResponse& response);
  absl::Status TakeError(Message message, const octavo::v1::Error& error);
  absl::Status CheckSameModel(const octavo::v1::EmbedResponse& response);
  absl::Status Finish(int64_t place, BulkOutcome outcome);
  void Fail(absl::Status status);

  bool Interrupted() const { return options_.interrupted && options_.interrupted->load(); }
  int64_t window() const {
    return int64_t{4} * options_.messages_in_flight * options_.inputs_per_message;
  }

  const Connection& connection_;
  const BulkOptions& options_;
  const std::function<absl::StatusOr<std::optional<Document>>()>& next_;
  const std::function<absl::Status(BulkOutcome)>& finished_;

  // Owned by the reading thread.
  BulkResult result_;
  std::map<int64_t, BulkOutcome> early_;  // answered before a document that comes first

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Message> unanswered_;
  std::deque<uint64_t> to_send_;  // ids in unanswered_ that are not on the stream
  std::optional<Document> held_;  // read, but too much for the last message
  uint64_t next_id_ = 1;
  int64_t taken_ = 0;     // documents from next_
  int64_t in_order_ = 0;  // documents given to finished_
  bool exhausted_ = false;
  bool stream_ended_ = false;
  Clock::time_point last_answer_ = Clock::now();
  absl::Status failure_;
};

void BulkRun::Fail(absl::Status status) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (failure_.ok()) failure_ = std::move(status);
}

void BulkRun::Describe(uint64_t id, const Message& message, EmbedStreamRequest* request) const {
  request->Clear();
  request->set_id(id);
  octavo::v1::EmbedRequest* embed = request->mutable_request();
  embed->set_model(connection_.options().model);
  embed->set_revision(options_.revision);
  octavo::v1::EmbedOptions* options = embed->mutable_options();
  options->set_input_type(octavo::v1::INPUT_TYPE_DOCUMENT);
  options->set_dimensions(options_.dimensions);
  options->set_normalize(true);  // scores are cosines
  for (const Document& document : message.documents) {
    embed->add_inputs()->set_text(document.EmbeddedText());
  }
}

// Reads documents into a new message at the end of to_send_. False if there were none or reading
// failed. The lock is released while `next_` runs.
bool BulkRun::FillMessage(std::unique_lock<std::mutex>& lock) {
  Message message;
  message.first = taken_;
  int64_t bytes = 0;
  std::optional<Document> held = std::move(held_);
  held_.reset();
  lock.unlock();
  absl::Status status;
  bool end = false;
  while (static_cast<int>(message.documents.size()) < options_.inputs_per_message) {
    if (!held) {
      absl::StatusOr<std::optional<Document>> document = next_();
      if (!document.ok()) {
        status = document.status();
        break;
      }
      held = *std::move(document);
      if (!held) {
        end = true;
        break;
      }
    }
    const int64_t size = static_cast<int64_t>(held->title.size() + held->text.size() + 8);
    if (!message.documents.empty() && bytes + size > options_.message_bytes) break;
    bytes += size;
    message.documents.push_back(*std::move(held));
    held.reset();
  }
  lock.lock();
  held_ = std::move(held);
  exhausted_ = exhausted_ || end;
  if (!status.ok()) {
    if (failure_.ok()) failure_ = status;
    return false;
  }
  if (message.documents.empty()) return false;
  taken_ += static_cast<int64_t>(message.documents.size());
  to_send_.push_back(next_id_);
  unanswered_.emplace(next_id_++, std::move(message));
  return true;
}

// Waits for something to send and describes it.
BulkRun::Turn BulkRun::NextToSend(uint64_t* id, EmbedStreamRequest* request) {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    if (stream_ended_) return Turn::kStreamEnded;
    if (failure_.ok() && Interrupted()) failure_ = absl::CancelledError("interrupted");
    if (!failure_.ok()) return Turn::kFailed;
    const auto now = Clock::now();
    Clock::time_point wake = Clock::time_point::max();
    for (auto place = to_send_.begin(); place != to_send_.end(); ++place) {
      const Message& message = unanswered_.at(*place);
      if (message.not_before <= now) {
        *id = *place;
        to_send_.erase(place);
        Describe(*id, message, request);
        return Turn::kSend;
      }
      wake = std::min(wake, message.not_before);
    }
    const bool room = static_cast<int>(unanswered_.size()) < options_.messages_in_flight &&
                      taken_ - in_order_ < window();
    if (!exhausted_ && room) {
      FillMessage(lock);
      continue;
    }
    if (exhausted_ && unanswered_.empty()) return Turn::kAllAnswered;
    changed_.wait_until(lock, std::min(wake, now + kInterruptInterval));
  }
}

void BulkRun::WriteMessages(ClientStream& stream, grpc::ClientContext& context) {
  EmbedStreamRequest request;
  uint64_t id = 0;
  while (true) {
    switch (NextToSend(&id, &request)) {
      case Turn::kSend:
        if (!stream.Write(request)) return;  // the stream is over; the reader learns why
        break;
      case Turn::kAllAnswered:
        stream.WritesDone();
        return;
      case Turn::kStreamEnded:
        return;
      case Turn::kFailed:
        context.TryCancel();  // frees the reader
        return;
    }
  }
}

absl::Status BulkRun::CheckSameModel(const octavo::v1::EmbedResponse& response) {
  if (result_.model.empty()) result_.model = response.model();
  if (result_.revision.empty()) result_.revision = response.revision();
  if (result_.format.empty()) result_.format = response.execution().format();
  if (response.revision() != result_.revision) {
    return absl::FailedPreconditionError(absl::StrCat("the server's model changed from revision ",
                                                      result_.revision, " to ", response.revision(),
                                                      "; vectors of the two do not compare"));
  }
  if (response.execution().format() != result_.format) {
    return absl::FailedPreconditionError(
        absl::StrCat("the document lane changed from format ", result_.format, " to ",
                     response.execution().format(), "; an index holds one format"));
  }
  return absl::OkStatus();
}

// Gives `finished_` this outcome and those it held up.
absl::Status BulkRun::Finish(int64_t place, BulkOutcome outcome) {
  early_.emplace(place, std::move(outcome));
  while (!early_.empty() && early_.begin()->first == in_order_) {
    if (absl::Status status = finished_(std::move(early_.begin()->second)); !status.ok()) {
      return status;
    }
    early_.erase(early_.begin());
    const std::lock_guard<std::mutex> lock(mutex_);
    ++in_order_;
  }
  return absl::OkStatus();
}

absl::Status BulkRun::TakeVectors(Message message, const octavo::v1::EmbedResponse& response) {
  EmbedStreamRequest request;
  Describe(0, message, &request);
  if (absl::Status status = CheckResponse(request.request(), response); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckSameModel(response); !status.ok()) return status;
  for (size_t i = 0; i < message.documents.size(); ++i) {
    const auto& result = response.results(static_cast<int>(i));
    BulkOutcome outcome;
    outcome.document = std::move(message.documents[i]);
    if (result.has_error()) {
      outcome.rejection = Rejection{outcome.document.line, outcome.document.id,
                                    result.error().reason(), result.error().message()};
    } else {
      outcome.tokens = result.tokens();
      outcome.vector = DecodeRow(response.vectors(0), static_cast<int64_t>(i));
      if (!std::all_of(outcome.vector.begin(), outcome.vector.end(),
                       [](float value) { return std::isfinite(value); })) {
        return absl::InternalError(absl::StrCat("the vector of document ", outcome.document.id,
                                                " holds a value that is not finite"));
      }
    }
    if (absl::Status status = Finish(message.first + static_cast<int64_t>(i), std::move(outcome));
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

absl::Status BulkRun::TakeError(Message message, const octavo::v1::Error& error) {
  const auto code = static_cast<grpc::StatusCode>(error.code());
  if (EndsTheRun(error.code())) return connection_.Explain({code, error.message()});
  if (WorthRetrying(error)) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (Clock::now() - last_answer_ > options_.retry_limit) {
      return connection_.Explain({code, error.message()});
    }
    message.not_before = Clock::now() + std::max(RetryDelay(error), options_.first_backoff);
    to_send_.push_back(next_id_);
    unanswered_.emplace(next_id_++, std::move(message));
    return absl::OkStatus();
  }
  if (message.documents.size() == 1) {
    BulkOutcome outcome;
    outcome.document = std::move(message.documents[0]);
    outcome.rejection =
        Rejection{outcome.document.line, outcome.document.id, error.reason(), error.message()};
    return Finish(message.first, std::move(outcome));
  }
  const auto middle = message.documents.begin() + message.documents.size() / 2;
  Message second;
  second.first = message.first + (middle - message.documents.begin());
  second.documents.assign(std::make_move_iterator(middle),
                          std::make_move_iterator(message.documents.end()));
  message.documents.erase(middle, message.documents.end());
  const std::lock_guard<std::mutex> lock(mutex_);
  for (Message* half : {&message, &second}) {
    to_send_.push_back(next_id_);
    unanswered_.emplace(next_id_++, std::move(*half));
  }
  return absl::OkStatus();
}

absl::Status BulkRun::Take(const EmbedStreamResponse& answer) {
  Message message;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = unanswered_.find(answer.id());
    if (found == unanswered_.end() ||
        std::find(to_send_.begin(), to_send_.end(), answer.id()) != to_send_.end()) {
      return absl::InternalError(
          absl::StrCat("the server answered id ", answer.id(), ", which awaits no answer"));
    }
    // Its place stays taken until it is dealt with, or the writer would see everything answered.
    message = std::move(found->second);
    found->second = Message{};
    if (answer.has_response()) last_answer_ = Clock::now();
  }
  absl::Status status;
  if (answer.has_response()) {
    status = TakeVectors(std::move(message), answer.response());
  } else if (answer.has_error()) {
    status = TakeError(std::move(message), answer.error());
  } else {
    status = absl::InternalError(
        absl::StrCat("the server answered id ", answer.id(), " with neither vectors nor an error"));
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  unanswered_.erase(answer.id());
  return status;
}

// One stream from its start to its end.
grpc::Status BulkRun::RunStream() {
  grpc::ClientContext context;
  const std::unique_ptr<ClientStream> stream = connection_.stub().EmbedStream(&context);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ended_ = false;
    to_send_.clear();
    for (auto& [id, message] : unanswered_) to_send_.push_back(id);
  }
  std::thread writer([&] { WriteMessages(*stream, context); });
  EmbedStreamResponse answer;
  while (stream->Read(&answer)) {
    if (absl::Status status = Take(answer); !status.ok()) Fail(std::move(status));
    const std::lock_guard<std::mutex> lock(mutex_);
    if (failure_.ok() && Interrupted()) failure_ = absl::CancelledError("interrupted");
    changed_.notify_all();
    if (!failure_.ok()) break;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stream_ended_ = true;
    if (!failure_.ok())
      context.TryCancel();  // frees a writer whose message the server does not take
    changed_.notify_all();
  }
  writer.join();
  return stream->Finish();
}

absl::StatusOr<BulkResult> BulkRun::Run() {
  std::minstd_rand random(std::random_device{}());
  Milliseconds backoff = options_.first_backoff;
  Clock::time_point seen_answer = last_answer_;
  while (true) {
    const grpc::Status status = RunStream();
    // The writer has ended: nothing else holds the lock now.
    if (!failure_.ok()) return failure_;
    const bool complete = exhausted_ && unanswered_.empty();
    if (status.ok() && complete) return result_;
    if (status.ok()) {
      return absl::InternalError(absl::StrCat("the server ended the stream with OK and left ",
                                              unanswered_.size(), " messages unanswered"));
    }
    if (complete) return result_;  // every answer is here; how the stream ended changes nothing
    if (last_answer_ != seen_answer) backoff = options_.first_backoff;
    seen_answer = last_answer_;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE ||
        Clock::now() - last_answer_ > options_.retry_limit) {
      return connection_.Explain(status);
    }
    const int spread = std::max<int>(1, static_cast<int>(backoff.count() / 2));
    std::this_thread::sleep_for(backoff + Milliseconds(random() % spread));
    if (Interrupted()) return absl::CancelledError("interrupted");
    backoff = std::min(backoff * 2, Milliseconds(5000));
  }
}

}  // namespace

absl::StatusOr<BulkResult> EmbedInBulk(
    const Connection& connection, const BulkOptions& options,
    const std::function<absl::StatusOr<std::optional<Document>>()>& next,
    const std::function<absl::Status(BulkOutcome)>& finished) {
  return BulkRun(connection, options, next, finished).Run();
}

}  // namespace octavo::client
