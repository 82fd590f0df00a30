// Decides what is admitted, what runs next and what is dropped. Two lanes, each a queue with a
// token budget and limit. Has no thread and no clock: `now` is passed in, so tests crank it by
// hand: everything it does follows from the calls and their `now`. All methods are thread-safe and
// hold one short lock; `wake` and the `admitted` callbacks run without it, on the calling thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string_view>
#include <vector>

#include "runtime/job.h"

namespace octavo {

struct LaneLimits {
  int64_t max_queue_tokens = 0;  // admitted and not yet in a batch
  int64_t max_batch_tokens = 0;  // a batch takes whole inputs up to this, at least one
};

struct SchedulerOptions {
  LaneLimits lanes[kLanes];
  // Share of device time documents keep while both lanes have work. Taken into [0, 0.95].
  double document_min_share = 0.2;
  // How many engines take work at first, for estimates.
  int engines = 1;
};

enum class Verdict : uint8_t {
  kAdmitted,
  kFull,                 // the lane's queue limit; retry_delay says when to try again
  kDeadlineUnreachable,  // the estimated wait exceeds the deadline
  kDraining,             // Stop was called
};

struct Admission {
  Verdict verdict = Verdict::kAdmitted;
  // Unless admitted or draining: how long until the lane should have room (or the wait fit the
  // deadline), from its queue and its measured rate; within [1 ms, 30 s].
  Duration retry_delay{0};
  // Until the job would begin, if admitted now. What documents have queued counts for a query only
  // up to their guaranteed share of the device, and the reverse. 0 while no rate is known.
  Duration estimated_wait{0};
};

// Whole inputs of one lane that run together.
struct Batch {
  struct Item {
    std::shared_ptr<Job> job;
    size_t input = 0;
  };
  Lane lane = Lane::kQuery;
  std::vector<Item> items;  // the inputs of a job are neighbours
  int64_t tokens = 0;
  // Set by the engine before Finish, which copies them to the jobs under its lock: with several
  // engines a job can be in two batches at once, so engines write nothing of a Job but the rows of
  // `vectors` they computed.
  const Format* format = nullptr;
  std::string_view device;
  // Empty, or one an item: not OK (a row that is not finite) fails that item's job, whole.
  std::vector<absl::Status> statuses;
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
  int64_t queue_requests = 0;  // jobs submitted with inputs not yet in a batch
  int64_t queue_tokens = 0;    // admitted, in tokens, tokenized or not
  Duration oldest{0};          // age of the oldest job waiting
  int64_t limit_tokens = 0;
};

class Scheduler {
 public:
  // `wake` is called, without a lock held, whenever an idle engine may find work (Submit) or should
  // look up (Stop). It may come while an engine is between Next and its sleep: it must leave a
  // mark.
  Scheduler(const SchedulerOptions& options, std::function<void()> wake);

  // Reserves `tokens` (an estimate by bytes, before tokenizing) of the lane's queue. A job larger
  // than the limit is admitted when the queue is empty. While streams wait, a small job may take
  // room that the first of them cannot use, up to one batch of tokens before that one is admitted:
  // bulk streams do not shut out single calls, nor single calls a stream. What is admitted must be
  // given to Submit or Release.
  Admission Admit(Lane lane, int64_t tokens, Time deadline, Time now);

  // As Admit, for streams, which wait instead of failing. True: admitted now. False: `admitted` is
  // called once, later, without a lock held, by a thread that made room (it must be short), in the
  // order of asking; the tokens are reserved then. It may call the scheduler. After Stop,
  // `admitted` is still called, so that nobody waits for ever; the job's Submit then ends it.
  // `*ticket` can cancel the wait; it is set before `admitted` can run, to 0 when admitted now.
  bool AdmitOrWait(Lane lane, int64_t tokens, Time now, std::function<void()> admitted,
                   uint64_t* ticket);
  // True if the wait was still pending and is now cancelled: `admitted` will not be called. False:
  // it was called, is being called, or will be at once; its tokens are reserved.
  bool CancelWait(uint64_t ticket);

  // Gives back a reservation that will not be submitted.
  void Release(Lane lane, int64_t tokens, Time now);

  // Queues an admitted, tokenized job and corrects its reservation. False: refused, its reservation
  // is given back, and the caller completes it; status is UNAVAILABLE after Stop, INVALID_ARGUMENT
  // for a job without inputs or with an empty one.
  bool Submit(std::shared_ptr<Job> job, Time now);

