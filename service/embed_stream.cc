#include "service/embed_stream.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace octavo {
namespace {

// Bounds, beside the token budget, on what one stream holds in memory: small or bad requests have
// answers larger than themselves.
constexpr int64_t kMaxMessages = 1024;
constexpr int64_t kMaxResponses = 4;  // of the largest size allowed

RequestError DrainingError() {
  RequestError error;
  error.reason = Reason::kDraining;
  error.message = "the server is going away; send what was not answered to another";
  return error;
}

}  // namespace

struct EmbedStream::Message {
  explicit Message(const ServedModel* model)
      : work(model), job(std::make_shared<Job>()), received(Clock::now()) {}

  uint64_t id = 0;
  EmbedWork work;
  std::shared_ptr<Job> job;
  const Time received;
  std::optional<Lane> lane;  // if the request names one
  int64_t estimate = 0;      // what the scheduler was asked for
  int64_t charged_tokens = 0;
  int64_t charged_bytes = 0;
};

struct EmbedStream::Actions {
  bool read = false;
  bool cancel = false;
  MessagePtr ask;
  uint64_t cancel_ticket = 0;
  std::optional<std::string> write;
  bool finish = false;
  std::optional<RequestError> status;

  bool none() const {
    return !read && !cancel && ask == nullptr && cancel_ticket == 0 && !write.has_value() &&
           !finish;
  }
};

EmbedStream::EmbedStream(ServiceContext* context, StreamCall* call)
    : context_(context), call_(call), began_(Clock::now()), deadline_(call->deadline()) {}

void EmbedStream::Start() {
  context_->metrics().StreamBegan();
  std::optional<RequestError> refused = context_->NotReady();
  if (!refused.has_value() && !context_->streams().Add(shared_from_this())) {
    refused = DrainingError();
  }
  if (refused.has_value()) context_->metrics().Rejected(std::nullopt, refused->reason);
  Lock lock(mutex_);
  end_error_ = std::move(refused);
  Pump(&lock);
}

// --- Events --------------------------------------------------------------------------------------

void EmbedStream::OnRead(std::optional<std::string_view> bytes) {
  MessagePtr message;
  std::optional<RequestError> error;
  if (bytes.has_value()) {
    v1::EmbedStreamRequest request;
    error = Parse(*bytes, context_->options().limits, &request);
    message = std::make_shared<Message>(context_->model());
    message->id = request.id();
    message->work.request() = std::move(*request.mutable_request());
    message->lane = LaneOf(message->work.request());
  }
  Lock lock(mutex_);
  reading_ = false;
  if (message == nullptr) {
    read_closed_ = true;
  } else if (!finished_ && !cancelled_ && !draining_) {
    Take(message, error);
  }
  Pump(&lock);
}

// A message enters: it is answered at once if nothing can be computed, or held for its turn.
void EmbedStream::Take(const MessagePtr& message, const std::optional<RequestError>& parse_error) {
  Metrics& metrics = context_->metrics();
  metrics.RequestBegan(Rpc::kEmbedStream);
  if (parse_error.has_value() && parse_error->reason != Reason::kTooManyInputs) {
    metrics.RequestEnded(Rpc::kEmbedStream, std::nullopt, parse_error->code(),
                         Clock::now() - message->received);
    end_error_ = parse_error;
    return;
  }
  ++messages_;
  std::optional<RequestError> error = parse_error;
  if (!error.has_value()) {
    error = context_->NotReady();
    if (error.has_value()) metrics.Rejected(message->lane, error->reason);
  }
  if (!error.has_value()) error = message->work.Check(context_->options().limits);
  if (error.has_value()) {
    PushError(message, *error);
  } else if (message->work.all_inputs_bad()) {
    PushResponse(message, nullptr);
  } else {
    message->estimate = message->work.EstimateTokens();
    held_ = message;
    hold_ = Hold::kBudget;
  }
}

void EmbedStream::OnWritten(bool ok) {
  Lock lock(mutex_);
  const Answer written = *std::exchange(writing_, std::nullopt);
  if (ok) {
    EndMessage(written.message, written.code);
  } else {
    cancelled_ = true;
    Forget(written.message, Stage::kRespond);
  }
  Pump(&lock);
}

void EmbedStream::OnCancel() {
  Lock lock(mutex_);
  cancelled_ = true;
  Pump(&lock);
}

void EmbedStream::Drain() {
  Lock lock(mutex_);
  draining_ = true;
  Pump(&lock);
}

void EmbedStream::CheckWriteTimeout(Time now) {
  Lock lock(mutex_);
  if (!writing_.has_value() || now - writing_since_ < context_->options().write_timeout) return;
  write_timed_out_ = true;
  Pump(&lock);
}

// --- A message's way
// ------------------------------------------------------------------------------

