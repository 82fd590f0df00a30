// One device's thread: takes batches from the scheduler, runs them unit by unit, hands finished
// jobs to the completion thread, so that it need not serialize or finish a call while there is
// work. A query alone, with nothing behind it, it finishes itself: that takes less time than the
// other thread's wake-up.
//
// A device may compute later than it is told to. It then has one document unit that runs and one
// that is queued, the second of which may be the first of the next batch, made ready meanwhile; a
// query waits for at most these, since none is added while a query waits or runs. Marks in the
// stream tell when work is done and how long it took. A device that computes at once, a CPU, has
// done each unit by the time it was submitted.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "runtime/completion.h"
#include "runtime/forward.h"
#include "runtime/forward_pass.h"
#include "runtime/observer.h"
#include "runtime/scheduler.h"

namespace octavo {

class Engine {
 public:
  struct Options {
    std::string device;                    // "cpu", for reports; jobs point to it
    std::chrono::microseconds step{1000};  // longest document unit, by measured device time
    // Called once, last of all on the engine's thread, if its device fails: its batches have ended
    // UNAVAILABLE and it takes no more.
    std::function<void(const absl::Status&)> lost;
  };

  // The forwards (one a lane), stream, scheduler, completion and observer (may be null) outlive
  // the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      Options options, const Forward* const (&lanes)[kLanes],
      const int64_t (&max_batch_tokens)[kLanes], std::unique_ptr<Stream> stream,
      Scheduler* scheduler, CompletionThread* completion, Observer* observer);
  ~Engine();

  // Measures how fast document units run, then starts the thread. Call once. UNAVAILABLE if the
  // device fails at that, RESOURCE_EXHAUSTED if it has not the memory.
  absl::Status Start();
  // Any thread: there may be work.
  void Wake();
  // The thread ends once the scheduler has nothing left, or at `deadline`: the batch then running
  // fails UNAVAILABLE. Call after Scheduler::Stop.
  void FinishAndJoin(Time deadline);

  // Rows of a document block, as sized by measurement, for a batch of `tokens` tokens in sequences
  // of that mean length.
  int64_t UnitRows(const RaggedBatch& batch) const;
  int64_t workspace_bytes() const;

 private:
  // A batch from its Begin until its rows are with their jobs.
  struct Run {
    std::unique_ptr<ForwardPass> pass;
    Batch batch;  // without items: free for the next
    RaggedBatch ragged;
    Duration compute{0};
  };
  // Work given to the device: a document unit, or all of a query batch.
  struct Unit {
    Run* run = nullptr;
    uint64_t begin = 0, end = 0;  // marks of the lane's stream
    double flops = 0;
    bool last = false;  // of its batch
  };
  struct LaneState {
    Lane lane = Lane::kQuery;
    const Forward* forward = nullptr;
    Stream* stream = nullptr;
    std::vector<Run> runs;
    Run* running = nullptr;  // its pass has units left
    std::deque<Unit> units;  // not yet reaped, in order
  };

  Engine(Options options, std::unique_ptr<Stream> stream, Scheduler* scheduler,
         CompletionThread* completion, Observer* observer);
  LaneState& lane(Lane lane) { return lanes_[static_cast<int>(lane)]; }
  absl::Status Calibrate();
  void Loop();
  // Acts on what the device has done since.
  void Reap(LaneState& lane);
  bool MayFindWork() const;
  void Begin(Batch batch, Time now);
  void Submit(LaneState& lane);
  void Finish(LaneState& lane, Run& run, Time now);
  void Fail(LaneState& lane, Run& run, const absl::Status& status, Time now);
  // Every batch begun on the lane ends with `status`.
  void FailAll(LaneState& lane, const absl::Status& status, Time now);
  // A stream failed and stays so: the calls of every batch begun end UNAVAILABLE.
  void LoseDevice(const absl::Status& status, Time now);
  void Complete(std::vector<std::shared_ptr<Job>> jobs);
  // Whether `jobs`, whose batch has ended, are one query of one text and nothing else is to be
  // done.
  bool IsQueryAlone(const std::vector<std::shared_ptr<Job>>& jobs) const;
  void WaitForWork(uint64_t seen);

  const Options options_;
  const std::unique_ptr<Stream> stream_;
  std::unique_ptr<Stream> urgent_;  // of the query lane, unless both share stream_
  Scheduler* const scheduler_;
  CompletionThread* const completion_;
  Observer* const observer_;
  LaneState lanes_[kLanes];
  absl::Status lost_;  // why the device was lost; the engine's thread alone uses it
  double document_flops_per_second_ = 0;  // measured; the engine's thread alone writes it

  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t wakes_ = 0;      // guarded by mutex_
  bool finish_ = false;     // guarded by mutex_
  Time finish_deadline_{};  // guarded by mutex_
  std::thread thread_;
};

}  // namespace octavo
