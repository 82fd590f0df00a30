// One device's thread: takes batches from the scheduler, runs them unit by unit, hands finished
// jobs to the completion thread. It never serializes or finishes a call itself.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
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
    std::chrono::microseconds step{1000};  // longest document unit, by measured rate
  };

  // The forwards (one a lane), stream, scheduler, completion and observer (may be null) outlive
  // the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(
      Options options, const Forward* const (&lanes)[kLanes],
      const int64_t (&max_batch_tokens)[kLanes], std::unique_ptr<Stream> stream,
      Scheduler* scheduler, CompletionThread* completion, Observer* observer);
  ~Engine();

  // Measures how fast document units run, then starts the thread. Call once.
  void Start();
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
  struct LaneState {
    const Forward* forward = nullptr;
    std::unique_ptr<ForwardPass> pass;
    Batch batch;
    RaggedBatch ragged;
    Duration compute{0};
  };

  Engine(Options options, std::unique_ptr<Stream> stream, Scheduler* scheduler,
         CompletionThread* completion, Observer* observer);
  void Calibrate();
  void Loop();
  void Begin(Batch batch, Time now);
  void RunDocumentUnit();
  void RunQueries();
  void Finish(LaneState& lane, Time now);
  void Fail(LaneState& lane, const absl::Status& status, Time now);
  // The stream failed and stays so: this batch's calls end UNAVAILABLE, and so will the next.
  void LoseDevice(LaneState& lane, const absl::Status& status, Time now);
  void Complete(std::vector<std::shared_ptr<Job>> jobs);
  void WaitForWork(uint64_t seen);

  const Options options_;
  const std::unique_ptr<Stream> stream_;
  Scheduler* const scheduler_;
  CompletionThread* const completion_;
  Observer* const observer_;
  LaneState lanes_[kLanes];
  double document_flops_per_second_ = 0;  // measured; the engine's thread alone writes it

  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t wakes_ = 0;      // guarded by mutex_
  bool finish_ = false;     // guarded by mutex_
  Time finish_deadline_{};  // guarded by mutex_
  std::thread thread_;
};

}  // namespace octavo
