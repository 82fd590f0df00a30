#include "service/health.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "service/open_calls.h"
#include "service/tokenize_pool.h"

namespace octavo {
namespace {

class Watcher : public HealthWatcher {
 public:
  void OnHealthChanged() override { ++changes; }
  std::atomic<int> changes{0};
};

TEST(Health, AllNamesAreNotServingAtFirst) {
  HealthState health;
  for (std::string_view name : {kHealthOverall, kHealthService, kHealthLiveness}) {
    EXPECT_EQ(health.Get(name), false) << name;
  }
  EXPECT_FALSE(health.Get("octavo.v1.Other").has_value());
  health.SetAll(true);
  EXPECT_EQ(health.Get(kHealthService), true);
  health.Set(kHealthService, false);
  EXPECT_EQ(health.Get(kHealthService), false);
  EXPECT_EQ(health.Get(kHealthOverall), true);
  health.Set("octavo.v1.Other", true);
  EXPECT_FALSE(health.Get("octavo.v1.Other").has_value());
}

TEST(Health, WatchersHearOfChangesUntilTheyAreGone) {
  HealthState health;
  auto watcher = std::make_shared<Watcher>();
  auto gone = std::make_shared<Watcher>();
  health.Add(watcher);
  health.Add(gone);
  gone.reset();
  health.Set(kHealthService, true);
  health.Set(kHealthService, true);  // no change
  EXPECT_EQ(watcher->changes, 1);
  health.SetAll(false);
  EXPECT_EQ(watcher->changes, 2);
  health.Remove(watcher.get());
  health.SetAll(true);
  EXPECT_EQ(watcher->changes, 2);
}

class Call : public OpenCall {
 public:
  void End() override { ++ends; }
  std::atomic<int> ends{0};
};

TEST(OpenCalls, AreEndedAndSoAreLaterOnes) {
  OpenCalls calls;
  auto first = std::make_shared<Call>(), removed = std::make_shared<Call>();
  calls.Add(first);
  calls.Add(removed);
  calls.Remove(removed.get());
  calls.EndAll();
  EXPECT_EQ(first->ends, 1);
  EXPECT_EQ(removed->ends, 0);
  auto late = std::make_shared<Call>();
  calls.Add(late);
  EXPECT_EQ(late->ends, 1);
}

TEST(TokenizePool, RunsEverythingPostedAndALaneInOrder) {
  std::mutex mutex;
  std::string order;
  const auto note = [&](char c) {
    return [&, c] {
      std::lock_guard<std::mutex> lock(mutex);
      order += c;
    };
  };
  TokenizePool pool(1);
  for (char c = 'a'; c <= 'z'; ++c) pool.Post(Lane::kDocument, note(c));
  pool.Stop();
  EXPECT_EQ(order, "abcdefghijklmnopqrstuvwxyz");
  pool.Post(Lane::kDocument, note('!'));  // runs here
  EXPECT_EQ(order.back(), '!');
  pool.Stop();
}

TEST(TokenizePool, QueriesDoNotWaitForDocuments) {
  TokenizePool pool(1);
  std::atomic<bool> go{false}, query_ran{false}, document_ran{false};
  pool.Post(Lane::kDocument, [&] {
    while (!go) std::this_thread::yield();
  });
  pool.Post(Lane::kDocument, [&] { document_ran = true; });
  pool.Post(Lane::kQuery, [&] { query_ran = true; });
  while (!query_ran) std::this_thread::yield();
  EXPECT_FALSE(document_ran);
  go = true;
  pool.Stop();
  EXPECT_TRUE(document_ran);
}

}  // namespace
}  // namespace octavo
