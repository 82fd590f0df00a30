#include "kernels/cpu/team.h"

#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/processors.h"

namespace octavo::cpu {
namespace {

class TeamTest : public testing::TestWithParam<int> {};

TEST_P(TeamTest, RunsEachTaskOnceAndShowsItsWrites) {
  Team team(GetParam());
  EXPECT_EQ(team.threads(), GetParam());
  for (int64_t tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<int> runs(tasks, 0);  // plain ints: the loop itself must order them
    std::atomic<bool> thread_in_range{true};
    team.Run(tasks, [&](int64_t task, int thread) {
      ++runs[task];
      if (thread < 0 || thread >= team.threads()) thread_in_range = false;
    });
    for (int64_t task = 0; task < tasks; ++task) EXPECT_EQ(runs[task], 1) << task << "/" << tasks;
    EXPECT_TRUE(thread_in_range);
  }
}

TEST_P(TeamTest, ManyShortLoopsSeeThePreviousLoopsWrites) {
  Team team(GetParam());
  constexpr int kTasks = 5;
  int64_t sums[kTasks] = {};
  constexpr int kLoops = 20000;
  for (int loop = 0; loop < kLoops; ++loop) {
    // Task t reads what another thread may have written in the loop before.
    int64_t next[kTasks];
    team.Run(kTasks, [&](int64_t task, int) { next[task] = sums[(task + 1) % kTasks] + 1; });
    for (int task = 0; task < kTasks; ++task) sums[task] = next[task];
  }
  for (int task = 0; task < kTasks; ++task) EXPECT_EQ(sums[task], kLoops);
}

TEST_P(TeamTest, ThreadIndexIsHeldByOneThreadAtATime) {
  Team team(GetParam());
  std::vector<std::atomic<int>> inside(team.threads());
  std::atomic<bool> shared{false};
  for (int loop = 0; loop < 200; ++loop) {
    team.Run(50, [&](int64_t, int thread) {
      if (inside[thread].fetch_add(1) != 0) shared = true;
      inside[thread].fetch_sub(1);
    });
  }
  EXPECT_FALSE(shared);
}

TEST_P(TeamTest, UnevenTasksAreTakenByWhoeverIsFree) {
  Team team(GetParam());
  std::vector<int> thread_of(41);
  std::atomic<int> finished{0};
  team.Run(41, [&](int64_t task, int thread) {
    thread_of[task] = thread;
    if (task == 0 && team.threads() > 1) {
      // The long first task ends only when the others are done: they must run elsewhere.
      while (finished.load() < 40) std::this_thread::yield();
    }
    ++finished;
  });
  EXPECT_EQ(finished.load(), 41);
  if (team.threads() > 1) {
    for (int task = 1; task < 41; ++task) EXPECT_NE(thread_of[task], thread_of[0]);
  }
}

TEST_P(TeamTest, WakesFromSleepAndIsDestroyedAsleepOrSpinning) {
  for (int pause_us : {0, 1, 30, 200, 2000}) {
    auto team = std::make_unique<Team>(GetParam());
    for (int loop = 0; loop < 20; ++loop) {
      std::atomic<int> count{0};
      team->Run(16, [&](int64_t, int) { ++count; });
      EXPECT_EQ(count.load(), 16);
      std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
    }
    team.reset();
  }
  for (int i = 0; i < 50; ++i) Team never_used(GetParam());
}

TEST_P(TeamTest, ALateWorkerHoldsNobodyUp) {
  Team team(GetParam());
  std::this_thread::sleep_for(std::chrono::milliseconds(2));  // workers sleep
  for (int loop = 0; loop < 500; ++loop) {
    std::atomic<int64_t> sum{0};
    team.Run(2, [&](int64_t task, int) { sum += task + 1; });
    ASSERT_EQ(sum.load(), 3);
    if (loop % 10 == 0) std::this_thread::sleep_for(std::chrono::microseconds(60));
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, TeamTest, testing::Values(1, 2, 3, 8));

TEST(InlineTest, RunsOnTheCallingThreadFromManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int loop = 0; loop < 100; ++loop) {
        Inline().Run(3, [&, id = std::this_thread::get_id()](int64_t, int thread) {
          if (thread != 0 || std::this_thread::get_id() != id) ++wrong;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(Inline().threads(), 1);
}

TEST(AvailableProcessorsTest, FollowsTheAffinityMask) {
  EXPECT_GE(AvailableProcessors(), 1);
  int processors = 0;
  std::thread([&] {  // the mask is the thread's own
    cpu_set_t mask;
    ASSERT_EQ(sched_getaffinity(0, sizeof(mask), &mask), 0);
    int first = 0;
    while (!CPU_ISSET(first, &mask)) ++first;
    CPU_ZERO(&mask);
    CPU_SET(first, &mask);
    ASSERT_EQ(sched_setaffinity(0, sizeof(mask), &mask), 0);
    processors = AvailableProcessors();
  })
      .join();
  EXPECT_EQ(processors, 1);
}

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "octavo_cgroup_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root_;
};

TEST_F(CgroupTest, NoFilesIsNoLimit) { EXPECT_EQ(CgroupProcessors(root_), 0); }

TEST_F(CgroupTest, Version2TakesTheTightestAncestor) {
  Write("proc/self/cgroup", "0::/a/b\n");
  Write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(CgroupProcessors(root_), 0);
  Write("sys/fs/cgroup/a/cpu.max", "350000 100000\n");
  EXPECT_EQ(CgroupProcessors(root_), 3);
  Write("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
  EXPECT_EQ(CgroupProcessors(root_), 1);
}

TEST_F(CgroupTest, Version2InAContainerReadsTheMountsRoot) {
  Write("proc/self/cgroup", "0::/system.slice/elsewhere\n");
  Write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(CgroupProcessors(root_), 2);
}

TEST_F(CgroupTest, Version1) {
  Write("proc/self/cgroup", "3:cpuset:/x\n2:cpu,cpuacct:/job\n");
  Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CgroupProcessors(root_), 0);
  Write("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
  EXPECT_EQ(CgroupProcessors(root_), 4);
}

}  // namespace
}  // namespace octavo::cpu
