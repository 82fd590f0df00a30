// The threads that tokenize what is too long to be tokenized where it was received.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/job.h"

namespace octavo {

// Runs tasks, queries first, in the order posted within a lane. The queue is bounded by admission:
// a task stands for tokens a lane has already taken. Thread-safe.
class TokenizePool {
 public:
  // `threads` for both lanes, at least one, and one more for queries alone: a message of a thousand
  // documents takes long.
  explicit TokenizePool(int threads);
  // Stops: see Stop.
  ~TokenizePool();
  TokenizePool(const TokenizePool&) = delete;
  TokenizePool& operator=(const TokenizePool&) = delete;

  // Cheap; does not run `task` itself, except after Stop.
  void Post(Lane lane, std::function<void()> task);

  // Returns when everything posted has run and the threads have ended. Idempotent; not from a task.
  void Stop();

 private:
  void Run(bool queries_only);

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::function<void()>> tasks_[kLanes];
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace octavo
