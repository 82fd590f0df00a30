// Batches, dropping, completion and the share of the lanes.
#include "tests/runtime/scheduler_fixture.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using Step = Decision::Step;

TEST_F(SchedulerTest, IdleWithoutWork) {
  EXPECT_EQ(scheduler->Next(false, now).step, Step::kIdle);
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
  EXPECT_FALSE(scheduler->QueryWaiting());
}

TEST_F(SchedulerTest, BatchesTakeWholeInputsInOrderUpToTheLimit) {
  auto a = Submit(kQuery, {6, 6});
  auto b = Submit(kQuery, {8});
  auto c = Submit(kQuery, {9});
  auto d = Submit(kQuery, {1});
  const Batch first = Begin(kQuery);
  EXPECT_THAT(Items(first), ElementsAre(Pair(a.get(), 0u), Pair(a.get(), 1u), Pair(b.get(), 0u)));
  EXPECT_EQ(first.tokens, 20);
  const Batch second = Begin(kQuery);
  EXPECT_THAT(Items(second), ElementsAre(Pair(c.get(), 0u), Pair(d.get(), 0u)));
  EXPECT_EQ(second.tokens, 10);
  EXPECT_EQ(scheduler->Next(false, now).step, Step::kIdle);
}

TEST_F(SchedulerTest, OrderIsKeptEvenWhereALaterInputWouldFit) {
  auto a = Submit(kQuery, {15});
  auto b = Submit(kQuery, {15});
  auto c = Submit(kQuery, {5});
  EXPECT_THAT(Items(Begin(kQuery)), ElementsAre(Pair(a.get(), 0u)));
  EXPECT_THAT(Items(Begin(kQuery)), ElementsAre(Pair(b.get(), 0u), Pair(c.get(), 0u)));
}

TEST_F(SchedulerTest, AnInputLongerThanABatchGoesAlone) {
  auto a = Submit(kDocument, {50});
  auto b = Submit(kDocument, {1});
  EXPECT_THAT(Items(Begin(kDocument)), ElementsAre(Pair(a.get(), 0u)));
  EXPECT_THAT(Items(Begin(kDocument)), ElementsAre(Pair(b.get(), 0u)));
}

TEST_F(SchedulerTest, AJobLargerThanABatchIsSpreadAndCompletedOnce) {
  auto job = Submit(kDocument, {12, 12, 12, 12});
  const Time submitted = now;
  now += milliseconds(5);
  for (int input = 0; input < 4; ++input) {
    const Batch batch = Begin(kDocument);
    EXPECT_THAT(Items(batch), ElementsAre(Pair(job.get(), input)));
    now += milliseconds(2);
    const auto complete = Finish(batch, absl::OkStatus(), milliseconds(2));
    EXPECT_EQ(complete.size(), input == 3 ? 1u : 0u);
  }
  EXPECT_TRUE(job->status.ok());
  EXPECT_EQ(job->queue_time, milliseconds(5)) << "until its first batch began";
  EXPECT_EQ(job->compute_time, milliseconds(8)) << "of all its batches";
  EXPECT_EQ(job->submitted, submitted);
}

TEST_F(SchedulerTest, SharedComputeTimeIsCountedWholeOnceAJobAndABatch) {
  auto a = Submit(kQuery, {5, 5});
  auto b = Submit(kQuery, {5});
  Batch batch = Begin(kQuery);
  batch.device = "cpu";
  const Format format{.name = "f32"};
  batch.format = &format;
  EXPECT_THAT(Finish(batch, absl::OkStatus(), milliseconds(3)), ElementsAre(a, b));
  for (const auto& job : {a, b}) {
    EXPECT_EQ(job->compute_time, milliseconds(3));
    EXPECT_EQ(job->device, "cpu");
    EXPECT_EQ(job->format, &format);
  }
}

TEST_F(SchedulerTest, AJobInTwoBatchesAtOnceCompletesWithTheLater) {
  auto job = Submit(kDocument, {12, 12, 3});
  auto other = Submit(kDocument, {3});
  const Batch first = Begin(kDocument);   // one engine
  const Batch second = Begin(kDocument);  // another
  EXPECT_THAT(Items(second),
              ElementsAre(Pair(job.get(), 1u), Pair(job.get(), 2u), Pair(other.get(), 0u)));
  EXPECT_THAT(Finish(second), ElementsAre(other));
  EXPECT_THAT(Finish(first), ElementsAre(job));
  EXPECT_TRUE(job->status.ok());
}

