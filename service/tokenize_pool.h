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
  explicit TokenizePool(int threads);
  // Runs what is left, then ends the threads.
  ~TokenizePool();
  TokenizePool(const TokenizePool&) = delete;
  TokenizePool& operator=(const TokenizePool&) = delete;

  // Cheap; never runs `task` itself.
  void Post(Lane lane, std::function<void()> task);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::function<void()>> tasks_[kLanes];
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace octavo
