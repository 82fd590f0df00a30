// Two engines on one real device, and the error that takes it from both. A program of its own: what
// a device does not recover from, its process does not either.
#include <condition_variable>
#include <mutex>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/runtime.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::RandomSequences;
using ::octavo::testing::SmallSpec;
using ::octavo::testing::WhyNot;
using ::testing::HasSubstr;

class CountingObserver : public Observer {
 public:
  void OnBatch(const BatchReport&) override { ++batches; }
  void OnDropped(Lane, const absl::Status&) override {}
  void OnDeviceError(std::string_view, const absl::Status&) override { ++errors; }
  std::atomic<int> batches{0}, errors{0};
};

// Submits one job in each of several calls and waits for all of them.
std::vector<std::shared_ptr<Job>> Compute(Runtime* runtime, int jobs) {
  std::mutex mutex;
  std::condition_variable changed;
  int done = 0;
  std::vector<std::shared_ptr<Job>> all;
  for (int i = 0; i < jobs; ++i) {
    auto job = std::make_shared<Job>();
    job->lane = i % 3 == 0 ? Lane::kQuery : Lane::kDocument;
    // The same texts in every job of a lane.
    job->inputs = RandomSequences(SmallSpec(), {8, 100, 17}, 7);
    for (const auto& input : job->inputs) job->admitted_tokens += std::ssize(input);
    if (runtime->scheduler()
            .Admit(job->lane, job->admitted_tokens, Time::max(), Clock::now())
            .verdict != Verdict::kAdmitted) {
      job->admitted_tokens = 0;
    }
    job->done = [&](Job&) {
      std::lock_guard<std::mutex> lock(mutex);
      ++done;
      changed.notify_all();
    };
    all.push_back(job);
    runtime->Submit(job);
  }
  std::unique_lock<std::mutex> lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return done == jobs; }));
  return all;
}

TEST(DeviceFault, TwoEnginesOnOneGpuShareItsWorkAndItsLoss) {
  if (const std::string why = WhyNot("cuda"); !why.empty()) GTEST_SKIP() << "cuda: " << why;
  RuntimeOptions options = DefaultRuntimeOptions();
  for (LaneOptions& lane : options.lanes) lane.format = "f16";
  options.device = "cuda:0,cuda:0";
  CountingObserver observer;
  auto loaded = Runtime::Load(Checkpoint::Random(SmallSpec(), 11), options, &observer);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  Runtime& runtime = **loaded;
  const absl::Status started = runtime.Start();
  ASSERT_TRUE(started.ok()) << started;
  ASSERT_EQ(runtime.info().devices.size(), 1u);
  EXPECT_EQ(runtime.info().devices[0].name, "cuda:0");
  EXPECT_GT(runtime.info().devices[0].peak_flops[0], 1e14);

  const auto jobs = Compute(&runtime, 300);
  for (const auto& job : jobs) {
    ASSERT_TRUE(job->status.ok()) << job->status;
    EXPECT_EQ(job->device, "cuda:0");
  }
  EXPECT_TRUE(runtime.healthy());

  // A kernel that writes where nothing is, on a stream of the same process.
  const Backend& backend = **FindBackend("cuda");
  auto stream = backend.open_stream(0, {});
  ASSERT_TRUE(stream.ok()) << stream.status();
  void* const nowhere = reinterpret_cast<void*>(0x1000);
  backend.rows.encode({.rows = 64,
                       .columns = 64,
                       .input = {nowhere, 64, Element::kF16},
                       .output = {nowhere, 64, Element::kF32}},
                      **stream);
  const absl::Status broken = (*stream)->Finish();
  EXPECT_TRUE(absl::IsUnavailable(broken)) << broken;

  // Both engines find out; until then and after, every job ends, and none hangs.
  const Time limit = Clock::now() + std::chrono::seconds(60);
  while (runtime.healthy() && Clock::now() < limit) {
    for (const auto& job : Compute(&runtime, 20)) {
      EXPECT_TRUE(absl::IsUnavailable(job->status)) << job->status;
    }
  }
  EXPECT_FALSE(runtime.healthy());
  EXPECT_EQ(observer.errors, 2);
  EXPECT_THAT(runtime.TakeLosses(), ::testing::Each(HasSubstr("cuda:0: cuda:0 failed: ")));
  for (const auto& job : Compute(&runtime, 5)) {
    EXPECT_TRUE(absl::IsUnavailable(job->status)) << job->status;
  }
  runtime.Stop(Clock::now() + std::chrono::seconds(5));
}

}  // namespace
}  // namespace octavo
