#include "runtime/scheduler.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace octavo {
namespace {

constexpr Duration kMinRetryDelay = std::chrono::milliseconds(1);
constexpr Duration kMaxRetryDelay = std::chrono::seconds(30);
// Offered while a lane has not been measured yet.
constexpr Duration kUnknownRetryDelay = std::chrono::milliseconds(100);
// Beyond any deadline in practice, and far from overflowing a Time.
constexpr double kMaxEstimateSeconds = 24 * 3600.0;
// How often jobs behind the front of a queue are looked through.
constexpr Duration kSweepInterval = std::chrono::milliseconds(10);
// Full batches after which a measured rate has mostly forgotten what was before.
constexpr int64_t kRateWindowBatches = 8;
// Weight of the newest unit in the moving average of document units.
constexpr double kUnitWeight = 0.2;
// A nanosecond, the resolution of the clock: sums of doubles may miss a whole unit by less.
constexpr double kCreditSlackSeconds = 1e-9;

double ToSeconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

Duration ToDuration(double seconds) {
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(seconds, kMaxEstimateSeconds)));
}

SchedulerOptions Checked(SchedulerOptions options) {
  options.document_min_share = std::clamp(options.document_min_share, 0.0, 0.95);
  return options;
}

// OK for a job that should still be computed.
absl::Status Liveness(const Job& job, Time now) {
  if (job.cancelled.load(std::memory_order_relaxed)) {
    return absl::CancelledError("the caller cancelled before the work was done");
  }
  if (job.deadline <= now) {
    return absl::DeadlineExceededError("the deadline passed while the work was queued");
  }
  return absl::OkStatus();
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, std::function<void()> wake)
    : options_(Checked(options)), wake_(std::move(wake)), engines_(std::max(options.engines, 1)) {
  for (Lane lane : kAllLanes) queue(lane).limits = options.lanes[static_cast<int>(lane)];
}

bool Scheduler::Fits(const Queue& queue, int64_t tokens) const {
  return queue.tokens == 0 || queue.tokens + tokens <= queue.limits.max_queue_tokens;
}

bool Scheduler::FitsPastWaiters(const Queue& queue, int64_t tokens) const {
  return queue.tokens + tokens <= queue.limits.max_queue_tokens &&
         queue.overtaken_tokens + tokens <= queue.limits.max_batch_tokens;
}

double Scheduler::Rate(Lane lane) const {
  const Queue& measured = queue(lane);
  return measured.rate_seconds > 0 ? measured.rate_tokens / measured.rate_seconds : 0;
}

// How long the lane takes to begin `tokens` of its queue; its rate must be known. The other lane
// delays it by all its work, or by its share of the device, whichever is less: queries keep
// 1 - share, documents keep share.
double Scheduler::SecondsToDrain(Lane lane, int64_t tokens) const {
  const Lane other_lane = lane == Lane::kQuery ? Lane::kDocument : Lane::kQuery;
  const double engines = engines_;
  const double own = static_cast<double>(tokens) / (Rate(lane) * engines);
  const Queue& other = queue(other_lane);
  const double other_rate = Rate(other_lane) * engines;
  if (other_rate == 0) return own;
  const double share =
      lane == Lane::kQuery ? 1 - options_.document_min_share : options_.document_min_share;
  const double both = own + static_cast<double>(other.tokens + other.running_tokens) / other_rate;
  return share > 0 ? std::min(both, own / share) : both;
}

Admission Scheduler::Admit(Lane lane, int64_t tokens, Time deadline, Time now) {
  assert(tokens >= 0);
  std::lock_guard<std::mutex> lock(mutex_);
  Admission admission;
  if (stopped_) {
    admission.verdict = Verdict::kDraining;
    return admission;
  }
  Queue& queue = this->queue(lane);
  const bool rate_known = Rate(lane) > 0;
  if (rate_known) admission.estimated_wait = ToDuration(SecondsToDrain(lane, queue.tokens));
  const bool fits = queue.waiters.empty() ? Fits(queue, tokens) : FitsPastWaiters(queue, tokens);
  if (!fits) {
    const int64_t ahead = queue.tokens + queue.waiting_tokens;
    const int64_t excess = std::min(ahead, ahead + tokens - queue.limits.max_queue_tokens);
    admission.verdict = Verdict::kFull;
    admission.retry_delay = rate_known
                                ? ToDuration(SecondsToDrain(lane, std::max<int64_t>(excess, 0)))
                                : kUnknownRetryDelay;
  } else if (rate_known && now + admission.estimated_wait > deadline) {
    admission.verdict = Verdict::kDeadlineUnreachable;
    admission.retry_delay = now + admission.estimated_wait - std::max(deadline, now);
  } else {
    queue.tokens += tokens;
    if (!queue.waiters.empty()) queue.overtaken_tokens += tokens;
    return admission;
  }
  admission.retry_delay = std::clamp(admission.retry_delay, kMinRetryDelay, kMaxRetryDelay);
  return admission;
}

