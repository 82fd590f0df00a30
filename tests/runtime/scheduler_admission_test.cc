// Admission: token budgets, estimates, waiters, Stop and Drain.
#include <string>
#include <thread>

#include "tests/runtime/scheduler_fixture.h"

namespace octavo {
namespace {

TEST_F(SchedulerTest, AdmitsUpToTheLimitAndNoFurther) {
  EXPECT_EQ(Admit(kQuery, 60), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kQuery, 40), Verdict::kAdmitted);
  EXPECT_EQ(queue_tokens(kQuery), 100);
  EXPECT_EQ(Admit(kQuery, 1), Verdict::kFull);
  EXPECT_EQ(queue_tokens(kQuery), 100);
  EXPECT_EQ(scheduler->Snapshot(kQuery, now).limit_tokens, 100);
}

TEST_F(SchedulerTest, LanesHaveTheirOwnBudgets) {
  EXPECT_EQ(Admit(kQuery, 100), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kQuery, 1), Verdict::kFull);
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kFull);
}

TEST_F(SchedulerTest, ReleaseGivesBackTheReservation) {
  EXPECT_EQ(Admit(kQuery, 100), Verdict::kAdmitted);
  scheduler->Release(kQuery, 30, now);
  EXPECT_EQ(queue_tokens(kQuery), 70);
  EXPECT_EQ(Admit(kQuery, 31), Verdict::kFull);
  EXPECT_EQ(Admit(kQuery, 30), Verdict::kAdmitted);
}

TEST_F(SchedulerTest, SubmitCorrectsTheEstimateBothWays) {
  EXPECT_EQ(Admit(kQuery, 50), Verdict::kAdmitted);
  auto smaller = MakeJob(kQuery, {10, 5});
  smaller->admitted_tokens = 50;
  EXPECT_TRUE(scheduler->Submit(smaller, now));
  EXPECT_EQ(queue_tokens(kQuery), 15);
  EXPECT_EQ(smaller->admitted_tokens, 15);
  EXPECT_EQ(smaller->tokens, 15);

  EXPECT_EQ(Admit(kQuery, 10), Verdict::kAdmitted);
  auto larger = MakeJob(kQuery, {90});
  larger->admitted_tokens = 10;
  EXPECT_TRUE(scheduler->Submit(larger, now));
  EXPECT_EQ(queue_tokens(kQuery), 105);
  EXPECT_EQ(Admit(kQuery, 1), Verdict::kFull);
}

TEST_F(SchedulerTest, OversizedJobIsAdmittedOnlyWhenTheQueueIsEmpty) {
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kDocument, 101), Verdict::kFull);
  scheduler->Release(kDocument, 1, now);
  EXPECT_EQ(Admit(kDocument, 1000), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kFull);
}

TEST_F(SchedulerTest, TokensLeaveTheBudgetWhenTheirBatchBegins) {
  Submit(kQuery, {15, 15});
  EXPECT_EQ(queue_tokens(kQuery), 30);
  const Batch batch = Begin(kQuery);
  EXPECT_EQ(batch.tokens, 15);
  EXPECT_EQ(queue_tokens(kQuery), 15);
}

TEST_F(SchedulerTest, RetryDelayIsTheTimeToDrainEnoughTokens) {
  Measure(kQuery, 1000);
  EXPECT_EQ(Admit(kQuery, 90), Verdict::kAdmitted);
  // 90 + 40 - 100 = 30 tokens must go, at 1000 a second.
  const Admission full = scheduler->Admit(kQuery, 40, Time::max(), now);
  EXPECT_EQ(full.verdict, Verdict::kFull);
  EXPECT_NEAR(std::chrono::duration<double>(full.retry_delay).count(), 0.030, 1e-6);
  // A job larger than the limit needs an empty queue: all 90.
  const Admission oversized = scheduler->Admit(kQuery, 500, Time::max(), now);
  EXPECT_EQ(oversized.verdict, Verdict::kFull);
  EXPECT_NEAR(std::chrono::duration<double>(oversized.retry_delay).count(), 0.090, 1e-6);
}

TEST_F(SchedulerTest, RetryDelayCountsTheEngines) {
  SchedulerOptions options = Options();
  options.engines = 3;
  Reset(options);
  Measure(kQuery, 1000);
  EXPECT_EQ(Admit(kQuery, 100), Verdict::kAdmitted);
  EXPECT_NEAR(
      std::chrono::duration<double>(scheduler->Admit(kQuery, 30, Time::max(), now).retry_delay)
          .count(),
      0.010, 1e-6);
}