void EmbedStream::AskLane(const MessagePtr& message) {
  Scheduler* scheduler = context_->model()->scheduler;
  uint64_t ticket = 0;
  // Runs here, or on the thread that made room: neither must be kept, so even short texts are
  // tokenized by the pool.
  const auto admitted = [self = shared_from_this(), message] {
    self->context_->pool().Post(message->work.lane(), [self, message] {
      self->Admitted(message);
      self->Tokenize(message);
    });
  };
  if (scheduler->AdmitOrWait(message->work.lane(), message->estimate, Clock::now(), admitted,
                             &ticket)) {
    admitted();
    return;
  }
  Lock lock(mutex_);
  if (held_ == message && hold_ == Hold::kAsking) {  // not admitted meanwhile
    hold_ = Hold::kLane;
    ticket_ = ticket;
  }
}

// The lane has taken the message's tokens; the next message may be read.
void EmbedStream::Admitted(const MessagePtr& message) {
  Lock lock(mutex_);
  if (held_ == message) held_.reset();
  accepted_.insert(message);
  if (cancelled_) message->job->cancelled.store(true, std::memory_order_relaxed);
  Pump(&lock);
}

void EmbedStream::Tokenize(const MessagePtr& message) {
  Metrics& metrics = context_->metrics();
  const ServedModel* model = context_->model();
  const Lane lane = message->work.lane();
  Job* job = message->job.get();
  if (job->cancelled.load(std::memory_order_relaxed)) {
    model->scheduler->Release(lane, message->estimate, Clock::now());
    Lock lock(mutex_);
    Forget(message, Stage::kTokenize);
    return;
  }
  const Time begin = Clock::now();
  message->work.Tokenize(job);
  const Time end = Clock::now();
  metrics.StageTook(Stage::kTokenize, lane, end - begin);
  metrics.TruncatedInputs(lane, message->work.truncated_inputs());
  if (job->inputs.empty()) {
    model->scheduler->Release(lane, message->estimate, end);
    Lock lock(mutex_);
    if (cancelled_) {
      Forget(message, Stage::kTokenize);
      return;
    }
    Charge(message.get(), 0, message->charged_bytes);
    PushResponse(message, nullptr);
    Pump(&lock);
    return;
  }
  {
    Lock lock(mutex_);
    Charge(message.get(), message->work.tokens(), message->charged_bytes);
  }
  job->lane = lane;
  job->deadline = deadline_;
  job->admitted_tokens = message->estimate;
  // The message keeps its job and the job its message only until this has run.
  job->done = [self = shared_from_this(), message](Job& done) mutable {
    const std::shared_ptr<EmbedStream> stream = std::move(self);
    const MessagePtr finished = std::move(message);
    stream->OnJobDone(finished, done);
  };
  model->submit(message->job);
}

void EmbedStream::OnJobDone(const MessagePtr& message, const Job& job) {
  const Lane lane = message->work.lane();
  if (job.status.ok()) context_->metrics().StageTook(Stage::kQueue, lane, job.queue_time);
  Lock lock(mutex_);
  if (cancelled_) {
    // The runtime has counted a job it dropped.
    Forget(message, job.status.ok() ? std::optional(Stage::kCompute) : std::nullopt);
    return;
  }
  if (!job.status.ok()) {
    PushError(message, JobError(job.status, context_->draining()));
  } else {
    lock.unlock();
    const Time begin = Clock::now();
    Answer answer{message, {}, absl::StatusCode::kOk};
    v1::EmbedStreamResponse response;
    response.set_id(message->id);
    *response.mutable_response() = message->work.Respond(&job);
    response.SerializeToString(&answer.bytes);
    context_->metrics().StageTook(Stage::kRespond, lane, Clock::now() - begin);
    lock.lock();
    if (cancelled_) {
      Forget(message, Stage::kRespond);
      return;
    }
    accepted_.erase(message);
    outbox_.push_back(std::move(answer));
  }
  Pump(&lock);
}

void EmbedStream::PushError(const MessagePtr& message, const RequestError& error) {
  v1::EmbedStreamResponse response;
  response.set_id(message->id);
  *response.mutable_error() = ToProto(error);
  Charge(message.get(), message->charged_tokens, static_cast<int64_t>(response.ByteSizeLong()));
  accepted_.erase(message);
  outbox_.push_back({message, response.SerializeAsString(), error.code()});
}

void EmbedStream::PushResponse(const MessagePtr& message, const Job* job) {
  v1::EmbedStreamResponse response;
  response.set_id(message->id);
  *response.mutable_response() = message->work.Respond(job);
  Charge(message.get(), message->charged_tokens, static_cast<int64_t>(response.ByteSizeLong()));
  accepted_.erase(message);
  outbox_.push_back({message, response.SerializeAsString(), absl::StatusCode::kOk});
}

// Sets what the message counts for in the stream's budget.
void EmbedStream::Charge(Message* message, int64_t tokens, int64_t response_bytes) {
  const int64_t more = tokens - message->charged_tokens;
  if (more != 0) {
    const Lane lane = message->work.lane();
    tokens_[static_cast<int>(lane)] += more;
    context_->metrics().StreamTokens(lane, more);
  }
  response_bytes_ += response_bytes - message->charged_bytes;
  message->charged_tokens = tokens;
  message->charged_bytes = response_bytes;
}

