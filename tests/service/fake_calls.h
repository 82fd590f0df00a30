// The transport's side of calls, for tests of the handlers without gRPC.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "octavo/v1/embedding.pb.h"
#include "service/embed_call.h"
#include "service/embed_stream.h"

namespace octavo {

inline constexpr std::chrono::seconds kPatience{30};

class FakeUnaryCall : public UnaryCall {
 public:
  explicit FakeUnaryCall(Time deadline = Time::max()) : deadline_(deadline) {}

  Time deadline() const override { return deadline_; }
  void Respond(std::string response) override {
    std::lock_guard<std::mutex> lock(mutex_);
    ++finishes_;
    response_.emplace();
    if (!response_->ParseFromString(response)) response_.reset();
    changed_.notify_all();
  }
  void Fail(const RequestError& error) override {
    std::lock_guard<std::mutex> lock(mutex_);
    ++finishes_;
    error_ = error;
    changed_.notify_all();
  }

  bool Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] { return finishes_ > 0; });
  }
  int finishes() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return finishes_;
  }
  // After Wait.
  const std::optional<v1::EmbedResponse>& response() const { return response_; }
  const std::optional<RequestError>& error() const { return error_; }

 private:
  const Time deadline_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int finishes_ = 0;
  std::optional<v1::EmbedResponse> response_;
  std::optional<RequestError> error_;
};

// Delivers events from a thread of its own, as gRPC does. The test queues what the client sends.
class FakeStreamCall : public StreamCall {
 public:
  explicit FakeStreamCall(ServiceContext* context, Time deadline = Time::max())
      : deadline_(deadline), stream_(std::make_shared<EmbedStream>(context, this)) {
    thread_ = std::thread([this] { Deliver(); });
  }
  ~FakeStreamCall() override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  void Start() { stream_->Start(); }
  EmbedStream& stream() { return *stream_; }

  // The client's side.
  void Send(const v1::EmbedStreamRequest& request) { SendBytes(request.SerializeAsString()); }
  void SendBytes(std::string bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    incoming_.push_back(std::move(bytes));
    changed_.notify_all();
  }
  void HalfClose() {
    std::lock_guard<std::mutex> lock(mutex_);
    half_closed_ = true;
    changed_.notify_all();
  }
  void Disconnect() {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_ = true;
    changed_.notify_all();
  }
  // While set, written bytes stay with the transport.
  void SetStopReading(bool stop) {
    std::lock_guard<std::mutex> lock(mutex_);
    client_stopped_ = stop;
    changed_.notify_all();
  }

  // What happened so far.
  size_t reads() const {
    return Locked([&] { return reads_; });
  }
  size_t unread() const {
    return Locked([&] { return incoming_.size(); });
  }
  bool ended() const {
    return Locked([&] { return ends_ > 0; });
  }
  int ends() const {
    return Locked([&] { return ends_; });
  }
  bool transport_cancelled() const {
    return Locked([&] { return server_cancelled_; });
  }
  bool violated() const {
    return Locked([&] { return violated_; });
  }
  std::optional<RequestError> status() const {
    return Locked([&] { return status_; });
  }
  std::vector<v1::EmbedStreamResponse> responses() const {
    return Locked([&] { return responses_; });
  }

  bool WaitFor(const std::function<bool()>& condition) const {
    const Time limit = Clock::now() + kPatience;
    while (!condition()) {
      if (Clock::now() > limit) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  bool WaitForEnd() const {
    return WaitFor([&] { return ended(); });
  }
  bool WaitForResponses(size_t count) const {
    return WaitFor([&] { return Locked([&] { return responses_.size(); }) >= count; });
  }

  // StreamCall
  Time deadline() const override { return deadline_; }
  void Read() override {
    std::lock_guard<std::mutex> lock(mutex_);
    violated_ |= read_pending_ || ends_ > 0;
    read_pending_ = true;
    changed_.notify_all();
  }
  void Write(std::string response) override {
    std::lock_guard<std::mutex> lock(mutex_);
    violated_ |= write_.has_value() || ends_ > 0;
    write_ = std::move(response);
    changed_.notify_all();
  }
  void Cancel() override {
    std::lock_guard<std::mutex> lock(mutex_);
    violated_ |= ends_ > 0;
    server_cancelled_ = cancelled_ = true;
    changed_.notify_all();
  }
  void End(const std::optional<RequestError>& error) override {
    std::lock_guard<std::mutex> lock(mutex_);
    violated_ |= write_.has_value() || ends_ > 0;
    ++ends_;
    status_ = error;
    changed_.notify_all();
  }

 private:
  template <typename F>
  std::invoke_result_t<const F&> Locked(const F& f) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return f();
  }

  // The next event the transport owes, if any. Called with the lock held.
  std::function<void()> Next() {
    if (cancelled_ && !cancel_delivered_) {
      cancel_delivered_ = true;
      return [this] { stream_->OnCancel(); };
    }
    if (write_.has_value() && (!client_stopped_ || cancelled_)) {
      const bool ok = !cancelled_;
      if (ok) {
        responses_.emplace_back();
        violated_ |= !responses_.back().ParseFromString(*write_);
      }
      write_.reset();
      return [this, ok] { stream_->OnWritten(ok); };
    }
    if (read_pending_) {
      const bool over = cancelled_ || ends_ > 0 || (incoming_.empty() && half_closed_);
      if (over || !incoming_.empty()) {
        read_pending_ = false;
        if (over) return [this] { stream_->OnRead(std::nullopt); };
        ++reads_;
        auto bytes = std::make_shared<std::string>(std::move(incoming_.front()));
        incoming_.pop_front();
        return [this, bytes] { stream_->OnRead(std::string_view(*bytes)); };
      }
    }
    return nullptr;
  }

  void Deliver() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      std::function<void()> event = Next();
      if (event) {
        lock.unlock();
        event();
        lock.lock();
      } else if (stopping_) {
        return;
      } else {
        changed_.wait(lock);
      }
    }
  }

  const Time deadline_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::string> incoming_;
  std::vector<v1::EmbedStreamResponse> responses_;
  std::optional<std::string> write_;
  std::optional<RequestError> status_;
  size_t reads_ = 0;
  int ends_ = 0;
  bool read_pending_ = false;
  bool half_closed_ = false;
  bool cancelled_ = false;
  bool server_cancelled_ = false;
  bool cancel_delivered_ = false;
  bool client_stopped_ = false;
  bool violated_ = false;  // the stream broke the rules of StreamCall
  bool stopping_ = false;
  std::shared_ptr<EmbedStream> stream_;
  std::thread thread_;
};

// A request of texts.
inline v1::EmbedRequest TextRequest(v1::InputType type, const std::vector<std::string>& texts) {
  v1::EmbedRequest request;
  request.mutable_options()->set_input_type(type);
  for (const std::string& text : texts) request.add_inputs()->set_text(text);
  return request;
}

inline v1::EmbedStreamRequest StreamRequest(uint64_t id, const v1::EmbedRequest& request) {
  v1::EmbedStreamRequest message;
  message.set_id(id);
  *message.mutable_request() = request;
  return message;
}

// Row `row` of FLOAT32 vectors.
inline std::vector<float> Float32Row(const v1::Vectors& vectors, size_t row) {
  std::vector<float> values(vectors.dimensions());
  std::memcpy(values.data(), vectors.data().data() + row * values.size() * 4, values.size() * 4);
  return values;
}

}  // namespace octavo
