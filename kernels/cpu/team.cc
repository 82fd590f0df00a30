#include "kernels/cpu/team.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/cpu/processors.h"

namespace octavo::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the serial part between two loops of a layer, shorter than anyone notices when idle.
constexpr auto kSpin = std::chrono::microseconds(50);
// Reactions within about a microsecond before the processor is offered to other threads.
constexpr int kPausesBeforeYield = 64;

constexpr uint64_t kCountMask = 0xffffffffu;
constexpr int64_t kLargestLoop = std::numeric_limits<int32_t>::max();

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// Waits for `ready` until `kSpin` has passed, or without limit if `forever`. The first polls only
// pause; the others yield, so that a thread waiting here does not starve one that has work.
template <typename Ready>
bool SpinUntil(bool forever, int pauses, const Ready& ready) {
  for (int i = 0; i < pauses; ++i) {
    if (ready()) return true;
    Pause();
  }
  const Clock::time_point end = Clock::now() + kSpin;
  for (;;) {
    for (int i = 0; i < 8; ++i) {
      if (ready()) return true;
      Pause();
    }
    sched_yield();
    if (!forever && Clock::now() >= end) return ready();
  }
}

}  // namespace

Team::Team(int threads) : threads_(std::max(threads, 1)) {
  workers_.reserve(threads_ - 1);
  for (int thread = 1; thread < threads_; ++thread) {
    workers_.emplace_back([this, thread] { Work(thread); });
  }
}

Team::~Team() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true, std::memory_order_seq_cst);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::ForEachBlock(int64_t blocks,
                        absl::FunctionRef<void(int64_t block, int slot, Stream& inner)> body) {
  if (blocks == 1) {
    body(0, 0, *this);
    return;
  }
  Run(blocks, [&](int64_t block, int thread) { body(block, thread, Inline()); });
}

bool Team::HasTasks() const { return (untaken_.load(std::memory_order_seq_cst) & kCountMask) != 0; }

void Team::Run(int64_t tasks, absl::FunctionRef<void(int64_t task, int thread)> body) {
  if (threads_ == 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) body(task, 0);
    return;
  }
  for (int64_t first = 0; first < tasks; first += kLargestLoop) {
    RunLoop(first, std::min(kLargestLoop, tasks - first), body);
  }
}

void Team::RunLoop(int64_t first, int64_t tasks, absl::FunctionRef<void(int64_t, int)> body) {
  body_ = &body;
  first_ = first;
  tasks_ = static_cast<uint32_t>(tasks);
  unfinished_.store(tasks_, std::memory_order_relaxed);
  const uint64_t loop = (untaken_.load(std::memory_order_relaxed) >> 32) + 1;
  // Ordered before the read of sleeping_, as a worker's increment is before its last look here:
  // one of the two sees the other.
  untaken_.store(loop << 32 | tasks_, std::memory_order_seq_cst);
  const int sleeping = sleeping_.load(std::memory_order_seq_cst);
  if (sleeping > 0) {
    { std::lock_guard<std::mutex> lock(mutex_); }
    const int64_t wanted = std::min<int64_t>(sleeping, tasks - 1);
    if (wanted == sleeping) {
      wake_.notify_all();
    } else {
      for (int64_t i = 0; i < wanted; ++i) wake_.notify_one();
    }
  }
  TakeTasks(0);
  SpinUntil(/*forever=*/true, 16 * kPausesBeforeYield,
            [this] { return unfinished_.load(std::memory_order_acquire) == 0; });
}

void Team::TakeTasks(int thread) {
  uint32_t finished = 0;
  uint64_t untaken = untaken_.load(std::memory_order_acquire);
  while ((untaken & kCountMask) != 0) {
    if (!untaken_.compare_exchange_weak(untaken, untaken - 1, std::memory_order_acq_rel,
                                        std::memory_order_acquire)) {
      continue;
    }
    // The loop cannot end before this task does: its fields stay as they are.
    const int64_t task = first_ + (tasks_ - static_cast<uint32_t>(untaken & kCountMask));
    (*body_)(task, thread);
    ++finished;
    untaken = untaken_.load(std::memory_order_acquire);
  }
  if (finished != 0) unfinished_.fetch_sub(finished, std::memory_order_acq_rel);
}

void Team::Work(int thread) {
  // With fewer processors than threads a waiting worker stands in another's way at once.
  const int pauses = threads_ <= AvailableProcessors() ? kPausesBeforeYield : 0;
  const auto ready = [this] { return stop_.load(std::memory_order_seq_cst) || HasTasks(); };
  for (;;) {
    if (!SpinUntil(/*forever=*/false, pauses, ready)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, ready);
      sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    }
    if (stop_.load(std::memory_order_seq_cst)) return;
    TakeTasks(thread);
  }
}

Team& Inline() {
  static Team* const team = new Team(1);
  return *team;
}

int AvailableProcessors() {
  int processors = static_cast<int>(std::thread::hardware_concurrency());
  // A mask larger than any machine's: sched_getaffinity fails when the kernel's does not fit.
  constexpr int kMaskProcessors = 1 << 14;
  if (cpu_set_t* mask = CPU_ALLOC(kMaskProcessors)) {
    const size_t bytes = CPU_ALLOC_SIZE(kMaskProcessors);
    if (sched_getaffinity(0, bytes, mask) == 0) processors = CPU_COUNT_S(bytes, mask);
    CPU_FREE(mask);
  }
  const int quota = CgroupProcessors("/");
  if (quota > 0) processors = std::min(processors, quota);
  return std::max(processors, 1);
}

}  // namespace octavo::cpu
