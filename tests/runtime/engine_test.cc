// The engine's thread with a real scheduler, completion thread and a small random model.
#include "runtime/engine.h"

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <thread>

#include "gtest/gtest.h"
#include "tests/reference/reference.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::RandomSequences;
using ::octavo::testing::SmallSpec;

class RecordingObserver : public Observer {
 public:
  void OnBatch(const BatchReport& report) override {
    std::lock_guard<std::mutex> lock(mutex_);
    batches_.push_back(report);
  }
  void OnDropped(Lane, const absl::Status&) override { ++dropped_; }
  void OnDeviceError(std::string_view, const absl::Status&) override { ++device_errors_; }

  std::vector<BatchReport> batches() {
    std::lock_guard<std::mutex> lock(mutex_);
    return batches_;
  }
  int dropped() const { return dropped_; }

 private:
  std::mutex mutex_;
  std::vector<BatchReport> batches_;
  std::atomic<int> dropped_{0};
  std::atomic<int> device_errors_{0};
};

class EngineTest : public ::testing::Test {
 protected:
  static constexpr int64_t kBatchTokens[kLanes] = {128, 1024};

  void SetUp() override {
    const Backend& backend = **FindBackend("cpu");
    stream_ = *backend.open_stream(0, DeviceOptions{.threads = 2});
    shared_ = *SharedWeights::Load(*checkpoint_, backend, *stream_);
    LinearPlanner planner(backend, *stream_, {});
    forward_ = *Forward::Load(
        *checkpoint_, shared_, backend, **FindFormat("f32"), Method::kRoundToNearest,
        *ChooseAttention(backend, **FindFormat("f32"), spec_.head_size, ""), planner, *stream_);
    SchedulerOptions options;
    for (int l = 0; l < kLanes; ++l) options.lanes[l] = {1 << 20, kBatchTokens[l]};
    scheduler_ = std::make_unique<Scheduler>(options, [this] {
      if (engine_ != nullptr) engine_->Wake();
    });
    engine_ = *Engine::Create({.device = "cpu", .step = std::chrono::microseconds(200)},
                              {forward_.get(), forward_.get()}, kBatchTokens, std::move(stream_),
                              scheduler_.get(), &completion_, &observer_);
  }

  std::shared_ptr<Job> MakeJob(Lane lane, const std::vector<int>& lengths, uint32_t seed) {
    auto job = std::make_shared<Job>();
    job->lane = lane;
    job->inputs = RandomSequences(spec_, lengths, seed);
    job->vectors.resize(lengths.size() * spec_.hidden);
    job->done = [this](Job& finished) {
      std::lock_guard<std::mutex> lock(mutex_);
      finished_.push_back(&finished);
      changed_.notify_all();
    };
    return job;
  }

  void Submit(const std::shared_ptr<Job>& job) {
    for (const auto& input : job->inputs) job->admitted_tokens += std::ssize(input);
    ASSERT_EQ(scheduler_->Admit(job->lane, job->admitted_tokens, Time::max(), Clock::now()).verdict,
              Verdict::kAdmitted);
    ASSERT_TRUE(scheduler_->Submit(job, Clock::now()));
  }

  void WaitFor(size_t jobs) {
    std::unique_lock<std::mutex> lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, std::chrono::seconds(60),
                                  [&] { return finished_.size() >= jobs; }));
  }

  void ExpectRight(const Job& job) {
    ASSERT_TRUE(job.status.ok()) << job.status;
    for (size_t i = 0; i < job.inputs.size(); ++i) {
      const std::vector<float> row(job.vectors.begin() + i * spec_.hidden,
                                   job.vectors.begin() + (i + 1) * spec_.hidden);
      EXPECT_GE(reference::Cosine(reference::ToDouble(row),
                                  octavo::testing::ReferenceForward(*checkpoint_, job.inputs[i])),
                0.999999);
    }
  }

  const ModelSpec spec_ = SmallSpec();
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::Random(spec_, 11);
  RecordingObserver observer_;
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<const SharedWeights> shared_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<Scheduler> scheduler_;
  CompletionThread completion_;
  std::unique_ptr<Engine> engine_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> finished_;  // in the order of completion
};

TEST_F(EngineTest, AnswersBothLanesFromManyThreads) {
  engine_->Start();
  std::vector<std::shared_ptr<Job>> jobs;
  for (uint32_t i = 0; i < 24; ++i) {
    jobs.push_back(i % 2 == 0 ? MakeJob(Lane::kQuery, {7, 3}, i)
                              : MakeJob(Lane::kDocument, {90, 1, 300, 40}, i));
  }
  std::vector<std::thread> clients;
  for (int c = 0; c < 3; ++c) {
    clients.emplace_back([&, c] {
      for (size_t i = c; i < jobs.size(); i += 3) Submit(jobs[i]);
    });
  }
  for (std::thread& client : clients) client.join();
  WaitFor(jobs.size());
  for (const auto& job : jobs) ExpectRight(*job);
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
  engine_->Start();
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

TEST_F(EngineTest, ACancelledJobCostsNoCompute) {
  const auto cancelled = MakeJob(Lane::kQuery, {8}, 1);
  Submit(cancelled);
  cancelled->cancelled = true;
  const auto kept = MakeJob(Lane::kQuery, {5}, 2);
  Submit(kept);
  engine_->Start();
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
  engine_->Start();
  WaitFor(2);
  EXPECT_TRUE(absl::IsInternal(bad->status)) << bad->status;
  ExpectRight(*good);
  EXPECT_EQ(observer_.batches()[0].nonfinite_outputs, 1);
}

TEST_F(EngineTest, WhatIsQueuedIsAnsweredBeforeItEnds) {
  engine_->Start();
  const auto job = MakeJob(Lane::kDocument, {300, 300, 300, 300}, 1);
  Submit(job);
  scheduler_->Stop();
  engine_->FinishAndJoin(Clock::now() + std::chrono::seconds(60));
  WaitFor(1);
  ExpectRight(*job);
}

TEST_F(EngineTest, AtTheDeadlineTheRunningBatchEndsUnavailable) {
  engine_->Start();
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
