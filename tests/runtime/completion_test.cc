#include "runtime/completion.h"

#include <atomic>
#include <future>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

std::shared_ptr<Job> JobWith(std::function<void(Job&)> done) {
  auto job = std::make_shared<Job>();
  job->done = std::move(done);
  return job;
}

TEST(CompletionTest, CallsDoneWithTheJobOnAnotherThread) {
  CompletionThread completion;
  std::promise<std::pair<Job*, std::thread::id>> called;
  auto job = JobWith([&](Job& j) { called.set_value({&j, std::this_thread::get_id()}); });
  completion.Complete(job);
  const auto [got, thread] = called.get_future().get();
  EXPECT_EQ(got, job.get());
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(CompletionTest, KeepsTheOrderAndCallsEachOnce) {
  std::vector<int> order;
  {
    CompletionThread completion;
    for (int i = 0; i < 1000; i += 2) {
      completion.Complete(JobWith([&order, i](Job&) { order.push_back(i); }));
      std::vector<std::shared_ptr<Job>> more;
      more.push_back(JobWith([&order, i](Job&) { order.push_back(i + 1); }));
      completion.Complete(std::move(more));
    }
    completion.Stop();
  }
  ASSERT_EQ(order.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(order[i], i);
}

TEST(CompletionTest, StopRunsWhatIsQueued) {
  CompletionThread completion;
  std::promise<void> release;
  std::atomic<int> called{0};
  completion.Complete(JobWith([&](Job&) { release.get_future().wait(); }));
  for (int i = 0; i < 100; ++i) completion.Complete(JobWith([&](Job&) { ++called; }));
  std::thread stopper([&] {
    completion.Stop();
    EXPECT_EQ(called, 100);
  });
  EXPECT_EQ(called, 0);
  release.set_value();
  stopper.join();
  completion.Stop();
  EXPECT_EQ(called, 100);
}

TEST(CompletionTest, AfterStopTheCallerRunsDone) {
  CompletionThread completion;
  completion.Stop();
  std::vector<std::thread::id> threads;
  const auto record = [&](Job&) { threads.push_back(std::this_thread::get_id()); };
  completion.Complete(JobWith(record));
  std::vector<std::shared_ptr<Job>> two = {JobWith(record), JobWith(record)};
  completion.Complete(std::move(two));
  EXPECT_THAT(threads,
              ::testing::ElementsAre(std::this_thread::get_id(), std::this_thread::get_id(),
                                     std::this_thread::get_id()));
}

TEST(CompletionTest, DoneAndWhatItHoldsAreDestroyedAfterTheCall) {
  CompletionThread completion;
  auto held = std::make_shared<int>(1);
  std::weak_ptr<int> weak = held;
  auto job = JobWith([held](Job&) {});
  held = nullptr;
  EXPECT_FALSE(weak.expired());
  completion.Complete(job);  // this test keeps the job
  completion.Stop();
  EXPECT_TRUE(weak.expired());
  completion.Complete(job);  // nothing left to call
}

TEST(CompletionTest, JobsAreReleased) {
  CompletionThread completion;
  auto job = JobWith([](Job&) {});
  std::weak_ptr<Job> weak = job;
  completion.Complete(std::move(job));
  completion.Stop();
  EXPECT_TRUE(weak.expired());
}

TEST(CompletionTest, DoneMayAddJobs) {
  CompletionThread completion;
  std::promise<void> second;
  completion.Complete(
      JobWith([&](Job&) { completion.Complete(JobWith([&](Job&) { second.set_value(); })); }));
  second.get_future().wait();
}

TEST(CompletionTest, AnEmptyListIsNothing) {
  CompletionThread completion;
  completion.Complete(std::vector<std::shared_ptr<Job>>());
}

TEST(CompletionTest, ManyThreadsAddWhileOthersStop) {
  for (int round = 0; round < 20; ++round) {
    CompletionThread completion;
    std::atomic<int> called{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 200; ++i) completion.Complete(JobWith([&](Job&) { ++called; }));
      });
    }
    for (int t = 0; t < 2; ++t) threads.emplace_back([&] { completion.Stop(); });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(called, 800);
  }
}

}  // namespace
}  // namespace octavo