TEST_F(SchedulerTest, RetryDelayIsClamped) {
  Measure(kQuery, 1000000);
  EXPECT_EQ(Admit(kQuery, 100), Verdict::kAdmitted);
  EXPECT_EQ(scheduler->Admit(kQuery, 1, Time::max(), now).retry_delay, milliseconds(1));
  Measure(kDocument, 1);
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  EXPECT_EQ(scheduler->Admit(kDocument, 90, Time::max(), now).retry_delay, seconds(30));
}

TEST_F(SchedulerTest, FullLaneOffersARetryDelayEvenBeforeItsRateIsKnown) {
  EXPECT_EQ(Admit(kQuery, 100), Verdict::kAdmitted);
  const Admission full = scheduler->Admit(kQuery, 1, Time::max(), now);
  EXPECT_EQ(full.verdict, Verdict::kFull);
  EXPECT_GE(full.retry_delay, milliseconds(1));
  EXPECT_LE(full.retry_delay, seconds(30));
}

TEST_F(SchedulerTest, DeadlineIsUnreachableOnlyWhenARateIsKnown) {
  EXPECT_EQ(Admit(kQuery, 80), Verdict::kAdmitted);
  EXPECT_EQ(scheduler->Admit(kQuery, 1, now + microseconds(1), now).verdict, Verdict::kAdmitted);
  scheduler->Release(kQuery, 81, now);

  Measure(kQuery, 1000);
  EXPECT_EQ(Admit(kQuery, 80), Verdict::kAdmitted);
  const Admission late = scheduler->Admit(kQuery, 1, now + milliseconds(79), now);
  EXPECT_EQ(late.verdict, Verdict::kDeadlineUnreachable);
  EXPECT_NEAR(std::chrono::duration<double>(late.estimated_wait).count(), 0.080, 1e-6);
  EXPECT_GE(late.retry_delay, milliseconds(1));
  EXPECT_LE(late.retry_delay, milliseconds(2));
  EXPECT_EQ(queue_tokens(kQuery), 80) << "a refused job reserves nothing";
  EXPECT_EQ(scheduler->Admit(kQuery, 1, now + milliseconds(81), now).verdict, Verdict::kAdmitted);
}

TEST_F(SchedulerTest, DeadlinesAtTheEndsOfTimeAreSafe) {
  Measure(kQuery, 1);
  EXPECT_EQ(Admit(kQuery, 90), Verdict::kAdmitted);
  EXPECT_EQ(scheduler->Admit(kQuery, 1, Time::min(), now).verdict, Verdict::kDeadlineUnreachable);
  EXPECT_EQ(scheduler->Admit(kQuery, 1, Time::max(), now).verdict, Verdict::kAdmitted);
}

TEST_F(SchedulerTest, QueryWaitCountsDocumentsOnlyUpToTheirShare) {
  Measure(kQuery, 1000);
  Measure(kDocument, 10);
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);  // 10 s of document work
  const Admission lone = scheduler->Admit(kQuery, 40, Time::max(), now);
  EXPECT_EQ(lone.estimated_wait, Duration::zero());
  // 40 ms of queries ahead, which keep 0.8 of the device: 50 ms, not 10 s.
  const Admission behind = scheduler->Admit(kQuery, 1, Time::max(), now);
  EXPECT_NEAR(std::chrono::duration<double>(behind.estimated_wait).count(), 0.050, 1e-6);
  EXPECT_EQ(scheduler->Admit(kQuery, 1, now + milliseconds(60), now).verdict, Verdict::kAdmitted);
}

TEST_F(SchedulerTest, DocumentWaitCountsQueriesOnlyUpToTheShare) {
  Measure(kQuery, 1000);
  Measure(kDocument, 1000);
  EXPECT_EQ(Admit(kDocument, 10), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kQuery, 20), Verdict::kAdmitted);
  // 10 ms of documents and 20 ms of queries: all of both.
  EXPECT_NEAR(
      std::chrono::duration<double>(scheduler->Admit(kDocument, 1, Time::max(), now).estimated_wait)
          .count(),
      0.030, 1e-6);
  EXPECT_EQ(Admit(kQuery, 80), Verdict::kAdmitted);
  // 11 ms of documents at a fifth of the device: 55 ms, though queries hold 100 ms.
  EXPECT_NEAR(
      std::chrono::duration<double>(scheduler->Admit(kDocument, 1, Time::max(), now).estimated_wait)
          .count(),
      0.055, 1e-6);
}

