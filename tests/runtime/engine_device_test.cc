// The engine's thread on a device that computes later than it is told to.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <thread>

#include "tests/runtime/engine_fixture.h"
#include "tests/runtime/fake_device.h"

namespace octavo {
namespace {

using ::octavo::testing::FakeDevice;

constexpr bool kDocuments = false, kUrgent = true;  // the streams
constexpr auto kAWhile = std::chrono::milliseconds(5);
// Longer than any layer of a batch takes: a unit is a layer of the whole batch.
constexpr auto kLongStep = std::chrono::seconds(1);
constexpr int kUnitsOfABatch = 3;  // the embeddings, and two layers

class EngineDeviceTest : public testing::EngineFixture {
 protected:
  void Start(bool urgent_streams, std::chrono::microseconds step) {
    device_ = std::make_unique<FakeDevice>(urgent_streams);
    Load(device_->backend(), step);
    ASSERT_TRUE(engine_->Start().ok());
  }
  void TearDown() override {
    engine_.reset();
    device_.reset();
  }

  std::unique_ptr<FakeDevice> device_;
};

TEST_F(EngineDeviceTest, OneUnitRunsAndOneIsQueuedAlsoFromBatchToBatch) {
  Start(/*urgent_streams=*/true, kLongStep);
  // A batch takes up to 1024 tokens: four batches.
  const auto job = MakeJob(Lane::kDocument, std::vector<int>(10, 300), 1);
  Submit(job);
  const int units = 4 * kUnitsOfABatch;
  for (int unit = 0; unit < units; ++unit) {
    const int expected = std::min(2, units - unit);
    ASSERT_EQ(device_->WaitForPending(kDocuments, expected), expected) << unit;
    std::this_thread::sleep_for(kAWhile);
    ASSERT_EQ(device_->Pending(kDocuments), expected) << unit;
    ASSERT_TRUE(device_->RunToMark(kDocuments));
  }
  WaitFor(1);
  EXPECT_EQ(device_->Pending(kDocuments), 0);
  ExpectRight(*job);
}

TEST_F(EngineDeviceTest, AQueryWaitsForTwoUnitsAndNoMore) {
  Start(/*urgent_streams=*/false, kLongStep);
  const auto documents = MakeJob(Lane::kDocument, std::vector<int>(10, 300), 1);
  Submit(documents);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  const auto query = MakeJob(Lane::kQuery, {8, 21}, 2);
  Submit(query);
  // Behind the two, and nothing behind it.
  ASSERT_EQ(device_->WaitForPending(kDocuments, 3), 3);
  for (int left = 3; left > 0; --left) {
    std::this_thread::sleep_for(kAWhile);
    ASSERT_EQ(device_->Pending(kDocuments), left);
    ASSERT_TRUE(device_->RunToMark(kDocuments));
  }
  WaitFor(1);
  ASSERT_EQ(finished_[0], query.get());
  ExpectRight(*query);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  device_->RunFreely();
  WaitFor(2);
  ExpectRight(*documents);
}

TEST_F(EngineDeviceTest, AnUrgentQueryWaitsForNoUnit) {
  Start(/*urgent_streams=*/true, kLongStep);
  const auto documents = MakeJob(Lane::kDocument, std::vector<int>(10, 300), 1);
  Submit(documents);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  const auto query = MakeJob(Lane::kQuery, {8, 21}, 2);
  Submit(query);
  ASSERT_EQ(device_->WaitForPending(kUrgent, 1), 1);
  // While it runs no unit is added either.
  ASSERT_TRUE(device_->RunToMark(kDocuments));
  std::this_thread::sleep_for(kAWhile);
  ASSERT_EQ(device_->Pending(kDocuments), 1);
  ASSERT_TRUE(device_->RunToMark(kUrgent));
  WaitFor(1);
  ASSERT_EQ(finished_[0], query.get());
  ExpectRight(*query);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  device_->RunFreely();
  WaitFor(2);
  ExpectRight(*documents);
}

TEST_F(EngineDeviceTest, UnitsTakeAStepOfDeviceTime) {
  constexpr std::chrono::nanoseconds kStep = std::chrono::microseconds(200);
  Start(/*urgent_streams=*/true, std::chrono::microseconds(200));
  const size_t calibration = device_->DocumentUnits().size();
  device_->RunFreely();
  const auto job = MakeJob(Lane::kDocument, std::vector<int>(20, 300), 1);
  Submit(job);
  WaitFor(1);
  const std::vector<std::chrono::nanoseconds> units = device_->DocumentUnits();
  ASSERT_GT(units.size(), calibration + 40);
  std::chrono::nanoseconds sum{0};
  for (size_t i = calibration; i < units.size(); ++i) {
    EXPECT_LE(units[i], kStep * 5 / 4) << i;
    sum += units[i];
  }
  // The last unit of a stage is a remainder.
  EXPECT_GE(sum / (units.size() - calibration), kStep / 2);
}

TEST_F(EngineDeviceTest, WhatIsReportedIsTheDevicesTime) {
  Start(/*urgent_streams=*/true, std::chrono::microseconds(200));
  const std::chrono::nanoseconds documents_before = device_->Busy(kDocuments);
  const std::chrono::nanoseconds queries_before = device_->Busy(kUrgent);
  device_->RunFreely();
  const auto documents = MakeJob(Lane::kDocument, std::vector<int>(20, 300), 1);
  const auto query = MakeJob(Lane::kQuery, {50, 50}, 2);
  Submit(documents);
  WaitFor(1);
  Submit(query);
  WaitFor(2);
  double seconds[kLanes] = {};
  for (const BatchReport& report : observer_.batches()) {
    seconds[static_cast<int>(report.lane)] += report.compute_seconds;
  }
  const auto expect = [&](Lane lane, std::chrono::nanoseconds busy) {
    EXPECT_NEAR(seconds[static_cast<int>(lane)], std::chrono::duration<double>(busy).count(), 1e-6);
  };
  expect(Lane::kDocument, device_->Busy(kDocuments) - documents_before);
  expect(Lane::kQuery, device_->Busy(kUrgent) - queries_before);
}

TEST_F(EngineDeviceTest, AnswersBothLanesFromManyThreads) {
  for (const bool urgent_streams : {false, true}) {
    Start(urgent_streams, std::chrono::microseconds(50));
    device_->RunFreely();
    AnswerBothLanesFromManyThreads();
    TearDown();
    finished_.clear();
  }
}

TEST_F(EngineDeviceTest, AFailedDeviceEndsWhatItWasGivenAndTakesNoMore) {
  Start(/*urgent_streams=*/true, kLongStep);
  const auto documents = MakeJob(Lane::kDocument, {300, 300, 300}, 1);
  const auto query = MakeJob(Lane::kQuery, {8}, 2);
  Submit(documents);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  Submit(query);
  ASSERT_EQ(device_->WaitForPending(kUrgent, 1), 1);
  EXPECT_EQ(losses_, 0);
  device_->Fail();
  WaitFor(2);
  EXPECT_TRUE(absl::IsUnavailable(documents->status)) << documents->status;
  EXPECT_TRUE(absl::IsUnavailable(query->status)) << query->status;
  const auto late = MakeJob(Lane::kQuery, {8}, 3);
  Submit(late);
  engine_->FinishAndJoin(Clock::now());
  EXPECT_EQ(losses_, 1);
  EXPECT_EQ(observer_.device_errors(), 1);
  EXPECT_EQ(finished_.size(), 2u) << "what is queued is another engine's";
  EXPECT_EQ(scheduler_->Drain(absl::UnavailableError("the test ends")).size(), 1u);
}

TEST_F(EngineDeviceTest, AtTheDeadlineWhatTheDeviceStillComputesEndsUnavailable) {
  Start(/*urgent_streams=*/true, kLongStep);
  const auto documents = MakeJob(Lane::kDocument, {300, 300, 300}, 1);
  const auto query = MakeJob(Lane::kQuery, {8}, 2);
  Submit(documents);
  ASSERT_EQ(device_->WaitForPending(kDocuments, 2), 2);
  Submit(query);
  ASSERT_EQ(device_->WaitForPending(kUrgent, 1), 1);
  scheduler_->Stop();
  engine_->FinishAndJoin(Clock::now());
  WaitFor(2);
  EXPECT_TRUE(absl::IsUnavailable(documents->status)) << documents->status;
  EXPECT_TRUE(absl::IsUnavailable(query->status)) << query->status;
  EXPECT_EQ(device_->Pending(kDocuments) + device_->Pending(kUrgent), 0);
}

}  // namespace
}  // namespace octavo
