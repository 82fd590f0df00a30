// A CPU stream: a team of threads that runs one loop at a time, with hand-offs of microseconds.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/cpu/processors.h"
#include "kernels/stream.h"

namespace octavo::cpu {

class Team : public Stream {
 public:
  // `threads` at least 1: the caller and threads - 1 workers. A team of one runs inline.
  explicit Team(int threads);
  ~Team() override;
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const { return threads_; }

  std::string processor() const override { return ProcessorModel(); }
  int slots() const override { return threads_; }
  void ForEachBlock(int64_t blocks,
                    absl::FunctionRef<void(int64_t block, int slot, Stream& inner)> body) override;

  void Upload(void* device, const void* host, int64_t bytes) override {
    std::memcpy(device, host, bytes);
  }
  void Download(void* host, const void* device, int64_t bytes) override {
    std::memcpy(host, device, bytes);
  }
  void ForEachTask(int64_t tasks, absl::FunctionRef<void(int64_t task)> body) override {
    Run(tasks, [&](int64_t task, int) { body(task); });
  }
  uint64_t Mark() override {
    ++marked_;
    marks_[marked_ % kMarks] = std::chrono::steady_clock::now();
    return marked_;
  }
  bool Reached(uint64_t) override { return true; }
  std::chrono::nanoseconds Between(uint64_t from, uint64_t to) override {
    return marks_[to % kMarks] - marks_[from % kMarks];
  }
  absl::Status status() const override { return absl::OkStatus(); }
  absl::Status Finish() override { return absl::OkStatus(); }

  // Calls body(task, thread) for every task in [0, tasks), each once, on some thread of the team
  // in [0, threads()), the caller being thread 0; returns when all are done. Tasks are taken in
  // order, one at a time, so uneven tasks balance; a worker that wakes late finds nothing left and
  // holds nobody up. Must not be called from inside a body, nor by two callers at once. Workers
  // spin for a short while for the next loop, giving way to other threads, then sleep.
  void Run(int64_t tasks, absl::FunctionRef<void(int64_t task, int thread)> body);

 private:
  void Work(int thread);
  void RunLoop(int64_t first, int64_t tasks, absl::FunctionRef<void(int64_t, int)> body);
  // Runs tasks until none is left to take.
  void TakeTasks(int thread);
  bool HasTasks() const;

  const int threads_;
  std::vector<std::thread> workers_;
  uint64_t marked_ = 0;
  std::chrono::steady_clock::time_point marks_[kMarks];  // of mark m at m % kMarks

  // The loop that is running. Written only while no task is left untaken or unfinished, read only
  // by a thread that has taken a task of it.
  const absl::FunctionRef<void(int64_t, int)>* body_ = nullptr;
  int64_t first_ = 0;
  uint32_t tasks_ = 0;

  // High 32 bits: the loop's number. Low 32 bits: tasks not yet taken. Both in one word, so that a
  // task is taken only from the loop it was seen in.
  alignas(64) std::atomic<uint64_t> untaken_{0};
  alignas(64) std::atomic<uint32_t> unfinished_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// The team of one: runs everything inline on the calling thread. Any number of threads may use it
// at once.
Team& Inline();

// Number of processors this process may use, at least 1: those of its affinity mask, and no more
// than its cgroup's quota allows (v1 and v2, ancestors included, rounded down so that a team of
// this size is not throttled).
int AvailableProcessors();

}  // namespace octavo::cpu
