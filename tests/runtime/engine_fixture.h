// An engine of a small random model, with a real scheduler and completion thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/reference/reference.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo::testing {

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
  int device_errors() const { return device_errors_; }

 private:
  std::mutex mutex_;
  std::vector<BatchReport> batches_;
  std::atomic<int> dropped_{0};
  std::atomic<int> device_errors_{0};
};

class EngineFixture : public ::testing::Test {
 protected:
  static constexpr int64_t kBatchTokens[kLanes] = {128, 1024};

  // On `backend`, which outlives this.
  void Load(const Backend& backend, std::chrono::microseconds step) {
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
    engine_ = *Engine::Create(
        {.device = "cpu", .step = step, .lost = [this](const absl::Status&) { ++losses_; }},
        {forward_.get(), forward_.get()}, kBatchTokens, std::move(stream_), scheduler_.get(),
        &completion_, &observer_);
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
                                  ReferenceForward(*checkpoint_, job.inputs[i])),
                0.999999);
    }
  }

  // 12 jobs a lane, submitted by three threads; all have ended and are right.
  void AnswerBothLanesFromManyThreads() {
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
  }

  const ModelSpec spec_ = SmallSpec();
  const std::unique_ptr<Checkpoint> checkpoint_ = Checkpoint::Random(spec_, 11);
  RecordingObserver observer_;
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<const SharedWeights> shared_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<Scheduler> scheduler_;
  CompletionThread completion_;
  std::atomic<int> losses_{0};
  std::unique_ptr<Engine> engine_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Job*> finished_;  // in the order of completion
};

}  // namespace octavo::testing