TEST_F(SchedulerTest, RateFollowsBatchesAndForgets) {
  EXPECT_EQ(scheduler->MeasuredRate(kQuery), 0);
  Measure(kQuery, 1000);
  for (int i = 0; i < 100; ++i) {
    Submit(kQuery, {20});
    Finish(Begin(kQuery), absl::OkStatus(), milliseconds(10));
  }
  EXPECT_NEAR(scheduler->MeasuredRate(kQuery), 2000, 10);
  // A failed batch says nothing.
  Submit(kQuery, {20});
  Finish(Begin(kQuery), absl::InternalError("lost"), seconds(10));
  EXPECT_NEAR(scheduler->MeasuredRate(kQuery), 2000, 10);
  EXPECT_EQ(scheduler->MeasuredRate(kDocument), 0);
}

TEST_F(SchedulerTest, SubmitWakesAnIdleEngine) {
  EXPECT_EQ(wakes, 0);
  Submit(kQuery, {1});
  EXPECT_EQ(wakes, 1);
  Submit(kDocument, {1});
  EXPECT_EQ(wakes, 2);
  scheduler->Stop();
  EXPECT_EQ(wakes, 3);
}

TEST_F(SchedulerTest, JobsWithoutInputsOrWithAnEmptyInputAreRefused) {
  for (const std::vector<int>& lengths : {std::vector<int>{}, {3, 0, 3}}) {
    EXPECT_EQ(Admit(kQuery, 9), Verdict::kAdmitted);
    auto job = MakeJob(kQuery, lengths);
    job->admitted_tokens = 9;
    job->vectors = {1, 2, 3};
    EXPECT_FALSE(scheduler->Submit(job, now));
    EXPECT_EQ(job->status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(job->vectors.empty());
    EXPECT_EQ(queue_tokens(kQuery), 0);
  }
  EXPECT_EQ(wakes, 0);
  EXPECT_EQ(scheduler->Next(false, now).step, Decision::Step::kIdle);
}

class WaiterTest : public SchedulerTest {
 protected:
  // Asks for tokens in the document lane; records `name` when admitted later.
  uint64_t Ask(const std::string& name, int64_t tokens, bool expect_now = false) {
    uint64_t ticket = 99;
    const bool admitted_now = scheduler->AdmitOrWait(
        kDocument, tokens, now, [this, name] { admitted.push_back(name); }, &ticket);
    EXPECT_EQ(admitted_now, expect_now);
    EXPECT_EQ(ticket == 0, expect_now);
    return ticket;
  }
  std::vector<std::string> admitted;
};

TEST_F(WaiterTest, AdmittedAtOnceWhenThereIsRoom) {
  Ask("a", 100, true);
  EXPECT_EQ(queue_tokens(kDocument), 100);
  EXPECT_TRUE(admitted.empty()) << "the callback is for those who wait";
}

TEST_F(WaiterTest, WaitersComeInTheOrderOfAskingAndReserveThen) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  Ask("a", 30);
  Ask("b", 5);
  Ask("c", 60);
  scheduler->Release(kDocument, 20, now);
  EXPECT_TRUE(admitted.empty()) << "b would fit, but a is first";
  scheduler->Release(kDocument, 20, now);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(queue_tokens(kDocument), 95);
  scheduler->Release(kDocument, 95, now);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b", "c"));
  EXPECT_EQ(queue_tokens(kDocument), 60);
}

TEST_F(WaiterTest, SmallJobsOvertakeTheFirstWaiterByOneBatchAtMost) {
  EXPECT_EQ(Admit(kDocument, 70), Verdict::kAdmitted);
  Ask("a", 31);
  EXPECT_EQ(Admit(kDocument, 21), Verdict::kFull) << "more than a batch of 20";
  EXPECT_EQ(Admit(kDocument, 15), Verdict::kAdmitted) << "room a cannot use";
  EXPECT_EQ(Admit(kDocument, 6), Verdict::kFull) << "21 in all";
  EXPECT_EQ(Admit(kDocument, 5), Verdict::kAdmitted);
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kFull);
  EXPECT_EQ(Admit(kQuery, 50), Verdict::kAdmitted) << "the other lane is not concerned";
  Ask("b", 1);
  EXPECT_TRUE(admitted.empty()) << "waiters do not overtake each other";
  Ask("c", 30);
  scheduler->Release(kDocument, 21, now);  // 69
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
  scheduler->Release(kDocument, 15, now);  // 85, b makes 86
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b"));
  EXPECT_EQ(Admit(kDocument, 14), Verdict::kAdmitted) << "counted anew for c";
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kFull) << "no room";
}

