// The engine's thread on the CPU.
#include <cmath>
#include <limits>
#include <thread>

#include "tests/runtime/engine_fixture.h"

namespace octavo {
namespace {

class EngineTest : public testing::EngineFixture {
 protected:
  void SetUp() override { Load(**FindBackend("cpu"), std::chrono::microseconds(200)); }
};

TEST_F(EngineTest, AnswersBothLanesFromManyThreads) {
  ASSERT_TRUE(engine_->Start().ok());
  AnswerBothLanesFromManyThreads();
  int64_t inputs = 0;
  for (const BatchReport& report : observer_.batches()) {
    inputs += report.inputs;
    EXPECT_GT(report.flops, 0);
    EXPECT_GT(report.compute_seconds, 0);
    EXPECT_EQ(report.device, "cpu");
    EXPECT_EQ(report.format->name, "f32");
  }
  EXPECT_EQ(inputs, 12 * 2 + 12 * 4);
}

TEST_F(EngineTest, AQueryOvertakesTheDocumentsThatRun) {
  ASSERT_TRUE(engine_->Start().ok());
  // Many batches of documents, so that the query arrives while one is running.
  const auto documents = MakeJob(Lane::kDocument, std::vector<int>(40, 300), 1);
  Submit(documents);
  while (scheduler_->Snapshot(Lane::kDocument, Clock::now()).queue_tokens == 40 * 300) {
    std::this_thread::yield();
  }
  const auto query = MakeJob(Lane::kQuery, {8}, 2);
  Submit(query);
  WaitFor(2);
  ASSERT_EQ(finished_[0], query.get());
  ExpectRight(*query);
  ExpectRight(*documents);
}

TEST_F(EngineTest, AQueryAloneIsFinishedOnTheEnginesThread) {
  ASSERT_TRUE(engine_->Start().ok());
  // Where `done` of one job after another runs.
  const auto finished_by = [&](const std::shared_ptr<Job>& job) {
    std::thread::id thread;
    job->done = [&, done = job->done](Job& finished) {
      thread = std::this_thread::get_id();
      done(finished);
    };
    Submit(job);
    WaitFor(1);
    ExpectRight(*job);
    std::lock_guard<std::mutex> lock(mutex_);
    finished_.clear();
    return thread;
  };
  const std::thread::id alone = finished_by(MakeJob(Lane::kQuery, {8}, 1));
  EXPECT_EQ(finished_by(MakeJob(Lane::kQuery, {9}, 2)), alone);
  const std::thread::id completion = finished_by(MakeJob(Lane::kDocument, {8}, 3));
  EXPECT_NE(completion, alone);
  EXPECT_EQ(finished_by(MakeJob(Lane::kQuery, {8, 8}, 4)), completion);
}

TEST_F(EngineTest, ACancelledJobCostsNoCompute) {
  const auto cancelled = MakeJob(Lane::kQuery, {8}, 1);
  Submit(cancelled);
  cancelled->cancelled = true;
  const auto kept = MakeJob(Lane::kQuery, {5}, 2);
  Submit(kept);
  ASSERT_TRUE(engine_->Start().ok());
  WaitFor(2);
  EXPECT_TRUE(absl::IsCancelled(cancelled->status)) << cancelled->status;
  ExpectRight(*kept);
  EXPECT_EQ(observer_.dropped(), 1);
  ASSERT_EQ(observer_.batches().size(), 1u);
  EXPECT_EQ(observer_.batches()[0].tokens, 5);
}

TEST_F(EngineTest, ARowThatIsNotFiniteFailsItsJobAlone) {
  const auto bad = MakeJob(Lane::kQuery, {6}, 1);
  const auto good = MakeJob(Lane::kQuery, {6}, 2);
  bad->inputs[0] = {499, 1, 2};
  good->inputs[0] = {1, 2, 3};
  shared_->word.as<float>()[499 * spec_.hidden] = std::numeric_limits<float>::quiet_NaN();
  Submit(bad);
  Submit(good);
  ASSERT_TRUE(engine_->Start().ok());
  WaitFor(2);
  EXPECT_TRUE(absl::IsInternal(bad->status)) << bad->status;
  ExpectRight(*good);
  EXPECT_EQ(observer_.batches()[0].nonfinite_outputs, 1);
}

TEST_F(EngineTest, WhatIsQueuedIsAnsweredBeforeItEnds) {
  ASSERT_TRUE(engine_->Start().ok());
  const auto job = MakeJob(Lane::kDocument, {300, 300, 300, 300}, 1);
  Submit(job);
  scheduler_->Stop();
  engine_->FinishAndJoin(Clock::now() + std::chrono::seconds(60));
  WaitFor(1);
  ExpectRight(*job);
}

TEST_F(EngineTest, AtTheDeadlineTheRunningBatchEndsUnavailable) {
  ASSERT_TRUE(engine_->Start().ok());
  const auto job = MakeJob(Lane::kDocument, std::vector<int>(400, 300), 1);
  Submit(job);
  scheduler_->Stop();
  engine_->FinishAndJoin(Clock::now());
  completion_.Complete(scheduler_->Drain(absl::UnavailableError("the server is shutting down")));
  WaitFor(1);
  EXPECT_TRUE(absl::IsUnavailable(job->status)) << job->status;
  EXPECT_EQ(finished_.size(), 1u);
}

}  // namespace
}  // namespace octavo
