// Decides what is admitted, what runs next and what is dropped. Two lanes, each a queue with a
// token budget and limit. Has no thread and no clock: `now` is passed in, so tests crank it by
// hand. All methods are thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/job.h"

namespace octavo {

struct LaneLimits {
  int64_t max_queue_tokens = 0;  // admitted and not yet in a batch
  int64_t max_batch_tokens = 0;  // a batch takes whole inputs up to this, at least one
};

struct SchedulerOptions {
  LaneLimits lanes[kLanes];
  // Share of device time documents keep while both lanes have work.
  double document_min_share = 0.2;
};

enum class Verdict : uint8_t {
  kAdmitted,
  kFull,                 // the lane's queue limit; retry_delay says when to try again
  kDeadlineUnreachable,  // the estimated wait exceeds the deadline
  kDraining,             // Stop was called
};

struct Admission {
  Verdict verdict = Verdict::kAdmitted;
  Duration retry_delay{0};     // from the queue length and the lane's measured rate
  Duration estimated_wait{0};
};

// Whole inputs of one lane that run together.
struct Batch {
  struct Item {
    std::shared_ptr<Job> job;
    size_t input = 0;
  };
  Lane lane = Lane::kQuery;
  std::vector<Item> items;
  int64_t tokens = 0;
};

// What an engine should do now.
struct Decision {
  enum class Step : uint8_t { kIdle, kBegin, kContinue };
  Step step = Step::kIdle;
  Batch batch;  // kBegin
  // Jobs dropped while deciding (cancelled, expired): status is set, `done` still to be called by
  // the engine's completion thread.
  std::vector<std::shared_ptr<Job>> dropped;
};

struct LaneSnapshot {
  int64_t queue_requests = 0;
  int64_t queue_tokens = 0;      // admitted, in tokens, tokenized or not
  Duration oldest{0};            // age of the oldest job waiting
  int64_t limit_tokens = 0;
};

class Scheduler {
 public:
  // `wake` is called, without a lock held, whenever an idle engine may find work.
  Scheduler(const SchedulerOptions& options, std::function<void()> wake);

  // Reserves `tokens` (an estimate by bytes, before tokenizing) of the lane's queue. A job larger
  // than the limit is admitted when the queue is empty. What is admitted must be given to Submit or
  // Release.
  Admission Admit(Lane lane, int64_t tokens, Time deadline, Time now);

  // As Admit, for streams, which wait instead of failing. True: admitted now. False: `admitted` is
  // called once, later, without a lock held, by the thread that made room (it must be short), in
  // the order of asking; the tokens are reserved then. After Stop, `admitted` is still called, so
  // that nobody waits for ever; the job's Submit then ends it. `*ticket` can cancel the wait.
  bool AdmitOrWait(Lane lane, int64_t tokens, Time now, std::function<void()> admitted,
                   uint64_t* ticket);
  // True if the wait was still pending and is now cancelled: `admitted` will not be called.
  bool CancelWait(uint64_t ticket);

  // Gives back a reservation that will not be submitted.
  void Release(Lane lane, int64_t tokens, Time now);

  // Queues an admitted, tokenized job and corrects its reservation. A job without inputs is
  // invalid. After Stop the job is refused: returns false, status is UNAVAILABLE, and the caller
  // completes it.
  bool Submit(std::shared_ptr<Job> job, Time now);

  // What to do next on an engine. `document_running`: the engine holds a document batch with units
  // left; kContinue then means: run its next unit. Queries come first, except that documents keep
  // document_min_share of the device while both lanes have work.
  Decision Next(bool document_running, Time now);
  // True if a query waits that Next would prefer to a document unit now. Cheap: called between
  // units.
  bool QueryWaiting() const;

  // Charges device time to a lane: after a query batch, after each document unit.
  void Charge(Lane lane, Duration busy, Time now);

  // Ends a batch: records rates, marks its inputs done and returns the jobs that are complete now
  // (every input computed, or dropped after part of it was). `status` not OK fails every job in the
  // batch, whole. Results must already be in the jobs' `vectors`.
  std::vector<std::shared_ptr<Job>> Finish(const Batch& batch, const absl::Status& status,
                                           Duration compute, Time now);

  // No more admissions (kDraining) nor submissions; what is queued still runs.
  void Stop();
  // Takes everything queued, with `status`: a device was lost, or the grace is over.
  std::vector<std::shared_ptr<Job>> Drain(const absl::Status& status);

  LaneSnapshot Snapshot(Lane lane, Time now) const;
  // Tokens a second this lane was measured to compute (0 until known), for estimates.
  double MeasuredRate(Lane lane) const;

 private:
  struct Waiter {
    uint64_t ticket = 0;
    int64_t tokens = 0;
    std::function<void()> admitted;
  };
  struct Queue {
    LaneLimits limits;
    std::deque<std::shared_ptr<Job>> jobs;
    std::list<Waiter> waiters;
    int64_t tokens = 0;  // reserved: admitted and not yet in a batch
    double rate = 0;     // tokens a second of compute, a moving average
  };

  const SchedulerOptions options_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  Queue queues_[kLanes];
  double document_credit_seconds_ = 0;  // device time owed to documents
  uint64_t next_ticket_ = 1;
  bool stopped_ = false;
};

}  // namespace octavo
