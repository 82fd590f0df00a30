// What all calls share: limits, metrics, the tokenize pool and, once loaded, the model.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/runtime.h"
#include "runtime/scheduler.h"
#include "runtime/tokenizer.h"
#include "service/errors.h"
#include "service/metrics.h"
#include "service/tokenize_pool.h"
#include "service/validate.h"

namespace octavo {

class EmbedStream;

// What the handlers need of a runtime; tests put a fake engine behind it.
struct ServedModel {
  ModelInfo info;
  std::shared_ptr<const Tokenizer> tokenizer;
  Scheduler* scheduler = nullptr;
  // Queues an admitted job; its `done` runs exactly once, on another thread or, if the job is
  // refused, on this one.
  std::function<void(std::shared_ptr<Job>)> submit;
  // False once no device makes progress.
  std::function<bool()> healthy;
};

struct ServiceOptions {
  RequestLimits limits;
  // Of one stream: admitted and not yet written back.
  int64_t max_stream_tokens = 65536;
  // Of one stream, as a share of the query lane's queue.
  double query_stream_share = 0.5;
  // A stream whose outbox has not moved for this long is cancelled.
  Duration write_timeout = std::chrono::seconds(30);
  int tokenize_threads = 1;
  // Requests with at most this much text are tokenized on the thread that received them.
  int64_t inline_text_bytes = 2048;
  std::string version = "unknown";
};

// Streams alive, so that they can be drained and watched. Thread-safe.
class StreamSet {
 public:
  // False: draining; the stream must not begin.
  bool Add(const std::shared_ptr<EmbedStream>& stream);
  void Remove(EmbedStream* stream);
  // Tells every stream, and every later one, that the server is going away.
  void Drain();
  void CheckWriteTimeouts(Time now);
  size_t size() const;

 private:
  std::vector<std::shared_ptr<EmbedStream>> Alive() const;

  mutable std::mutex mutex_;
  std::map<EmbedStream*, std::weak_ptr<EmbedStream>> streams_;
  bool draining_ = false;
};

// Thread-safe. Outlives every call.
class ServiceContext {
 public:
  explicit ServiceContext(const ServiceOptions& options);

  const ServiceOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }
  TokenizePool& pool() { return pool_; }
  StreamSet& streams() { return streams_; }

  // Null while loading. `model` stays valid for this object's life.
  const ServedModel* model() const { return model_.load(std::memory_order_acquire); }
  // Once.
  void SetModel(std::unique_ptr<const ServedModel> model);

  // From now on new calls are refused and streams end when they have answered what they took.
  void Drain();
  bool draining() const { return draining_.load(std::memory_order_relaxed); }

  // LOADING, DRAINING or NO_DEVICE; unset when calls can be served.
  std::optional<RequestError> NotReady() const;

 private:
  const ServiceOptions options_;
  Metrics metrics_;
  TokenizePool pool_;
  StreamSet streams_;
  std::unique_ptr<const ServedModel> owned_model_;
  std::atomic<const ServedModel*> model_{nullptr};
  std::atomic<bool> draining_{false};
};

}  // namespace octavo