bool Scheduler::AdmitOrWait(Lane lane, int64_t tokens, Time /*now*/, std::function<void()> admitted,
                            uint64_t* ticket) {
  assert(tokens >= 0);
  std::lock_guard<std::mutex> lock(mutex_);
  Queue& queue = this->queue(lane);
  *ticket = 0;
  if (stopped_ || (queue.waiters.empty() && Fits(queue, tokens))) {
    queue.tokens += tokens;
    return true;
  }
  if (queue.waiters.empty()) queue.overtaken_tokens = 0;
  *ticket = next_ticket_++;
  queue.waiting_tokens += tokens;
  queue.waiters.push_back({*ticket, tokens, std::move(admitted)});
  return false;
}

bool Scheduler::CancelWait(uint64_t ticket) {
  std::function<void()> cancelled;  // destroyed after the lock: it may own what calls back
  std::unique_lock<std::mutex> lock(mutex_);
  for (Queue& queue : queues_) {
    const auto waiter = std::find_if(queue.waiters.begin(), queue.waiters.end(),
                                     [&](const Waiter& w) { return w.ticket == ticket; });
    if (waiter == queue.waiters.end()) continue;
    cancelled = std::move(waiter->admitted);
    queue.waiting_tokens -= waiter->tokens;
    queue.waiters.erase(waiter);
    Publish(&lock);  // the one behind may fit where this one did not
    lock.unlock();
    return true;
  }
  lock.unlock();
  return false;
}

void Scheduler::Release(Lane lane, int64_t tokens, Time /*now*/) {
  std::unique_lock<std::mutex> lock(mutex_);
  queue(lane).tokens -= tokens;
  assert(queue(lane).tokens >= 0);
  Publish(&lock);
}

bool Scheduler::Submit(std::shared_ptr<Job> job, Time now) {
  bool valid = !job->inputs.empty();
  job->tokens = 0;
  for (const std::vector<int32_t>& input : job->inputs) {
    valid = valid && !input.empty();
    job->tokens += static_cast<int64_t>(input.size());
  }
  std::unique_lock<std::mutex> lock(mutex_);
  Queue& queue = this->queue(job->lane);
  queue.tokens -= std::exchange(job->admitted_tokens, job->tokens);
  assert(queue.tokens >= 0);
  if (!valid || stopped_) {
    job->status = valid ? absl::UnavailableError("the server is shutting down")
                        : absl::InvalidArgumentError("a job needs inputs, each with a token");
    job->vectors.clear();
    Publish(&lock);
    return false;
  }
  queue.tokens += job->tokens;
  job->submitted = now;
  job->next_input = 0;
  job->unfinished_inputs = job->inputs.size();
  job->begun = false;
  job->status = absl::OkStatus();
  if (job->lane == Lane::kDocument) document_work_since_ = std::min(document_work_since_, now);
  queue.jobs.push_back(std::move(job));
  Publish(&lock);
  lock.unlock();
  wake_();
  return true;
}

// Ends a job that is in `queue` or was just taken from it whole; its inputs in running batches
// stay. True if there are none: the job is complete.
bool Scheduler::Drop(Queue* queue, const std::shared_ptr<Job>& job, const absl::Status& status) {
  for (size_t i = job->next_input; i < job->inputs.size(); ++i) {
    queue->tokens -= static_cast<int64_t>(job->inputs[i].size());
    --job->unfinished_inputs;
  }
  assert(queue->tokens >= 0);
  job->next_input = job->inputs.size();
  job->status = status;
  if (job->unfinished_inputs > 0) return false;
  job->vectors.clear();
  return true;
}

// The front of the queue always, the whole queue at intervals.
void Scheduler::DropDead(Queue* queue, Time now, std::vector<std::shared_ptr<Job>>* dropped) {
  if (now >= queue->next_sweep) {
    queue->next_sweep = now + kSweepInterval;
    std::erase_if(queue->jobs, [&](const std::shared_ptr<Job>& job) {
      const absl::Status status = Liveness(*job, now);
      if (status.ok()) return false;
      if (Drop(queue, job, status)) dropped->push_back(job);
      return true;
    });
    return;
  }
  while (!queue->jobs.empty()) {
    const absl::Status status = Liveness(*queue->jobs.front(), now);
    if (status.ok()) return;
    const std::shared_ptr<Job> job = std::move(queue->jobs.front());
    queue->jobs.pop_front();
    if (Drop(queue, job, status)) dropped->push_back(job);
  }
}

