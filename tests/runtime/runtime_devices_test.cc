// A runtime on several devices, and what is left of it when they fail.
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/device_model.h"
#include "runtime/runtime.h"
#include "tests/runtime/faulty_backend.h"
#include "tests/runtime/forward_fixture.h"

namespace octavo {
namespace {

using ::octavo::testing::BreakDevice;
using ::octavo::testing::FaultyBackend;
using ::octavo::testing::RandomSequences;
using ::octavo::testing::SmallSpec;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kLimit(60);

class RecordingObserver : public Observer {
 public:
  void OnBatch(const BatchReport& report) override { Count(&batches_, report.device); }
  void OnDropped(Lane, const absl::Status&) override {}
  void OnDeviceError(std::string_view device, const absl::Status&) override {
    Count(&errors_, device);
  }
  int batches(const std::string& device) { return Read(&batches_, device); }
  int errors(const std::string& device) { return Read(&errors_, device); }

 private:
  using Counts = std::map<std::string, int>;
  void Count(Counts* counts, std::string_view device) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++(*counts)[std::string(device)];
  }
  int Read(Counts* counts, const std::string& device) {
    std::lock_guard<std::mutex> lock(mutex_);
    return (*counts)[device];
  }
  std::mutex mutex_;
  Counts batches_, errors_;  // by device
};

class RuntimeDevicesTest : public ::testing::Test {
 protected:
  ~RuntimeDevicesTest() override {
    runtime_.reset();
    octavo::testing::MendDevices();
  }

  absl::Status Load(const std::string& device) {
    RuntimeOptions options = DefaultRuntimeOptions();
    for (LaneOptions& lane : options.lanes) lane.format = "f32";
    options.lanes[static_cast<int>(Lane::kDocument)].max_batch_tokens = 512;
    options.device = device;
    options.backend = &FaultyBackend();
    options.threads = 1;
    auto runtime = Runtime::Load(Checkpoint::Random(spec_, 11), options, &observer_);
    if (!runtime.ok()) return runtime.status();
    runtime_ = *std::move(runtime);
    return absl::OkStatus();
  }
  void Start(const std::string& device) {
    const absl::Status loaded = Load(device);
    ASSERT_TRUE(loaded.ok()) << loaded;
    const absl::Status started = runtime_->Start();
    ASSERT_TRUE(started.ok()) << started;
  }

  // A job of eight documents, or of one query; submitted.
  std::shared_ptr<Job> Submit(Lane lane) {
    auto job = std::make_shared<Job>();
    job->lane = lane;
    job->inputs = RandomSequences(
        spec_, lane == Lane::kQuery ? std::vector<int>{8} : std::vector<int>(8, 100), ++seed_);
    for (const auto& input : job->inputs) job->admitted_tokens += std::ssize(input);
    job->done = [this](Job&) {
      std::lock_guard<std::mutex> lock(mutex_);
      ++done_;
      changed_.notify_all();
    };
    ++submitted_;
    Scheduler& scheduler = runtime_->scheduler();
    if (scheduler.Admit(lane, job->admitted_tokens, Time::max(), Clock::now()).verdict !=
        Verdict::kAdmitted) {
      job->admitted_tokens = 0;
    }
    runtime_->Submit(job);
    return job;
  }
  // Every job submitted has ended, each once.
  void WaitForAll() {
    std::unique_lock<std::mutex> lock(mutex_);
    ASSERT_TRUE(changed_.wait_for(lock, kLimit, [&] { return done_ >= submitted_; }));
    EXPECT_EQ(done_, submitted_);
  }
  // Keeps documents coming until `reached` or the limit.
  template <typename Condition>
  void FeedUntil(Condition reached) {
    const Time end = Clock::now() + kLimit;
    while (!reached() && Clock::now() < end) {
      for (int i = 0; i < 4; ++i) jobs_.push_back(Submit(Lane::kDocument));
      jobs_.push_back(Submit(Lane::kQuery));
      WaitForAll();
    }
    EXPECT_TRUE(reached());
  }

