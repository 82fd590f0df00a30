// The scheduler and the completion thread under real threads: producers, streams that wait, a
// canceller, engines, then Stop and Drain. Meant for ThreadSanitizer; what it asserts holds in any
// build: nobody is lost, nobody is answered twice, nobody waits for ever.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/completion.h"
#include "runtime/scheduler.h"

namespace octavo {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

#if defined(__SANITIZE_THREAD__)
constexpr int kJobsPerProducer = 1500;
#else
constexpr int kJobsPerProducer = 4000;
#endif

// One float a row: the input's first token, so that every result can be checked.
constexpr int kUnitTokens = 40;

// An engine thread that computes nothing but writes the rows of its inputs.
class TestEngine {
 public:
  TestEngine(Scheduler* scheduler, CompletionThread* completion, uint64_t seed)
      : scheduler_(scheduler), completion_(completion), random_(seed) {}

  void Start() {
    thread_ = std::thread([this] { Loop(); });
  }
  void Wake() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      woken_ = true;
    }
    wake_.notify_one();
  }
  void Join() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      finish_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  int64_t batches() const { return batches_; }
  int64_t overtaken() const { return overtaken_; }

 private:
  void Loop() {
    for (;;) {
      Decision decision = scheduler_->Next(documents_left_ > 0, Clock::now());
      completion_->Complete(std::move(decision.dropped));
      switch (decision.step) {
        case Decision::Step::kIdle: {
          std::unique_lock<std::mutex> lock(mutex_);
          if (finish_) return;
          wake_.wait(lock, [this] { return woken_ || finish_; });
          woken_ = false;
          break;
        }
        case Decision::Step::kContinue:
          RunUnits();
          break;
        case Decision::Step::kBegin:
          ++batches_;
          if (decision.batch.lane == Lane::kQuery) {
            if (documents_left_ > 0) ++overtaken_;
            Compute(&decision.batch, microseconds(5));
          } else {
            documents_ = std::move(decision.batch);
            documents_left_ = documents_.tokens;
            RunUnits();
          }
          break;
      }
    }
  }

  void RunUnits() {
    do {
      documents_left_ -= kUnitTokens;
      scheduler_->Charge(Lane::kDocument, microseconds(3), Clock::now());
    } while (documents_left_ > 0 && !scheduler_->QueryWaiting());
    if (documents_left_ <= 0) Compute(&documents_, microseconds(9));
  }

  void Compute(Batch* batch, Duration busy) {
    for (const Batch::Item& item : batch->items) {
      item.job->vectors[item.input] = static_cast<float>(item.job->inputs[item.input].front());
    }
    batch->device = "test";
    absl::Status status;
    const uint64_t chance = random_() % 200;
    if (chance == 0) status = absl::InternalError("the batch failed");
    if (chance == 1) {
      batch->statuses.resize(batch->items.size());
      batch->statuses.back() = absl::InternalError("not finite");
    }
    if (batch->lane == Lane::kQuery) scheduler_->Charge(Lane::kQuery, busy, Clock::now());
    completion_->Complete(scheduler_->Finish(*batch, status, busy, Clock::now()));
  }

  Scheduler* const scheduler_;
  CompletionThread* const completion_;
  std::mt19937_64 random_;
  Batch documents_;
  int64_t documents_left_ = 0;
  int64_t batches_ = 0;
  int64_t overtaken_ = 0;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool woken_ = false;
  bool finish_ = false;
  std::thread thread_;
};

struct Counts {
  std::atomic<int> sent{0}, answered{0}, ok{0}, refused{0}, dropped{0}, failed{0}, unavailable{0},
      released{0}, waits_cancelled{0}, wrong{0}, twice{0};
};

// Jobs in flight that another thread may cancel.
class Cancellable {
 public:
  void Add(const std::shared_ptr<Job>& job) {
    std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(job);
  }
  void CancelSome(std::mt19937_64* random) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const std::weak_ptr<Job>& weak : jobs_) {
      const std::shared_ptr<Job> job = weak.lock();
      if (job != nullptr && (*random)() % 3 == 0) job->cancelled = true;
    }
    jobs_.clear();
  }

 private:
  std::mutex mutex_;
  std::vector<std::weak_ptr<Job>> jobs_;
};