void EmbedStream::Forget(const MessagePtr& message, std::optional<Stage> stage) {
  if (stage.has_value() && message->lane.has_value()) {
    context_->metrics().Cancelled(*message->lane, *stage);
  }
  EndMessage(message, absl::StatusCode::kCancelled);
}

void EmbedStream::EndMessage(const MessagePtr& message, absl::StatusCode code) {
  Charge(message.get(), 0, 0);
  accepted_.erase(message);
  --messages_;
  context_->metrics().RequestEnded(Rpc::kEmbedStream, message->lane, code,
                                   Clock::now() - message->received);
}

// --- Deciding
// -------------------------------------------------------------------------------------

bool EmbedStream::HasRoomToRead() const {
  if (messages_ == 0) return true;
  const ServiceOptions& options = context_->options();
  return messages_ < kMaxMessages && tokens_[0] + tokens_[1] < options.max_stream_tokens &&
         response_bytes_ < kMaxResponses * options.limits.max_response_bytes;
}

// A message larger than a budget goes alone.
bool EmbedStream::FitsBudget(const Message& message) const {
  const ServiceOptions& options = context_->options();
  const int64_t all = tokens_[0] + tokens_[1];
  if (all > 0 && all + message.estimate > options.max_stream_tokens) return false;
  if (message.work.lane() != Lane::kQuery) return true;
  const int64_t queries = tokens_[static_cast<int>(Lane::kQuery)];
  const LaneLimits& limits = context_->model()->info.lanes[static_cast<int>(Lane::kQuery)].limits;
  const double share = options.query_stream_share * static_cast<double>(limits.max_queue_tokens);
  return queries == 0 || static_cast<double>(queries + message.estimate) <= share;
}

// The stream's end, if it has come.
bool EmbedStream::DecideEnd(Actions* actions) {
  if (writing_.has_value()) return false;
  if (cancelled_) {
    actions->status = JobError(absl::CancelledError("the stream was cancelled"), false);
  } else {
    if (!outbox_.empty() || !accepted_.empty() || held_ != nullptr) return false;
    if (end_error_.has_value()) {
      actions->status = end_error_;
    } else if (read_closed_) {
      actions->status = std::nullopt;
    } else if (draining_) {
      actions->status = DrainingError();
    } else {
      return false;
    }
  }
  finished_ = true;
  actions->finish = true;
  return true;
}

EmbedStream::Actions EmbedStream::Decide() {
  Actions actions;
  if (cancelled_) {
    for (const MessagePtr& message : accepted_) {
      message->job->cancelled.store(true, std::memory_order_relaxed);
    }
    for (const Answer& answer : std::exchange(outbox_, {})) Forget(answer.message, Stage::kRespond);
    if (held_ != nullptr && hold_ == Hold::kBudget) {
      Forget(std::exchange(held_, nullptr), Stage::kQueue);
    } else if (held_ != nullptr && hold_ == Hold::kLane) {
      hold_ = Hold::kCancelling;
      actions.cancel_ticket = ticket_;
      return actions;
    }
  }
  if (write_timed_out_ && !transport_cancelled_) {
    transport_cancelled_ = true;
    actions.cancel = true;
    return actions;
  }
  if (DecideEnd(&actions) || cancelled_) return actions;

  if (!writing_.has_value() && !outbox_.empty()) {
    writing_ = std::move(outbox_.front());
    outbox_.pop_front();
    writing_since_ = Clock::now();
    actions.write = std::move(writing_->bytes);
  }
  if (held_ != nullptr && hold_ == Hold::kBudget && FitsBudget(*held_)) {
    hold_ = Hold::kAsking;
    Charge(held_.get(), held_->estimate, held_->work.plan().response_bytes);
    actions.ask = held_;
  }
  const bool closed = read_closed_ || end_error_.has_value() || draining_;
  if (!reading_ && !closed && held_ == nullptr && HasRoomToRead()) {
    reading_ = true;
    actions.read = true;
  }
  return actions;
}

void EmbedStream::Pump(Lock* lock) {
  if (pumping_) return;  // whoever pumps will see the change
  pumping_ = true;
  const std::shared_ptr<EmbedStream> self = shared_from_this();
  while (!finished_) {
    Actions actions = Decide();
    if (actions.none()) break;
    lock->unlock();
    Perform(std::move(actions));
    lock->lock();
  }
  pumping_ = false;
}

void EmbedStream::Perform(Actions actions) {
  if (actions.write.has_value()) call_->Write(*std::move(actions.write));
  if (actions.read) call_->Read();
  if (actions.cancel) call_->Cancel();
  if (actions.ask != nullptr) AskLane(actions.ask);
  if (actions.cancel_ticket != 0 &&
      context_->model()->scheduler->CancelWait(actions.cancel_ticket)) {
    Lock lock(mutex_);
    Forget(std::exchange(held_, nullptr), Stage::kQueue);
  }
  if (actions.finish) {
    context_->streams().Remove(this);
    context_->metrics().StreamEnded(Clock::now() - began_);
    call_->End(actions.status);
  }
}

}  // namespace octavo
