// The thread that finishes calls, so that busy engines need not serialize or write responses.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/job.h"

namespace octavo {

// Calls `done` of a finished job, and destroys it with all it holds.
void CallDone(std::shared_ptr<Job> job);

// Runs `done` of finished jobs, one after another, in the order they were added. Thread-safe.
class CompletionThread {
 public:
  CompletionThread();
  // Stops: see Stop.
  ~CompletionThread();
  CompletionThread(const CompletionThread&) = delete;
  CompletionThread& operator=(const CompletionThread&) = delete;

  // Takes finished jobs; `done` of each is called exactly once, soon, without a lock held, and then
  // destroyed with all it holds. After Stop it is called here, on the calling thread, before this
  // returns. A `done` may add jobs.
  void Complete(std::shared_ptr<Job> job);
  void Complete(std::vector<std::shared_ptr<Job>> jobs);

  // Returns when every `done` added before has run and the thread has ended. Idempotent, from any
  // thread; a `done` must not call it.
  void Stop();

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool stopping_ = false;
  bool ended_ = false;  // the thread takes no more jobs
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace octavo