class Producer {
 public:
  Producer(Scheduler* scheduler, CompletionThread* completion, Cancellable* cancellable,
           Counts* counts, Lane lane, uint64_t seed)
      : scheduler_(scheduler),
        completion_(completion),
        cancellable_(cancellable),
        counts_(counts),
        lane_(lane),
        random_(seed) {}

  void Single() {
    for (int i = 0; i < kJobsPerProducer; ++i) {
      std::shared_ptr<Job> job = Make();
      const Admission admission =
          scheduler_->Admit(lane_, job->admitted_tokens, job->deadline, Clock::now());
      if (admission.verdict != Verdict::kAdmitted) {
        ++counts_->refused;
        ++counts_->answered;
        std::this_thread::yield();
      } else {
        Submit(std::move(job));
      }
      if (i % 100 == 0) std::this_thread::sleep_for(microseconds(100));
    }
  }

  // A stream: one message waits at a time, some waits are given up.
  void Stream() {
    for (int i = 0; i < kJobsPerProducer; ++i) {
      std::shared_ptr<Job> job = Make();
      struct Wait {
        std::mutex mutex;
        std::condition_variable admitted;
        bool done = false;
      };
      auto wait = std::make_shared<Wait>();
      uint64_t ticket = 0;
      const bool now = scheduler_->AdmitOrWait(
          lane_, job->admitted_tokens, Clock::now(),
          [wait] {
            std::lock_guard<std::mutex> lock(wait->mutex);
            EXPECT_FALSE(wait->done) << "called twice";
            wait->done = true;
            wait->admitted.notify_one();
          },
          &ticket);
      if (!now && random_() % 4 == 0 && scheduler_->CancelWait(ticket)) {
        std::lock_guard<std::mutex> lock(wait->mutex);
        EXPECT_FALSE(wait->done) << "cancelled, yet called";
        ++counts_->waits_cancelled;
        ++counts_->answered;
        continue;
      }
      if (!now) {
        std::unique_lock<std::mutex> lock(wait->mutex);
        ASSERT_TRUE(wait->admitted.wait_for(lock, std::chrono::seconds(60), [&] {
          return wait->done;
        })) << "a wake-up was lost";
      }
      Submit(std::move(job));
    }
  }

 private:
  std::shared_ptr<Job> Make() {
    auto job = std::make_shared<Job>();
    job->lane = lane_;
    const int inputs = random_() % 20 == 0 ? 30 : 1 + random_() % 3;
    int64_t tokens = 0;
    for (int i = 0; i < inputs; ++i) {
      job->inputs.emplace_back(1 + random_() % 60, static_cast<int32_t>(random_() % 1000));
      tokens += static_cast<int64_t>(job->inputs.back().size());
    }
    job->vectors.assign(inputs, -1.0f);
    job->admitted_tokens = std::max<int64_t>(1, tokens * (50 + random_() % 100) / 100);
    if (random_() % 5 == 0) job->deadline = Clock::now() + microseconds(random_() % 2000);
    auto answers = std::make_shared<std::atomic<int>>(0);
    job->done = [counts = counts_, answers](Job& done) { Check(counts, answers.get(), done); };
    ++counts_->sent;
    return job;
  }

  static void Check(Counts* counts, std::atomic<int>* answers, const Job& job) {
    if (answers->fetch_add(1) != 0) ++counts->twice;
    ++counts->answered;
    switch (job.status.code()) {
      case absl::StatusCode::kOk:
        ++counts->ok;
        if (job.vectors.size() != job.inputs.size() || job.device != "test") ++counts->wrong;
        for (size_t i = 0; i < job.vectors.size(); ++i) {
          if (job.vectors[i] != static_cast<float>(job.inputs[i].front())) ++counts->wrong;
        }
        return;
      case absl::StatusCode::kCancelled:
      case absl::StatusCode::kDeadlineExceeded:
        ++counts->dropped;
        break;
      case absl::StatusCode::kInternal:
        ++counts->failed;
        break;
      case absl::StatusCode::kUnavailable:
        ++counts->unavailable;
        break;
      default:
        ++counts->wrong;
    }
    if (!job.vectors.empty()) ++counts->wrong;
  }

