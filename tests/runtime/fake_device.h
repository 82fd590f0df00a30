// A device for tests that computes later than it is told to: when the test says so, with the CPU's
// kernels for f32. Memory that is reused too early gives wrong results here, as on a GPU.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/backend.h"

namespace octavo::testing {

class FakeStream;

// One exists at a time. Thread-safe.
class FakeDevice {
 public:
  // `urgent_streams`: the device prefers the work of one stream to another's.
  explicit FakeDevice(bool urgent_streams);
  ~FakeDevice();
  FakeDevice(const FakeDevice&) = delete;
  FakeDevice& operator=(const FakeDevice&) = delete;

  // Its streams compute on the device that exists when they are opened.
  const Backend& backend() const;

  // Waits until `marks` marks of a stream, not counting one that directly follows another, are not
  // yet reached, or for some seconds; how many are not.
  int WaitForPending(bool urgent, int marks);
  int Pending(bool urgent);
  // Does the work of a stream up to the next of them. False: there was none.
  bool RunToMark(bool urgent);
  // Computes from now on by itself, urgent work first.
  void RunFreely();
  // All work is lost from now on.
  void Fail();

  // Products take their time by this clock, of `flops_per_second`; nothing else does.
  static constexpr double kFlopsPerSecond = 32e9;
  std::chrono::nanoseconds Busy(bool urgent);
  // From mark to mark of the document stream, in order.
  std::vector<std::chrono::nanoseconds> DocumentUnits();

 private:
  friend class FakeStream;
  struct Graph;
  struct Item {
    std::function<void()> work;  // empty: a mark
    std::chrono::nanoseconds time{0};
    bool after_work = false;  // a mark with work between the one before and itself
  };
  struct Queue {
    std::deque<Item> items;
    int pending = 0;  // marks after work among them
    int done = 0;     // of such, in all
    uint64_t marked = 0, reached = 0;
    std::vector<std::chrono::nanoseconds> times;  // of the marks reached
    std::chrono::nanoseconds busy{0};
  };
  Queue& queue(bool urgent) { return queues_[urgent ? 1 : 0]; }
  // With the lock: does the next item, without the lock.
  void RunItem(Queue& queue, std::unique_lock<std::mutex>& lock);

  const bool urgent_streams_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Queue queues_[2];
  std::chrono::nanoseconds now_{0};
  bool computing_ = false;
  bool failed_ = false;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace octavo::testing
