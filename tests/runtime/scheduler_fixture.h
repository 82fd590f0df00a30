// Jobs and a scheduler cranked by hand, for the tests of the scheduler.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/scheduler.h"

namespace octavo {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

inline std::shared_ptr<Job> MakeJob(Lane lane, const std::vector<int>& lengths,
                                    Time deadline = Time::max()) {
  auto job = std::make_shared<Job>();
  job->lane = lane;
  job->deadline = deadline;
  for (int length : lengths) job->inputs.emplace_back(length, 7);
  return job;
}

inline int64_t TokensOf(const Job& job) {
  int64_t tokens = 0;
  for (const std::vector<int32_t>& input : job.inputs) tokens += input.size();
  return tokens;
}

// The inputs of a batch as (job, input), to compare.
inline std::vector<std::pair<const Job*, size_t>> Items(const Batch& batch) {
  std::vector<std::pair<const Job*, size_t>> items;
  for (const Batch::Item& item : batch.items) items.emplace_back(item.job.get(), item.input);
  return items;
}

class SchedulerTest : public ::testing::Test {
 protected:
  static constexpr auto kQuery = Lane::kQuery;
  static constexpr auto kDocument = Lane::kDocument;

  // Limits of 100 tokens a queue and 20 a batch in either lane.
  static SchedulerOptions Options(double share = 0.2) {
    SchedulerOptions options;
    for (LaneLimits& lane : options.lanes) lane = {100, 20};
    options.document_min_share = share;
    return options;
  }

  void Reset(const SchedulerOptions& options) {
    scheduler = std::make_unique<Scheduler>(options, [this] { ++wakes; });
  }

  void SetUp() override { Reset(Options()); }

  std::shared_ptr<Job> Submit(Lane lane, const std::vector<int>& lengths,
                              Time deadline = Time::max()) {
    auto job = MakeJob(lane, lengths, deadline);
    job->admitted_tokens = TokensOf(*job);
    EXPECT_EQ(scheduler->Admit(lane, job->admitted_tokens, Time::max(), now).verdict,
              Verdict::kAdmitted);
    EXPECT_TRUE(scheduler->Submit(job, now));
    return job;
  }

  Verdict Admit(Lane lane, int64_t tokens) {
    return scheduler->Admit(lane, tokens, Time::max(), now).verdict;
  }

  // Begins what must be a batch.
  Batch Begin(Lane lane, bool document_running = false) {
    Decision decision = scheduler->Next(document_running, now);
    EXPECT_EQ(decision.step, Decision::Step::kBegin);
    EXPECT_EQ(decision.batch.lane, lane);
    EXPECT_TRUE(decision.dropped.empty());
    return std::move(decision.batch);
  }

  std::vector<std::shared_ptr<Job>> Finish(const Batch& batch,
                                           const absl::Status& status = absl::OkStatus(),
                                           Duration compute = milliseconds(1)) {
    return scheduler->Finish(batch, status, compute, now);
  }

  // Makes `lane` known to compute `rate` tokens a second.
  void Measure(Lane lane, int64_t rate) {
    Submit(lane, {20});
    Finish(Begin(lane), absl::OkStatus(),
           std::chrono::duration_cast<Duration>(std::chrono::duration<double>(20.0 / rate)));
    ASSERT_NEAR(scheduler->MeasuredRate(lane), rate, 1e-3 * rate);
  }

  int64_t queue_tokens(Lane lane) const { return scheduler->Snapshot(lane, now).queue_tokens; }

  // Spends `busy` on a lane and lets that much time pass.
  void Run(Lane lane, Duration busy) {
    now += busy;
    scheduler->Charge(lane, busy, now);
  }

  Time now{seconds(1000)};
  int wakes = 0;
  std::unique_ptr<Scheduler> scheduler;
};

}  // namespace octavo