  const ModelSpec spec_ = SmallSpec();
  RecordingObserver observer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int submitted_ = 0, done_ = 0;
  uint32_t seed_ = 0;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::unique_ptr<Runtime> runtime_;
};

TEST_F(RuntimeDevicesTest, TwoDevicesShareOneQueue) {
  Start("faulty:0,faulty:1");
  FeedUntil(
      [&] { return observer_.batches("faulty:0") > 20 && observer_.batches("faulty:1") > 20; });
  std::map<std::string, int> jobs;
  for (const auto& job : jobs_) {
    ASSERT_TRUE(job->status.ok()) << job->status;
    ++jobs[std::string(job->device)];
  }
  EXPECT_GT(jobs["faulty:0"], 0);
  EXPECT_GT(jobs["faulty:1"], 0);
  // Each device holds the model, and computes the same bits.
  const auto& devices = runtime_->info().devices;
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].name, "faulty:0");
  EXPECT_EQ(devices[1].name, "faulty:1");
  EXPECT_EQ(devices[0].memory_bytes, devices[1].memory_bytes);
  EXPECT_EQ(devices[0].memory_bytes + devices[1].memory_bytes, runtime_->memory_bytes());
  EXPECT_EQ(devices[1].read_counters().energy_joules, 101);
  std::map<std::string, std::vector<float>> vectors;  // of one text, by device
  while (vectors.size() < 2) {
    seed_ = 1000;
    const auto job = Submit(Lane::kDocument);
    Submit(Lane::kDocument);
    WaitForAll();
    vectors[std::string(job->device)] = job->vectors;
  }
  EXPECT_EQ(vectors["faulty:0"], vectors["faulty:1"]);
}

TEST_F(RuntimeDevicesTest, ADeviceNamedTwiceHasTwoEnginesOnOneModel) {
  ASSERT_TRUE(Load("faulty:0").ok());
  const int64_t one = runtime_->memory_bytes();
  ASSERT_TRUE(Load("faulty:0,faulty:1").ok());
  EXPECT_EQ(runtime_->memory_bytes(), 2 * one);
  Start("faulty:0,faulty:0");
  EXPECT_EQ(runtime_->info().devices.size(), 1u);
  EXPECT_GT(runtime_->memory_bytes(), one);
  EXPECT_LT(runtime_->memory_bytes(), 2 * one) << "weights once, a workspace each";
  FeedUntil([&] { return observer_.batches("faulty:0") > 50; });
  for (const auto& job : jobs_) ASSERT_TRUE(job->status.ok()) << job->status;
}

TEST_F(RuntimeDevicesTest, ALostDeviceLeavesTheOtherServing) {
  Start("faulty:0,faulty:1");
  BreakDevice(0, 20);
  FeedUntil([&] { return observer_.errors("faulty:0") > 0; });
  for (const auto& job : jobs_) {
    if (job->status.ok()) continue;
    EXPECT_TRUE(absl::IsUnavailable(job->status)) << job->status;
    EXPECT_THAT(std::string(job->status.message()), HasSubstr("faulty:0 failed: as told"));
    EXPECT_TRUE(job->vectors.empty());
  }
  jobs_.clear();
  const int batches = observer_.batches("faulty:1");
  FeedUntil([&] { return observer_.batches("faulty:1") > batches + 30; });
  for (const auto& job : jobs_) {
    ASSERT_TRUE(job->status.ok()) << job->status;
    EXPECT_EQ(job->device, "faulty:1");
  }
  EXPECT_TRUE(runtime_->healthy());
  EXPECT_EQ(observer_.errors("faulty:0"), 1) << "a lost device takes no more batches";
  EXPECT_THAT(runtime_->TakeLosses(),
              ::testing::ElementsAre(HasSubstr("faulty:0: faulty:0 failed")));
  EXPECT_TRUE(runtime_->TakeLosses().empty());
}

TEST_F(RuntimeDevicesTest, WithTheLastDeviceEverythingEndsUnavailable) {
  Start("faulty:0,faulty:1");
  for (int device : {0, 1}) BreakDevice(device, 30);
  // From several threads, before, during and after the loss.
  std::vector<std::vector<std::shared_ptr<Job>>> jobs(3);
  std::mutex submit;
  std::vector<std::thread> clients;
  for (auto& mine : jobs) {
    clients.emplace_back([&] {
      const Time end = Clock::now() + kLimit;
      for (int after = 0; after < 20 && Clock::now() < end; after += !runtime_->healthy()) {
        std::lock_guard<std::mutex> lock(submit);
        mine.push_back(Submit(mine.size() % 3 == 0 ? Lane::kQuery : Lane::kDocument));
      }
    });
  }
  for (std::thread& client : clients) client.join();
  WaitForAll();
  int unavailable = 0;
  for (const auto& mine : jobs) {
    for (const auto& job : mine) {
      if (job->status.ok()) continue;
      EXPECT_TRUE(absl::IsUnavailable(job->status)) << job->status;
      ++unavailable;
    }
  }
  EXPECT_GE(unavailable, 60);
  EXPECT_FALSE(runtime_->healthy());
  EXPECT_EQ(observer_.errors("faulty:0"), 1);
  EXPECT_EQ(observer_.errors("faulty:1"), 1);
  EXPECT_EQ(runtime_->TakeLosses().size(), 2u);
  runtime_->Stop(Clock::now() + kLimit);
}