// The front job must be alive.
Batch Scheduler::TakeBatch(Lane lane, Time now, std::vector<std::shared_ptr<Job>>* dropped) {
  Queue& queue = this->queue(lane);
  Batch batch;
  batch.lane = lane;
  while (!queue.jobs.empty()) {
    const std::shared_ptr<Job>& job = queue.jobs.front();
    const int64_t tokens = static_cast<int64_t>(job->inputs[job->next_input].size());
    if (!batch.items.empty() && batch.tokens + tokens > queue.limits.max_batch_tokens) break;
    if (!job->begun) {
      job->begun = true;
      job->queue_time = now - job->submitted;
    }
    batch.items.push_back({job, job->next_input++});
    batch.tokens += tokens;
    if (job->next_input < job->inputs.size()) continue;
    queue.jobs.pop_front();
    DropDead(&queue, now, dropped);
  }
  queue.tokens -= batch.tokens;
  assert(queue.tokens >= 0);
  queue.running_tokens += batch.tokens;
  ++queue.running_batches;
  return batch;
}

bool Scheduler::DocumentWork() const {
  const Queue& documents = queue(Lane::kDocument);
  return !documents.jobs.empty() || documents.running_batches > 0;
}

bool Scheduler::DocumentTurn() const {
  return document_credit_seconds_ > 0 &&
         document_credit_seconds_ + kCreditSlackSeconds >= document_unit_seconds_;
}

Decision Scheduler::Next(bool document_running, Time now, int units_in_flight) {
  std::unique_lock<std::mutex> lock(mutex_);
  Decision decision;
  for (Queue& queue : queues_) DropDead(&queue, now, &decision.dropped);
  const bool query = !queue(Lane::kQuery).jobs.empty();
  const bool document = document_running || !queue(Lane::kDocument).jobs.empty();
  if (query && !(document && DocumentTurn() && units_in_flight == 0)) {
    decision.step = Decision::Step::kBegin;
    decision.batch = TakeBatch(Lane::kQuery, now, &decision.dropped);
  } else if (units_in_flight >= kDocumentUnits) {
    decision.step = Decision::Step::kIdle;
  } else if (document_running) {
    decision.step = Decision::Step::kContinue;
  } else if (document) {
    decision.step = Decision::Step::kBegin;
    decision.batch = TakeBatch(Lane::kDocument, now, &decision.dropped);
  }
  Publish(&lock);
  return decision;
}

bool Scheduler::QueryWaiting() const { return query_preferred_.load(std::memory_order_acquire); }

void Scheduler::Charge(Lane lane, Duration busy, Time now) {
  const double seconds = ToSeconds(busy);
  std::unique_lock<std::mutex> lock(mutex_);
  if (lane == Lane::kDocument) {
    document_unit_seconds_ =
        document_unit_seconds_ == 0
            ? seconds
            : document_unit_seconds_ + kUnitWeight * (seconds - document_unit_seconds_);
    // Never below 0: a unit that ran while no query waited is owed to nobody.
    document_credit_seconds_ = std::max(document_credit_seconds_ - seconds, 0.0);
  } else if (DocumentWork() && document_work_since_ < now) {
    // Documents earn for the part of the batch they waited through. At most two units stay
    // unspent beyond what this batch earned, so that credit documents cannot spend (too few of
    // them for the engines) does not pile up against later queries.
    const double share = options_.document_min_share;
    const double waited = std::min(seconds, ToSeconds(now - document_work_since_));
    const double earned = waited * share / (1 - share);
    document_credit_seconds_ =
        std::min(document_credit_seconds_, 2 * document_unit_seconds_) + earned;
  }
  Publish(&lock);
}

void Scheduler::RecordRate(Queue* queue, int64_t tokens, Duration compute) {
  if (compute <= Duration::zero()) return;
  // Forgetting goes by tokens, not by batches: a full batch says more about how fast a queue
  // drains than a hundred lone queries.
  const double window = static_cast<double>(kRateWindowBatches *
                                            std::max<int64_t>(queue->limits.max_batch_tokens, 1));
  const double keep = std::max(0.0, 1 - static_cast<double>(tokens) / window);
  queue->rate_tokens = queue->rate_tokens * keep + static_cast<double>(tokens);
  queue->rate_seconds = queue->rate_seconds * keep + ToSeconds(compute);
}

