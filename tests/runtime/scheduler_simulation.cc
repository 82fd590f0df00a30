#include "tests/runtime/scheduler_simulation.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "gtest/gtest.h"

namespace octavo {
namespace {

int64_t Tokens(const std::vector<int>& lengths) {
  int64_t tokens = 0;
  for (int length : lengths) tokens += length;
  return tokens;
}

int Index(Lane lane) { return static_cast<int>(lane); }

}  // namespace

Simulation::Simulation(Scenario scenario)
    : scenario_(std::move(scenario)),
      random_(scenario_.seed),
      scheduler_(scenario_.options, [this] {
        for (const auto& engine : engines_) {
          if (!engine->busy) At(now_, [this, e = engine.get()] { Turn(e); });
        }
      }) {
  for (int i = 0; i < scenario_.options.engines; ++i) {
    engines_.push_back(std::make_unique<Engine>());
  }
}

Simulation::~Simulation() = default;

void Simulation::At(Time time, std::function<void()> run) {
  events_.push({time, next_order_++, std::move(run)});
}

void Simulation::Run() {
  for (const Arrival& arrival : scenario_.arrivals) {
    At(arrival.at, [this, &arrival] { Arrive(arrival, nullptr); });
  }
  for (const Greedy& greedy : scenario_.greedy) {
    for (int i = 0; i < greedy.window; ++i) {
      At(greedy.job.at, [this, &greedy] { Arrive(greedy.job, &greedy); });
    }
  }
  if (scenario_.stop != Time::max()) {
    At(scenario_.stop, [this] {
      stopped_ = true;
      scheduler_.Stop();
    });
  }
  if (scenario_.drain != Time::max()) {
    At(scenario_.drain,
       [this] { AnswerJobs(scheduler_.Drain(absl::UnavailableError("the grace is over"))); });
  }
  while (!events_.empty()) {
    Event event = events_.top();
    events_.pop();
    now_ = event.at;
    event.run();
    CheckBounds();
    if (::testing::Test::HasFatalFailure()) return;
  }
}

void Simulation::CheckBounds() {
  for (Lane lane : kAllLanes) {
    const LaneSnapshot snapshot = scheduler_.Snapshot(lane, now_);
    EXPECT_GE(snapshot.queue_tokens, 0);
    if (stopped_) continue;  // those who waited hold reservations until their Submit is refused
    EXPECT_LE(snapshot.queue_tokens, std::max(snapshot.limit_tokens, largest_estimate_));
  }
}

void Simulation::Arrive(const Arrival& arrival, const Greedy* greedy) {
  if (greedy != nullptr && now_ >= scenario_.end) return;
  outcomes_.push_back(std::make_unique<Outcome>());
  Outcome* outcome = outcomes_.back().get();
  outcome->arrival = arrival;
  outcome->arrival.at = now_;
  outcome->computed.assign(arrival.lengths.size(), 0);
  if (greedy != nullptr) greedy_of_[outcome] = greedy;

  auto job = std::make_shared<Job>();
  job->lane = arrival.lane;
  for (int length : arrival.lengths) job->inputs.emplace_back(length, 1);
  if (arrival.deadline > Duration::zero()) job->deadline = now_ + arrival.deadline;
  job->admitted_tokens =
      static_cast<int64_t>(std::ceil(Tokens(arrival.lengths) * arrival.estimate));
  largest_estimate_ = std::max(largest_estimate_, job->admitted_tokens);
  outcome->job = job;
  by_job_[job.get()] = outcome;
  if (arrival.cancel_after > Duration::zero()) {
    At(now_ + arrival.cancel_after, [this, outcome] { Cancel(outcome); });
  }

  if (arrival.stream) {
    const bool admitted = scheduler_.AdmitOrWait(
        arrival.lane, job->admitted_tokens, now_,
        [this, outcome] {
          EXPECT_FALSE(outcome->wait_cancelled);
          EXPECT_GT(outcome->ticket, last_ticket_[Index(outcome->arrival.lane)])
              << "waiters come in the order of asking";
          last_ticket_[Index(outcome->arrival.lane)] = outcome->ticket;
          Admitted(outcome);
        },
        &outcome->ticket);
    if (admitted) Admitted(outcome);
    return;
  }
  const Admission admission =
      scheduler_.Admit(arrival.lane, job->admitted_tokens, job->deadline, now_);
  outcome->verdict = admission.verdict;
  outcome->estimated_wait = admission.estimated_wait;
  if (admission.verdict == Verdict::kAdmitted) {
    EXPECT_EQ(admission.retry_delay, Duration::zero());
    Admitted(outcome);
    return;
  }
  if (admission.verdict != Verdict::kDraining) {
    EXPECT_GE(admission.retry_delay, std::chrono::milliseconds(1));
    EXPECT_LE(admission.retry_delay, std::chrono::seconds(30));
  }
  outcome->retry_delay = admission.retry_delay;
  Answer(outcome);
}

void Simulation::Admitted(Outcome* outcome) {
  EXPECT_FALSE(outcome->admitted);
  outcome->admitted = true;
  outcome->admitted_at = now_;
  At(now_ + outcome->arrival.tokenizing, [this, outcome] { Submit(outcome); });
}

void Simulation::Cancel(Outcome* outcome) {
  if (outcome->answers > 0) return;
  outcome->job->cancelled = true;
  if (outcome->ticket != 0 && scheduler_.CancelWait(outcome->ticket)) {
    EXPECT_FALSE(outcome->admitted);
    outcome->wait_cancelled = true;
    Answer(outcome);
  }
}

void Simulation::Submit(Outcome* outcome) {
  Job& job = *outcome->job;
  if (job.cancelled && outcome->arrival.release_if_cancelled) {
    outcome->released = true;
    scheduler_.Release(job.lane, job.admitted_tokens, now_);
    Answer(outcome);
    return;
  }
  outcome->submitted = true;
  outcome->submitted_at = now_;
  SpentSoFar(outcome->spent_at_submit);
  if (scheduler_.Submit(outcome->job, now_)) {
    submitted_order_[Index(job.lane)].push_back(&job);
  } else {
    EXPECT_TRUE(stopped_);
    EXPECT_TRUE(absl::IsUnavailable(job.status));
    Answer(outcome);
  }
}

void Simulation::Answer(Outcome* outcome) {
  EXPECT_EQ(++outcome->answers, 1) << "answered twice";
  outcome->answered_at = now_;
  const auto greedy = greedy_of_.find(outcome);
  if (greedy == greedy_of_.end()) return;
  At(now_ + outcome->retry_delay, [this, client = greedy->second] { Arrive(client->job, client); });
}

void Simulation::AnswerJobs(const std::vector<std::shared_ptr<Job>>& jobs) {
  for (const std::shared_ptr<Job>& job : jobs) {
    EXPECT_EQ(job->unfinished_inputs, 0u);
    Answer(by_job_.at(job.get()));
  }
}

void Simulation::SpentSoFar(Duration (&spent)[kLanes]) const {
  for (int l = 0; l < kLanes; ++l) spent[l] = spent_[l];
  for (const auto& engine : engines_) {
    if (engine->busy) spent[Index(engine->lane)] += now_ - engine->begun;
  }
}

void Simulation::Turn(Engine* engine) {
  if (engine->busy) return;
  const bool document_running = engine->documents.has_value();
  const bool query_waiting = scheduler_.QueryWaiting();
  const bool queries = scheduler_.Snapshot(Lane::kQuery, now_).queue_requests > 0;
  const bool documents =
      document_running || scheduler_.Snapshot(Lane::kDocument, now_).queue_requests > 0;
  if (queries && documents && !contended_) contentions_.emplace_back();
  contended_ = queries && documents;

  Decision decision = scheduler_.Next(document_running, now_);
  AnswerJobs(decision.dropped);
  const bool begins_query =
      decision.step == Decision::Step::kBegin && decision.batch.lane == Lane::kQuery;
  if (document_running && decision.dropped.empty()) {
    EXPECT_EQ(query_waiting, begins_query) << "QueryWaiting disagrees with Next";
  }
  switch (decision.step) {
    case Decision::Step::kIdle:
      EXPECT_FALSE(document_running);
      for (Lane lane : kAllLanes) {
        EXPECT_EQ(scheduler_.Snapshot(lane, now_).queue_requests, 0) << "idle beside work";
      }
      log_ += 'i';
      return;
    case Decision::Step::kContinue:
      EXPECT_TRUE(document_running);
      RunDocumentUnit(engine);
      return;
    case Decision::Step::kBegin:
      Begin(decision.batch);
      if (begins_query) {
        RunQueries(engine, std::move(decision.batch));
      } else {
        EXPECT_FALSE(document_running);
        engine->tokens_left = decision.batch.tokens;
        engine->document_compute = Duration::zero();
        engine->documents = std::move(decision.batch);
        RunDocumentUnit(engine);
      }
      return;
  }
}

// Checks a batch as it begins.
void Simulation::Begin(const Batch& batch) {
  const int l = Index(batch.lane);
  ++batches_;
  ASSERT_FALSE(batch.items.empty());
  const int64_t limit = scenario_.options.lanes[l].max_batch_tokens;
  EXPECT_TRUE(batch.tokens <= limit || batch.items.size() == 1) << batch.tokens;
  int64_t tokens = 0;
  for (const Batch::Item& item : batch.items) {
    Outcome* outcome = by_job_.at(item.job.get());
    tokens += outcome->arrival.lengths[item.input];
    EXPECT_EQ(outcome->job->lane, batch.lane);
    EXPECT_FALSE(outcome->job->cancelled) << "computes what is cancelled";
    EXPECT_GT(outcome->job->deadline, now_) << "computes what has expired";
    EXPECT_EQ(++outcome->computed[item.input], 1) << "computes an input twice";
    if (outcome->begun_at == Time::max()) {
      outcome->begun_at = now_;
      SpentSoFar(outcome->spent_at_begin);
      EXPECT_EQ(outcome->job->queue_time, now_ - outcome->submitted_at);
      // Only jobs that are dead may have been passed over.
      size_t& next = next_to_begin_[l];
      for (; submitted_order_[l].at(next) != item.job.get(); ++next) {
        EXPECT_FALSE(by_job_.at(submitted_order_[l][next])->job->status.ok()) << "out of order";
      }
      ++next;
    }
    if (item.input > 0) {
      EXPECT_EQ(outcome->computed[item.input - 1], 1) << "out of order";
    }
  }
  EXPECT_EQ(batch.tokens, tokens);
  log_ += batch.lane == Lane::kQuery ? 'q' : 'd';
  log_ += std::to_string(tokens);
  log_ += '@';
  log_ += std::to_string(now_.time_since_epoch().count());
}

void Simulation::Spend(Engine* engine, Lane lane, Duration busy, std::function<void()> then) {
  engine->busy = true;
  engine->lane = lane;
  engine->begun = now_;
  if (contended_) contentions_.back().spent[Index(lane)] += busy;
  longest_[Index(lane)] = std::max(longest_[Index(lane)], busy);
  At(now_ + busy, [this, engine, lane, busy, then = std::move(then)] {
    engine->busy = false;
    spent_[Index(lane)] += busy;
    scheduler_.Charge(lane, busy, now_);
    then();
    Turn(engine);
  });
}

void Simulation::RunQueries(Engine* engine, Batch batch) {
  const Duration busy = scenario_.costs.query_batch + batch.tokens * scenario_.costs.query_token;
  Spend(engine, Lane::kQuery, busy, [this, busy, batch = std::move(batch)] {
    AnswerJobs(scheduler_.Finish(batch, absl::OkStatus(), busy, now_));
  });
}

void Simulation::RunDocumentUnit(Engine* engine) {
  const Costs& costs = scenario_.costs;
  const int64_t tokens = std::min(engine->tokens_left, costs.document_unit_tokens);
  std::uniform_real_distribution<double> jitter(1 - costs.document_jitter,
                                                1 + costs.document_jitter);
  const Duration busy(static_cast<int64_t>(costs.document_unit.count() * jitter(random_) * tokens /
                                           costs.document_unit_tokens));
  engine->tokens_left -= tokens;
  engine->document_compute += busy;
  Spend(engine, Lane::kDocument, busy, [this, engine] {
    if (engine->tokens_left > 0) return;
    const Batch batch = *std::exchange(engine->documents, std::nullopt);
    AnswerJobs(scheduler_.Finish(batch, absl::OkStatus(), engine->document_compute, now_));
  });
}

}  // namespace octavo