TEST_F(RuntimeDevicesTest, OnlyDocumentsLeaveTheirBatchesToTheDevice) {
  RuntimeOptions options = DefaultRuntimeOptions();
  for (LaneOptions& lane : options.lanes) lane.format = "f32";
  options.backend = &FaultyBackend();
  options.threads = 1;
  const auto runtime = Runtime::Load(Checkpoint::Random(spec_, 11), options, nullptr);
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  const LaneDescription(&lanes)[kLanes] = (*runtime)->info().lanes;
  EXPECT_EQ(lanes[static_cast<int>(Lane::kDocument)].limits.max_batch_tokens,
            FaultyBackend().document_batch_tokens);
  EXPECT_EQ(lanes[static_cast<int>(Lane::kQuery)].limits.max_batch_tokens, 256);
  for (const auto& [lane, tokens] : {std::pair(Lane::kQuery, 0), std::pair(Lane::kDocument, -1)}) {
    RuntimeOptions bad = options;
    bad.lanes[static_cast<int>(lane)].max_batch_tokens = tokens;
    const absl::Status status = Runtime::Load(Checkpoint::Random(spec_, 11), bad, nullptr).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("batch limit"));
  }
}

TEST_F(RuntimeDevicesTest, QueriesTakeTheDevicesFormatUnlessOneIsNamed) {
  Backend backend = FaultyBackend();
  backend.query_format = "bf16";
  backend.query_format_reason = "as told";
  RuntimeOptions options = DefaultRuntimeOptions();
  options.backend = &backend;
  options.threads = 1;
  LaneOptions& queries = options.lanes[static_cast<int>(Lane::kQuery)];
  for (const auto& [asked, format, reason] :
       {std::tuple("auto", "bf16", "as told"), std::tuple("f32", "f32", "")}) {
    queries.format = asked;
    const auto runtime = Runtime::Load(Checkpoint::Random(spec_, 11), options, nullptr);
    ASSERT_TRUE(runtime.ok()) << runtime.status();
    const LaneDescription& lane = (*runtime)->info().lanes[static_cast<int>(Lane::kQuery)];
    EXPECT_EQ(lane.format->name, format);
    EXPECT_EQ(lane.format_reason, reason);
  }
  // Documents have no other default: an index is not to depend on the device that made it.
  options.lanes[static_cast<int>(Lane::kDocument)].format = "auto";
  EXPECT_TRUE(
      absl::IsNotFound(Runtime::Load(Checkpoint::Random(spec_, 11), options, nullptr).status()));
}

TEST_F(RuntimeDevicesTest, ADeviceThatFailsWhileItIsMeasuredFailsTheStart) {
  ASSERT_TRUE(Load("faulty:0,faulty:1").ok());
  BreakDevice(1, 0);
  const absl::Status status = runtime_->Start();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("faulty:1 failed: as told"));
}

TEST_F(RuntimeDevicesTest, OutOfMemoryAtLoadSaysHowMuchIsNeeded) {
  // In the weights, and in the workspaces.
  octavo::testing::MendDevices();
  ASSERT_TRUE(Load("faulty:0").ok());
  const int64_t all = octavo::testing::AllocatedBytes();
  for (const int64_t most : {int64_t{0}, all / 4, all - 1}) {
    octavo::testing::LimitMemory(most);
    const absl::Status status = Load("faulty:0");
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("faulty:0: the device is out of memory"));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("random-64x2 needs about 1 MiB there for its weights in f32 and f32, and "
                          "workspaces for batches of 256 and 512 tokens"));
  }
  octavo::testing::LimitMemory(all);
  EXPECT_TRUE(Load("faulty:0").ok());
}

TEST_F(RuntimeDevicesTest, TheEstimateOfMemoryIsNearWhatIsHeld) {
  const std::unique_ptr<Checkpoint> checkpoint = Checkpoint::Random(spec_, 11);
  const auto stream = *FaultyBackend().open_stream(0, {.threads = 1});
  for (const char* format : {"f32", "bf16", "a8w8_int8", "a16w4_int4"}) {
    const LaneFormat formats[kLanes] = {{*FindFormat(format), Method::kRoundToNearest},
                                        {*FindFormat("f32"), Method::kRoundToNearest}};
    LinearPlanner planner(FaultyBackend(), *stream, {});
    const auto model = DeviceModel::Load(*checkpoint, {&FaultyBackend(), 0, "faulty:0"}, formats,
                                         "", planner, *stream);
    ASSERT_TRUE(model.ok()) << model.status();
    const double held = static_cast<double>((*model)->bytes());
    const double estimated = static_cast<double>(DeviceModel::EstimateBytes(spec_, formats));
    EXPECT_GT(estimated, 0.7 * held) << format;
    EXPECT_LT(estimated, 1.1 * held) << format;
  }
}

TEST_F(RuntimeDevicesTest, ADeviceThatIsNotThereFailsTheLoad) {
  const absl::Status status = Load("faulty:0,faulty:9");
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("faulty:9"));
}

}  // namespace
}  // namespace octavo