TEST_F(WaiterTest, AnEmptyQueueIsNoRoomForAnOversizedJobPastWaiters) {
  EXPECT_EQ(Admit(kDocument, 1), Verdict::kAdmitted);
  Ask("a", 1000);
  EXPECT_EQ(Admit(kDocument, 101), Verdict::kFull);
}

TEST_F(WaiterTest, BatchesMakeRoom) {
  Submit(kDocument, {20, 20, 20, 20, 20});
  Ask("a", 20);
  Ask("b", 20);
  const Batch first = Begin(kDocument);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
  EXPECT_EQ(queue_tokens(kDocument), 100);
  Finish(first);
  EXPECT_EQ(admitted.size(), 1u) << "room is made when a batch begins";
  Begin(kDocument);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b"));
}

TEST_F(WaiterTest, CorrectionsDropsAndDrainMakeRoom) {
  EXPECT_EQ(Admit(kDocument, 80), Verdict::kAdmitted);
  auto job = MakeJob(kDocument, {10});
  job->admitted_tokens = 80;
  auto cancelled = Submit(kDocument, {20});
  Ask("a", 70);
  EXPECT_TRUE(scheduler->Submit(job, now));  // 80 becomes 10
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
  Ask("b", 20);
  cancelled->cancelled = true;
  EXPECT_EQ(scheduler->Next(true, now).dropped.size(), 1u);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b"));
  Ask("c", 10);
  EXPECT_EQ(scheduler->Drain(absl::UnavailableError("lost")).size(), 1u);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b", "c"));
}

TEST_F(WaiterTest, ARefusedSubmitMakesRoom) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  Ask("a", 100);
  auto empty = MakeJob(kDocument, {});
  empty->admitted_tokens = 100;
  EXPECT_FALSE(scheduler->Submit(empty, now));
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
}

TEST_F(WaiterTest, AnOversizedWaiterIsAdmittedWhenTheQueueIsEmpty) {
  EXPECT_EQ(Admit(kDocument, 2), Verdict::kAdmitted);
  Ask("a", 1000);
  scheduler->Release(kDocument, 1, now);
  EXPECT_TRUE(admitted.empty());
  scheduler->Release(kDocument, 1, now);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
  EXPECT_EQ(queue_tokens(kDocument), 1000);
}

TEST_F(WaiterTest, ACancelledWaitIsNotCalledAndLetsTheNextThrough) {
  EXPECT_EQ(Admit(kDocument, 90), Verdict::kAdmitted);
  const uint64_t a = Ask("a", 50);
  Ask("b", 10);
  EXPECT_TRUE(scheduler->CancelWait(a));
  EXPECT_THAT(admitted, ::testing::ElementsAre("b"));
  EXPECT_FALSE(scheduler->CancelWait(a));
  scheduler->Release(kDocument, 100, now);
  EXPECT_EQ(admitted.size(), 1u);
  EXPECT_EQ(queue_tokens(kDocument), 0);
}

TEST_F(WaiterTest, CancelWaitSaysWhetherTheCallbackWasCalled) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  const uint64_t a = Ask("a", 1);
  scheduler->Release(kDocument, 1, now);
  EXPECT_FALSE(scheduler->CancelWait(a));
  EXPECT_EQ(queue_tokens(kDocument), 100) << "its tokens are reserved";
  EXPECT_FALSE(scheduler->CancelWait(0));
  EXPECT_FALSE(scheduler->CancelWait(12345));
}

TEST_F(WaiterTest, RetryDelayCountsThoseWhoWait) {
  Measure(kDocument, 1000);
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  Ask("a", 50);
  EXPECT_NEAR(
      std::chrono::duration<double>(scheduler->Admit(kDocument, 10, Time::max(), now).retry_delay)
          .count(),
      0.060, 1e-6);
}

TEST_F(WaiterTest, CallbacksRunWithoutTheLockAndMayCallTheScheduler) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  uint64_t ticket;
  std::shared_ptr<Job> job = MakeJob(kDocument, {100});
  bool other_thread_got_in = false;
  EXPECT_FALSE(scheduler->AdmitOrWait(
      kDocument, 100, now,
      [&] {
        // Another thread would hang here if the lock were held.
        std::thread([&] {
          other_thread_got_in = scheduler->Snapshot(kDocument, now).queue_tokens == 100;
        }).join();
        job->admitted_tokens = 100;
        EXPECT_TRUE(scheduler->Submit(job, now));
        admitted.push_back("a");
      },
      &ticket));
  Ask("b", 5);
  scheduler->Release(kDocument, 100, now);
  EXPECT_TRUE(other_thread_got_in);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a"));
  EXPECT_EQ(Items(Begin(kDocument)).size(), 1u);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b"));
}