std::vector<std::shared_ptr<Job>> Scheduler::Finish(const Batch& batch, const absl::Status& status,
                                                    Duration compute, Time /*now*/) {
  std::vector<std::shared_ptr<Job>> complete;
  std::unique_lock<std::mutex> lock(mutex_);
  Queue& queue = this->queue(batch.lane);
  --queue.running_batches;
  queue.running_tokens -= batch.tokens;
  assert(queue.running_batches >= 0 && queue.running_tokens >= 0);
  if (status.ok()) RecordRate(&queue, batch.tokens, compute);
  for (size_t begin = 0, end = 0; begin < batch.items.size(); begin = end) {
    const std::shared_ptr<Job>& job = batch.items[begin].job;
    absl::Status failure = job->status.ok() ? status : job->status;
    for (; end < batch.items.size() && batch.items[end].job == job; ++end) {
      if (failure.ok() && !batch.statuses.empty()) failure = batch.statuses[end];
    }
    assert(job->unfinished_inputs >= end - begin);
    job->unfinished_inputs -= end - begin;
    job->compute_time += compute;
    if (batch.format != nullptr) job->format = batch.format;
    if (!batch.device.empty()) job->device = batch.device;
    if (!failure.ok() && job->next_input < job->inputs.size()) {
      const auto queued = std::find(queue.jobs.begin(), queue.jobs.end(), job);
      assert(queued != queue.jobs.end());
      queue.jobs.erase(queued);
      Drop(&queue, job, failure);
    }
    if (job->status.ok()) job->status = failure;
    if (job->unfinished_inputs > 0) continue;
    if (!job->status.ok()) job->vectors.clear();
    complete.push_back(job);
  }
  Publish(&lock);
  return complete;
}

void Scheduler::SetEngines(int engines) {
  std::lock_guard<std::mutex> lock(mutex_);
  engines_ = std::max(engines, 1);
}

void Scheduler::Stop() {
  std::unique_lock<std::mutex> lock(mutex_);
  stopped_ = true;
  Publish(&lock);
  lock.unlock();
  wake_();
}

std::vector<std::shared_ptr<Job>> Scheduler::Drain(const absl::Status& status) {
  assert(!status.ok());
  std::vector<std::shared_ptr<Job>> complete;
  std::unique_lock<std::mutex> lock(mutex_);
  for (Queue& queue : queues_) {
    for (const std::shared_ptr<Job>& job : std::exchange(queue.jobs, {})) {
      if (Drop(&queue, job, status)) complete.push_back(job);
    }
  }
  Publish(&lock);
  return complete;
}

void Scheduler::Publish(std::unique_lock<std::mutex>* lock) {
  if (!DocumentWork()) {
    document_credit_seconds_ = 0;
    document_work_since_ = Time::max();
  }
  query_preferred_.store(!queue(Lane::kQuery).jobs.empty() && !DocumentTurn(),
                         std::memory_order_release);
  for (Queue& queue : queues_) {
    while (!queue.waiters.empty() && (stopped_ || Fits(queue, queue.waiters.front().tokens))) {
      Waiter& waiter = queue.waiters.front();
      queue.tokens += waiter.tokens;
      queue.waiting_tokens -= waiter.tokens;
      queue.overtaken_tokens = 0;
      admitted_.push_back(std::move(waiter.admitted));
      queue.waiters.pop_front();
    }
  }
  if (calling_admitted_) return;
  calling_admitted_ = true;
  while (!admitted_.empty()) {
    std::function<void()> admitted = std::move(admitted_.front());
    admitted_.pop_front();
    lock->unlock();
    admitted();
    admitted = nullptr;  // what it holds is destroyed without the lock
    lock->lock();
  }
  calling_admitted_ = false;
}

LaneSnapshot Scheduler::Snapshot(Lane lane, Time now) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const Queue& queue = this->queue(lane);
  LaneSnapshot snapshot;
  snapshot.queue_requests = static_cast<int64_t>(queue.jobs.size());
  snapshot.queue_tokens = queue.tokens;
  snapshot.limit_tokens = queue.limits.max_queue_tokens;
  if (!queue.jobs.empty()) {
    snapshot.oldest = std::max(now - queue.jobs.front()->submitted, Duration::zero());
  }
  return snapshot;
}

double Scheduler::MeasuredRate(Lane lane) const {
  std::lock_guard<std::mutex> lock(mutex_);
  return Rate(lane);
}

}  // namespace octavo
