// A CPU stream: a team of threads that runs one loop at a time, with hand-offs of microseconds.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/stream.h"

namespace octavo::cpu {

class Team final : public Stream {
 public:
  // `threads` at least 1: the caller and threads - 1 workers. A team of one runs inline.
  explicit Team(int threads);
  ~Team() override;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }

  // Calls body(task, thread) for every task in [0, tasks), each once, on some thread of the team
  // in [0, threads()); returns when all are done. Tasks are taken in order, one at a time, so
  // uneven tasks balance. Must not be called from inside a body. Workers spin for a short while
  // for the next loop, then sleep.
  void Run(int64_t tasks, absl::FunctionRef<void(int64_t task, int thread)> body);

 private:
  void Work(int thread);
  void TakeTasks(int thread);

  const int threads_;
  std::vector<std::thread> workers_;
  const absl::FunctionRef<void(int64_t, int)>* body_ = nullptr;
  std::atomic<int64_t> next_{0};
  int64_t tasks_ = 0;
  std::atomic<uint32_t> generation_{0};
  std::atomic<int> running_{0};
  std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// The team of one: runs everything inline on the calling thread.
Team& Inline();

// Number of processors this process may run on (its affinity mask and cgroup), at least 1.
int AvailableProcessors();

}  // namespace octavo::cpu