TEST_F(WaiterTest, CallbacksDoNotNest) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  uint64_t ticket;
  EXPECT_FALSE(scheduler->AdmitOrWait(
      kDocument, 60, now,
      [&] {
        admitted.push_back("a begins");
        scheduler->Release(kDocument, 60, now);
        admitted.push_back("a ends");
      },
      &ticket));
  Ask("b", 60);
  Ask("c", 40);
  scheduler->Release(kDocument, 60, now);
  EXPECT_THAT(admitted, ::testing::ElementsAre("a begins", "a ends", "b"));
}

TEST_F(WaiterTest, WakeIsCalledWithoutTheLock) {
  bool got_in = false;
  Scheduler reentrant(Options(), [&] {
    std::thread([&] { got_in = reentrant.Snapshot(kQuery, now).queue_tokens >= 0; }).join();
  });
  EXPECT_EQ(reentrant.Admit(kQuery, 1, Time::max(), now).verdict, Verdict::kAdmitted);
  auto job = MakeJob(kQuery, {1});
  job->admitted_tokens = 1;
  EXPECT_TRUE(reentrant.Submit(job, now));
  EXPECT_TRUE(got_in);
}

TEST_F(WaiterTest, StopRefusesNewWorkAndRunsWhatIsQueued) {
  auto queued = Submit(kQuery, {5});
  EXPECT_EQ(Admit(kQuery, 7), Verdict::kAdmitted);
  scheduler->Stop();
  EXPECT_EQ(Admit(kQuery, 1), Verdict::kDraining);
  auto late = MakeJob(kQuery, {7});
  late->admitted_tokens = 7;
  late->vectors = {1};
  EXPECT_FALSE(scheduler->Submit(late, now));
  EXPECT_EQ(late->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(late->vectors.empty());
  EXPECT_EQ(queue_tokens(kQuery), 5);
  const auto complete = Finish(Begin(kQuery));
  EXPECT_THAT(complete, ::testing::ElementsAre(queued));
  EXPECT_TRUE(queued->status.ok());
  EXPECT_EQ(queue_tokens(kQuery), 0);
}

TEST_F(WaiterTest, StopCallsEverybodyWhoWaits) {
  EXPECT_EQ(Admit(kDocument, 100), Verdict::kAdmitted);
  Ask("a", 50);
  Ask("b", 5000);
  const uint64_t c = Ask("c", 1);
  scheduler->Stop();
  EXPECT_THAT(admitted, ::testing::ElementsAre("a", "b", "c"));
  EXPECT_FALSE(scheduler->CancelWait(c));
  Ask("d", 7, true);  // nobody waits any more
  EXPECT_EQ(queue_tokens(kDocument), 100 + 50 + 5000 + 1 + 7);
  auto job = MakeJob(kDocument, {3});
  job->admitted_tokens = 5000;
  EXPECT_FALSE(scheduler->Submit(job, now));
  EXPECT_EQ(job->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(queue_tokens(kDocument), 158);
}

TEST_F(WaiterTest, SnapshotShowsQueueAndAge) {
  LaneSnapshot empty = scheduler->Snapshot(kDocument, now);
  EXPECT_EQ(empty.queue_requests, 0);
  EXPECT_EQ(empty.oldest, Duration::zero());
  Submit(kDocument, {20, 20});
  now += milliseconds(3);
  Submit(kDocument, {4});
  now += milliseconds(4);
  EXPECT_EQ(Admit(kDocument, 6), Verdict::kAdmitted);
  LaneSnapshot waiting = scheduler->Snapshot(kDocument, now);
  EXPECT_EQ(waiting.queue_requests, 2);
  EXPECT_EQ(waiting.queue_tokens, 50);
  EXPECT_EQ(waiting.oldest, milliseconds(7));
  Begin(kDocument);
  EXPECT_EQ(scheduler->Snapshot(kDocument, now).oldest, milliseconds(7)) << "half of it waits";
  Begin(kDocument);
  LaneSnapshot begun = scheduler->Snapshot(kDocument, now);
  EXPECT_EQ(begun.queue_requests, 1) << "20 and 4 do not fit one batch";
  EXPECT_EQ(begun.oldest, milliseconds(4));
}

}  // namespace
}  // namespace octavo