  void Submit(std::shared_ptr<Job> job) {
    if (random_() % 50 == 0) {
      scheduler_->Release(lane_, job->admitted_tokens, Clock::now());
      ++counts_->released;
      ++counts_->answered;
      return;
    }
    if (random_() % 4 == 0) cancellable_->Add(job);
    if (!scheduler_->Submit(job, Clock::now())) completion_->Complete(std::move(job));
  }

  Scheduler* const scheduler_;
  CompletionThread* const completion_;
  Cancellable* const cancellable_;
  Counts* const counts_;
  const Lane lane_;
  std::mt19937_64 random_;
};

void RunStress(bool stop_early) {
  SchedulerOptions options;
  options.lanes[static_cast<int>(Lane::kQuery)] = {600, 100};
  options.lanes[static_cast<int>(Lane::kDocument)] = {1500, 400};
  options.engines = 2;
  std::vector<std::unique_ptr<TestEngine>> engines;
  Scheduler scheduler(options, [&] {
    for (const auto& engine : engines) engine->Wake();
  });
  Counts counts;
  {
    CompletionThread completion;
    for (uint64_t i = 0; i < 2; ++i) {
      engines.push_back(std::make_unique<TestEngine>(&scheduler, &completion, i));
    }
    for (const auto& engine : engines) engine->Start();

    Cancellable cancellable;
    std::atomic<bool> producing{true};
    std::thread canceller([&] {
      std::mt19937_64 random(99);
      while (producing) {
        cancellable.CancelSome(&random);
        for (Lane lane : kAllLanes) {
          EXPECT_GE(scheduler.Snapshot(lane, Clock::now()).queue_tokens, 0);
          EXPECT_GE(scheduler.MeasuredRate(lane), 0);
        }
        std::this_thread::sleep_for(microseconds(200));
      }
    });
    std::vector<std::thread> producers;
    for (uint64_t i = 0; i < 6; ++i) {
      producers.emplace_back([&, i] {
        const Lane lane = kAllLanes[i % kLanes];
        Producer producer(&scheduler, &completion, &cancellable, &counts, lane, 10 + i);
        if (i < 2) {
          producer.Single();
        } else {
          producer.Stream();
        }
      });
    }
    if (stop_early) {
      std::this_thread::sleep_for(milliseconds(20));
      scheduler.Stop();
      completion.Complete(scheduler.Drain(absl::UnavailableError("shutting down")));
    }
    for (std::thread& producer : producers) producer.join();
    producing = false;
    canceller.join();
    scheduler.Stop();
    for (const auto& engine : engines) engine->Join();
    completion.Complete(scheduler.Drain(absl::UnavailableError("shutting down")));
    completion.Stop();
  }

  EXPECT_EQ(counts.sent, 6 * kJobsPerProducer);
  EXPECT_EQ(counts.answered, counts.sent) << "lost";
  EXPECT_EQ(counts.twice, 0);
  EXPECT_EQ(counts.wrong, 0);
  EXPECT_GT(counts.ok, 0);
  for (Lane lane : kAllLanes) {
    EXPECT_EQ(scheduler.Snapshot(lane, Clock::now()).queue_tokens, 0);
    EXPECT_EQ(scheduler.Snapshot(lane, Clock::now()).queue_requests, 0);
  }
  EXPECT_FALSE(scheduler.QueryWaiting());
  if (stop_early) {
    EXPECT_GT(counts.unavailable, 0);
  } else {
    // Enough happened for the test to mean something.
    EXPECT_GT(counts.dropped, 0);
    EXPECT_GT(counts.failed, 0);
    EXPECT_GT(counts.released, 0);
    EXPECT_GT(engines[0]->batches(), 0);
    EXPECT_GT(engines[1]->batches(), 0);
  }
  ::testing::Test::RecordProperty("ok", counts.ok);
  ::testing::Test::RecordProperty("refused", counts.refused);
  ::testing::Test::RecordProperty("dropped", counts.dropped);
  ::testing::Test::RecordProperty("waits_cancelled", counts.waits_cancelled);
}

TEST(SchedulerStressTest, ProducersStreamsCancelsAndTwoEngines) { RunStress(false); }

TEST(SchedulerStressTest, StopAndDrainAmidTraffic) { RunStress(true); }

}  // namespace
}  // namespace octavo