  // What to do next on an engine. `document_running`: the engine holds a document batch with units
  // left; kContinue then means: run its next unit. Queries come first, except that documents keep
  // document_min_share of the device while both lanes have work: each second of query work earns
  // them share / (1 - share) seconds, and a document unit goes before a waiting query once a whole
  // unit is earned. A device that computes later is given at most kDocumentUnits of them: one runs,
  // one is queued. `units_in_flight` were given to it and are not yet charged: while there are any,
  // no unit goes before a waiting query. Batches take inputs strictly in the order of Submit. A job
  // cancelled or expired is never put into a batch; wherever it stands in the queue it is dropped
  // within 10 ms of calls.
  static constexpr int kDocumentUnits = 2;
  Decision Next(bool document_running, Time now, int units_in_flight = 0);
  // True if a query waits that Next would prefer to a document unit now (or drop). Cheap, no lock:
  // called between units.
  bool QueryWaiting() const;

  // Charges device time to a lane: after a query batch, after each document unit.
  void Charge(Lane lane, Duration busy, Time now);

  // Ends a batch: records rates, marks its inputs done and returns the jobs that are complete now
  // (every input computed, or dropped after part of it was: status says so, `vectors` is cleared).
  // `status` not OK fails every job in the batch, whole. Results must already be in the jobs'
  // `vectors`. A job whose inputs were all computed ends OK, also if it was cancelled meanwhile.
  std::vector<std::shared_ptr<Job>> Finish(const Batch& batch, const absl::Status& status,
                                           Duration compute, Time now);

  // How many engines take work from now on, at least 1.
  void SetEngines(int engines);

  // No more admissions (kDraining) nor submissions; what is queued still runs.
  void Stop();
  // Takes everything queued, with `status` (not OK): a device was lost, or the grace is over. Jobs
  // partly in a running batch are not returned: they end with `status` when that batch finishes.
  std::vector<std::shared_ptr<Job>> Drain(const absl::Status& status);

  LaneSnapshot Snapshot(Lane lane, Time now) const;
  // Tokens a second one engine was measured to compute in this lane (0 until known), for estimates.
  double MeasuredRate(Lane lane) const;

 private:
  struct Waiter {
    uint64_t ticket = 0;
    int64_t tokens = 0;
    std::function<void()> admitted;
  };
  struct Queue {
    LaneLimits limits;
    std::deque<std::shared_ptr<Job>> jobs;  // each has inputs not yet in a batch
    std::list<Waiter> waiters;
    int64_t tokens = 0;            // reserved: admitted and not yet in a batch
    int64_t waiting_tokens = 0;    // of the waiters
    int64_t overtaken_tokens = 0;  // admitted past the first waiter
    int64_t running_tokens = 0;    // of the batches begun and not finished
    int running_batches = 0;
    Time next_sweep = Time::min();
    // Decayed sums over finished batches; their ratio is the rate.
    double rate_tokens = 0;
    double rate_seconds = 0;
  };

  Queue& queue(Lane lane) { return queues_[static_cast<int>(lane)]; }
  const Queue& queue(Lane lane) const { return queues_[static_cast<int>(lane)]; }

  // All below need the lock.
  bool Fits(const Queue& queue, int64_t tokens) const;
  bool FitsPastWaiters(const Queue& queue, int64_t tokens) const;
  double Rate(Lane lane) const;
  double SecondsToDrain(Lane lane, int64_t tokens) const;
  bool DocumentWork() const;
  bool DocumentTurn() const;
  bool Drop(Queue* queue, const std::shared_ptr<Job>& job, const absl::Status& status);
  void DropDead(Queue* queue, Time now, std::vector<std::shared_ptr<Job>>* dropped);
  Batch TakeBatch(Lane lane, Time now, std::vector<std::shared_ptr<Job>>* dropped);
  void RecordRate(Queue* queue, int64_t tokens, Duration compute);
  // Every change ends here: refreshes what follows from it, admits waiters that fit and calls them,
  // in order, with the lock released. One thread at a time calls; the others leave theirs to it.
  void Publish(std::unique_lock<std::mutex>* lock);

  const SchedulerOptions options_;
  const std::function<void()> wake_;
  mutable std::mutex mutex_;
  int engines_;
  Queue queues_[kLanes];
  double document_credit_seconds_ = 0;  // device time owed to documents, never negative
  double document_unit_seconds_ = 0;    // moving average of what a unit was charged
  Time document_work_since_ = Time::max();
  uint64_t next_ticket_ = 1;
  bool stopped_ = false;
  std::deque<std::function<void()>> admitted_;  // reserved, to be called
  bool calling_admitted_ = false;
  std::atomic<bool> query_preferred_{false};
};

}  // namespace octavo