TEST_F(SchedulerTest, CancelledAndExpiredJobsAreDroppedBeforeCompute) {
  auto cancelled = Submit(kQuery, {5});
  auto expired = Submit(kQuery, {5}, now + milliseconds(1));
  auto alive = Submit(kQuery, {5}, now + milliseconds(10));
  cancelled->cancelled = true;
  cancelled->vectors = {1};
  now += milliseconds(1);
  Decision decision = scheduler->Next(false, now);
  EXPECT_THAT(decision.dropped, ElementsAre(cancelled, expired));
  EXPECT_EQ(cancelled->status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(cancelled->vectors.empty());
  EXPECT_EQ(expired->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(decision.step, Step::kBegin);
  EXPECT_THAT(Items(decision.batch), ElementsAre(Pair(alive.get(), 0u)));
  EXPECT_EQ(queue_tokens(kQuery), 0);
}

TEST_F(SchedulerTest, ADeadJobInTheMiddleOfABatchIsDropped) {
  EXPECT_EQ(scheduler->Next(false, now).step, Step::kIdle);  // the queue was just looked through
  auto a = Submit(kQuery, {5});
  auto cancelled = Submit(kQuery, {5});
  auto b = Submit(kQuery, {5});
  cancelled->cancelled = true;
  const Decision decision = scheduler->Next(false, now);
  EXPECT_THAT(decision.dropped, ElementsAre(cancelled));
  EXPECT_THAT(Items(decision.batch), ElementsAre(Pair(a.get(), 0u), Pair(b.get(), 0u)));
}

TEST_F(SchedulerTest, DeadJobsFarBackInTheQueueAreDroppedWithinTenMilliseconds) {
  Submit(kDocument, {20});
  Submit(kDocument, {20});
  auto cancelled = Submit(kDocument, {20});
  auto expired = Submit(kDocument, {20}, now + milliseconds(3));
  const Batch batch = Begin(kDocument);
  cancelled->cancelled = true;
  std::vector<std::shared_ptr<Job>> dropped;
  for (int ms = 1; ms <= 10; ++ms) {
    now += milliseconds(1);
    const Decision decision = scheduler->Next(true, now);
    EXPECT_EQ(decision.step, Step::kContinue);
    dropped.insert(dropped.end(), decision.dropped.begin(), decision.dropped.end());
  }
  EXPECT_THAT(dropped, ElementsAre(cancelled, expired));
  EXPECT_EQ(queue_tokens(kDocument), 20);
  EXPECT_EQ(Finish(batch).size(), 1u);
}

TEST_F(SchedulerTest, OnlyDeadJobsLeaveNothingToDo) {
  auto job = Submit(kQuery, {5});
  job->cancelled = true;
  EXPECT_TRUE(scheduler->QueryWaiting());
  const Decision decision = scheduler->Next(false, now);
  EXPECT_EQ(decision.step, Step::kIdle);
  EXPECT_THAT(decision.dropped, ElementsAre(job));
  EXPECT_FALSE(scheduler->QueryWaiting());
}

TEST_F(SchedulerTest, ALargeJobIsDroppedBetweenItsBatches) {
  auto job = Submit(kDocument, {20, 20, 20});
  Finish(Begin(kDocument));
  job->cancelled = true;
  const Decision decision = scheduler->Next(false, now);
  EXPECT_EQ(decision.step, Step::kIdle);
  EXPECT_THAT(decision.dropped, ElementsAre(job));
  EXPECT_EQ(job->status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(queue_tokens(kDocument), 0);
}

TEST_F(SchedulerTest, AJobDroppedWhilePartOfItRunsEndsWithThatPart) {
  auto job = Submit(kDocument, {20, 20, 20}, now + milliseconds(5));
  job->vectors = {1, 2, 3};
  const Batch first = Begin(kDocument);
  const Batch second = Begin(kDocument);
  now += milliseconds(20);
  const Decision decision = scheduler->Next(true, now);
  EXPECT_EQ(decision.step, Step::kContinue);
  EXPECT_THAT(decision.dropped, IsEmpty()) << "it is not complete yet";
  EXPECT_EQ(queue_tokens(kDocument), 0);
  EXPECT_THAT(Finish(first), IsEmpty());
  EXPECT_THAT(Finish(second), ElementsAre(job));
  EXPECT_EQ(job->status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(job->vectors.empty());
}

TEST_F(SchedulerTest, AJobCancelledAfterAllOfItBeganEndsOk) {
  auto job = Submit(kQuery, {5});
  job->vectors = {1, 2};
  const Batch batch = Begin(kQuery);
  job->cancelled = true;
  EXPECT_THAT(Finish(batch), ElementsAre(job));
  EXPECT_TRUE(job->status.ok());
  EXPECT_EQ(job->vectors.size(), 2u);
}

TEST_F(SchedulerTest, AFailedBatchFailsItsJobsWhole) {
  auto a = Submit(kDocument, {10});
  auto b = Submit(kDocument, {10, 10, 10});
  auto c = Submit(kDocument, {10});
  b->vectors = {1};
  const Batch batch = Begin(kDocument);
  EXPECT_THAT(Finish(batch, absl::UnavailableError("device lost")), ElementsAre(a, b));
  EXPECT_EQ(a->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(b->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(b->vectors.empty());
  EXPECT_EQ(queue_tokens(kDocument), 10) << "the rest of b is gone";
  EXPECT_THAT(Items(Begin(kDocument)), ElementsAre(Pair(c.get(), 0u)));
}

TEST_F(SchedulerTest, AFailureInOneBatchWaitsForTheOther) {
  auto job = Submit(kDocument, {20, 20, 20});
  const Batch first = Begin(kDocument);
  const Batch second = Begin(kDocument);
  EXPECT_THAT(Finish(first, absl::InternalError("x")), IsEmpty());
  EXPECT_EQ(queue_tokens(kDocument), 0);
  EXPECT_THAT(Finish(second), ElementsAre(job));
  EXPECT_EQ(job->status.code(), absl::StatusCode::kInternal);
}

TEST_F(SchedulerTest, AnItemsStatusFailsItsJobAlone) {
  auto a = Submit(kQuery, {5, 5});
  auto b = Submit(kQuery, {5});
  Batch batch = Begin(kQuery);
  batch.statuses = {absl::OkStatus(), absl::InternalError("not finite"), absl::OkStatus()};
  EXPECT_THAT(Finish(batch), ElementsAre(a, b));
  EXPECT_EQ(a->status.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(b->status.ok());
}

TEST_F(SchedulerTest, DrainTakesEverythingQueued) {
  auto query = Submit(kQuery, {5});
  auto running = Submit(kDocument, {20, 20});
  auto waiting = Submit(kDocument, {5});
  const Batch first = Begin(kQuery);
  const Batch second = Begin(kDocument);
  auto queued = Submit(kQuery, {5});
  EXPECT_THAT(scheduler->Drain(absl::UnavailableError("the grace is over")),
              ElementsAre(queued, waiting));
  EXPECT_EQ(waiting->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(queue_tokens(kQuery) + queue_tokens(kDocument), 0);
  EXPECT_THAT(Finish(second), ElementsAre(running));
  EXPECT_EQ(running->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(Finish(first), ElementsAre(query));
  EXPECT_TRUE(query->status.ok());
  EXPECT_EQ(scheduler->Next(false, now).step, Step::kIdle);
}

TEST_F(SchedulerTest, QueriesComeFirst) {
  auto document = Submit(kDocument, {5});
  auto query = Submit(kQuery, {5});
  EXPECT_TRUE(scheduler->QueryWaiting());
  EXPECT_THAT(Items(Begin(kQuery)), ElementsAre(Pair(query.get(), 0u)));
  EXPECT_FALSE(scheduler->QueryWaiting());
  EXPECT_THAT(Items(Begin(kDocument)), ElementsAre(Pair(document.get(), 0u)));
}

TEST_F(SchedulerTest, AQueryGoesBetweenTheUnitsOfADocumentBatch) {
  Submit(kDocument, {5});
  Begin(kDocument);
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
  auto query = Submit(kQuery, {5});
  EXPECT_TRUE(scheduler->QueryWaiting());
  EXPECT_THAT(Items(Begin(kQuery, true)), ElementsAre(Pair(query.get(), 0u)));
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
}

TEST_F(SchedulerTest, OneUnitRunsAndOneIsQueuedUnlessAQueryWaits) {
  Submit(kDocument, {5});
  Begin(kDocument);
  EXPECT_EQ(scheduler->Next(true, now, 1).step, Step::kContinue);
  EXPECT_EQ(scheduler->Next(true, now, 2).step, Step::kIdle);
  for (const int units_in_flight : {1, 2}) {
    auto query = Submit(kQuery, {5});
    const Decision decision = scheduler->Next(true, now, units_in_flight);
    EXPECT_THAT(Items(decision.batch), ElementsAre(Pair(query.get(), 0u)));
  }
}

TEST_F(SchedulerTest, AUnitInFlightIsTheDocumentsTurn) {
  Submit(kDocument, {5});
  Begin(kDocument);
  Run(kDocument, milliseconds(1));
  for (int i = 0; i < 4; ++i) {
    Submit(kQuery, {5});
    const Batch batch = Begin(kQuery, true);
    Run(kQuery, milliseconds(1));
    Finish(batch);
  }
  auto query = Submit(kQuery, {5});
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
  EXPECT_THAT(Items(scheduler->Next(true, now, 1).batch), ElementsAre(Pair(query.get(), 0u)));
}

TEST_F(SchedulerTest, DocumentsEarnAWholeUnitBeforeTheyGoFirst) {
  Submit(kDocument, {5});
  Begin(kDocument);
  Run(kDocument, milliseconds(1));
  for (int round = 0; round < 10; ++round) {
    // Share 0.2: 1 ms of documents for every 4 ms of queries.
    for (int i = 0; i < 4; ++i) {
      Submit(kQuery, {5});
      EXPECT_TRUE(scheduler->QueryWaiting());
      const Batch batch = Begin(kQuery, true);
      Run(kQuery, milliseconds(1));
      Finish(batch);
    }
    auto query = Submit(kQuery, {5});
    EXPECT_FALSE(scheduler->QueryWaiting());
    EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
    Run(kDocument, milliseconds(1));
    EXPECT_TRUE(scheduler->QueryWaiting());
    Finish(Begin(kQuery, true));  // charged nothing
    EXPECT_TRUE(query->status.ok());
  }
}

TEST_F(SchedulerTest, ALongQueryBatchIsRepaidInSeveralUnits) {
  Submit(kDocument, {5});
  Begin(kDocument);
  Run(kDocument, milliseconds(1));
  Submit(kQuery, {5});
  const Batch batch = Begin(kQuery, true);
  Run(kQuery, milliseconds(12));
  Finish(batch);
  Submit(kQuery, {5});
  int units = 0;
  for (; scheduler->Next(true, now).step == Step::kContinue && units < 100; ++units) {
    Run(kDocument, milliseconds(1));
  }
  EXPECT_EQ(units, 3);
}

TEST_F(SchedulerTest, AnEngineWithoutDocumentsTakesQueriesWhateverIsOwed) {
  Submit(kDocument, {5});
  Begin(kDocument);  // on another engine
  Run(kDocument, milliseconds(1));
  Submit(kQuery, {5});
  const Batch batch = Begin(kQuery);
  Run(kQuery, milliseconds(100));
  Finish(batch);
  Submit(kQuery, {5});
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
  EXPECT_EQ(Begin(kQuery, false).items.size(), 1u);
}

TEST_F(SchedulerTest, IdleDocumentsDoNotHoard) {
  for (int i = 0; i < 100; ++i) {
    Submit(kQuery, {5});
    const Batch batch = Begin(kQuery);
    Run(kQuery, milliseconds(100));
    Finish(batch);
  }
  Submit(kDocument, {5});
  Submit(kQuery, {5});
  EXPECT_TRUE(scheduler->QueryWaiting());
  EXPECT_EQ(Begin(kQuery).items.size(), 1u);
}

TEST_F(SchedulerTest, CreditGoesWithTheDocumentsThatEarnedIt) {
  Submit(kDocument, {5});
  const Batch documents = Begin(kDocument);
  Run(kDocument, milliseconds(1));
  Submit(kQuery, {5});
  const Batch batch = Begin(kQuery, true);
  Run(kQuery, milliseconds(40));
  Finish(batch);
  Finish(documents);
  Submit(kDocument, {5});
  Submit(kQuery, {5});
  EXPECT_TRUE(scheduler->QueryWaiting());
  Begin(kQuery);
}

TEST_F(SchedulerTest, DocumentsEarnOnlyForTheTimeTheyWaited) {
  Submit(kDocument, {5});
  Finish(Begin(kDocument));
  Run(kDocument, milliseconds(1));  // a unit is 1 ms
  Submit(kQuery, {5});
  const Batch batch = Begin(kQuery);
  now += milliseconds(99);
  Submit(kDocument, {5});  // the last millisecond of a hundred
  now += milliseconds(1);
  scheduler->Charge(kQuery, milliseconds(100), now);
  Finish(batch);
  Submit(kQuery, {5});
  EXPECT_TRUE(scheduler->QueryWaiting());
}

TEST_F(SchedulerTest, DocumentsThatRanAloneOweNothing) {
  Submit(kDocument, {5});
  Begin(kDocument);
  for (int i = 0; i < 1000; ++i) Run(kDocument, milliseconds(1));
  for (int i = 0; i < 4; ++i) {
    Submit(kQuery, {5});
    const Batch batch = Begin(kQuery, true);
    Run(kQuery, milliseconds(1));
    Finish(batch);
  }
  Submit(kQuery, {5});
  EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
}

TEST_F(SchedulerTest, UnspentCreditDoesNotPileUp) {
  Submit(kDocument, {5});
  Begin(kDocument);  // one engine's batch; a hundred others compute queries
  Run(kDocument, milliseconds(1));
  for (int i = 0; i < 1000; ++i) {
    Submit(kQuery, {5});
    const Batch batch = Begin(kQuery, false);
    Run(kQuery, milliseconds(4));
    Finish(batch);
  }
  Submit(kQuery, {5});
  int units = 0;
  for (; scheduler->Next(true, now).step == Step::kContinue && units < 100; ++units) {
    Run(kDocument, milliseconds(1));
  }
  EXPECT_LE(units, 3) << "two kept, one just earned";
}

TEST_F(SchedulerTest, ALoneQueryAtLowLoadAlwaysGoesFirst) {
  Submit(kDocument, {5});
  Begin(kDocument);
  for (int i = 0; i < 1000; ++i) {
    for (int unit = 0; unit < 5; ++unit) {
      EXPECT_EQ(scheduler->Next(true, now).step, Step::kContinue);
      Run(kDocument, milliseconds(1));
    }
    Submit(kQuery, {5});
    ASSERT_TRUE(scheduler->QueryWaiting());
    const Batch batch = Begin(kQuery, true);
    Run(kQuery, microseconds(1900));
    Finish(batch);
  }
}

TEST_F(SchedulerTest, WithoutAShareQueriesAlwaysComeFirst) {
  Reset(Options(0));
  Submit(kDocument, {5});
  Begin(kDocument);
  for (int i = 0; i < 100; ++i) {
    Submit(kQuery, {5});
    const Batch batch = Begin(kQuery, true);
    Run(kQuery, milliseconds(100));
    Finish(batch);
  }
}

TEST_F(SchedulerTest, AShareOfOneStillServesQueries) {
  Reset(Options(1));
  Submit(kDocument, {5});
  Begin(kDocument);
  Run(kDocument, milliseconds(1));
  Submit(kQuery, {5});
  const Batch batch = Begin(kQuery, true);
  Run(kQuery, milliseconds(1));
  Finish(batch);
  Submit(kQuery, {5});
  int units = 0;
  for (; scheduler->Next(true, now).step == Step::kContinue && units < 100; ++units) {
    Run(kDocument, milliseconds(1));
  }
  EXPECT_EQ(units, 19);  // 0.95 of 20 ms
}

TEST(LaneTest, Names) {
  EXPECT_EQ(LaneName(Lane::kQuery), "query");
  EXPECT_EQ(LaneName(Lane::kDocument), "document");
}

}  // namespace
}  // namespace octavo
