#include "service/errors.h"

#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace octavo {
namespace {

TEST(Reasons, HaveDistinctNamesAndAnErrorCode) {
  std::set<std::string_view> names;
  for (int i = 0; i < kReasons; ++i) {
    const Reason reason = static_cast<Reason>(i);
    EXPECT_TRUE(names.insert(ReasonName(reason)).second) << ReasonName(reason);
    EXPECT_NE(ReasonCode(reason), absl::StatusCode::kOk);
  }
  EXPECT_EQ(ReasonName(Reason::kLaneFull), "LANE_FULL");
  EXPECT_EQ(ReasonCode(Reason::kLaneFull), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonCode(Reason::kDeadlineUnreachable), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonCode(Reason::kDraining), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ReasonCode(Reason::kInternal), absl::StatusCode::kInternal);
}

TEST(Reasons, CodeNames) {
  EXPECT_EQ(CodeName(absl::StatusCode::kOk), "OK");
  EXPECT_EQ(CodeName(absl::StatusCode::kFailedPrecondition), "FAILED_PRECONDITION");
  EXPECT_EQ(CodeName(absl::StatusCode::kUnauthenticated), "UNAUTHENTICATED");
}

TEST(Details, CarryErrorInfoViolationsAndRetry) {
  RequestError error = FieldError(Reason::kTextEmpty, "inputs[3].text", "is empty");
  error.retry_delay = std::chrono::milliseconds(1500);
  google::rpc::Status status;
  ASSERT_TRUE(status.ParseFromString(SerializeDetails(error)));
  EXPECT_EQ(status.code(), 3);
  ASSERT_EQ(status.details_size(), 3);
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(status.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "TEXT_EMPTY");
  EXPECT_EQ(info.domain(), "octavo");
  google::rpc::RetryInfo retry;
  ASSERT_TRUE(status.details(1).UnpackTo(&retry));
  EXPECT_EQ(retry.retry_delay().seconds(), 1);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
  google::rpc::BadRequest bad;
  ASSERT_TRUE(status.details(2).UnpackTo(&bad));
  ASSERT_EQ(bad.field_violations_size(), 1);
  EXPECT_EQ(bad.field_violations(0).field(), "inputs[3].text");
  EXPECT_EQ(bad.field_violations(0).description(), "is empty");
}

// Clients drop a status whose headers exceed 8 KiB; details travel in base64.
TEST(Details, StayShortWhateverIsWrong) {
  RequestError error;
  error.reason = Reason::kTextEmpty;
  for (int i = 0; i < 5000; ++i) {
    error.message += "\xE6\x97\xA5";
    error.violations.push_back(
        {absl::StrCat("inputs[", i, "].text"), std::string(static_cast<size_t>(i % 700), 'x')});
  }
  const std::string details = SerializeDetails(error);
  EXPECT_LE(details.size(), kMaxDetailsBytes);
  EXPECT_GT(details.size(), kMaxDetailsBytes / 2);
  const std::string message = StatusMessage(error);
  EXPECT_LE(message.size(), kMaxMessageBytes);
  EXPECT_EQ((message.size() - 3) % 3, 0u) << "cut inside a character";
  EXPECT_LE(details.size() * 4 / 3 + 3 * message.size(), 8192u);

  google::rpc::Status status;
  ASSERT_TRUE(status.ParseFromString(details));
  google::rpc::BadRequest bad;
  ASSERT_TRUE(status.details(1).UnpackTo(&bad));
  const int shown = bad.field_violations_size() - 1;
  EXPECT_EQ(bad.field_violations(shown).description(), absl::StrCat("and ", 5000 - shown, " more"));
}

TEST(Retry, PushbackIsInMillisecondsAndAtLeastOne) {
  RequestError error;
  error.reason = Reason::kLaneFull;
  EXPECT_FALSE(RetryPushbackMs(error).has_value());
  error.retry_delay = std::chrono::milliseconds(250);
  EXPECT_EQ(RetryPushbackMs(error), 250);
  error.retry_delay = std::chrono::microseconds(3);
  EXPECT_EQ(RetryPushbackMs(error), 1);
}

TEST(JobErrors, MapStatusToReason) {
  EXPECT_EQ(JobError(absl::CancelledError("x"), false).reason, Reason::kCancelled);
  EXPECT_EQ(JobError(absl::DeadlineExceededError("x"), false).reason, Reason::kDeadlineExceeded);
  EXPECT_EQ(JobError(absl::UnavailableError("x"), false).reason, Reason::kNoDevice);
  EXPECT_EQ(JobError(absl::UnavailableError("x"), true).reason, Reason::kDraining);
  EXPECT_EQ(JobError(absl::InternalError("x"), false).reason, Reason::kInternal);
  EXPECT_EQ(JobError(absl::OutOfRangeError("x"), false).reason, Reason::kInternal);
  EXPECT_EQ(JobError(absl::InternalError("what"), false).message, "what");
}

TEST(StreamErrors, CarryCodeReasonMessageAndDelay) {
  RequestError error;
  error.reason = Reason::kNoDevice;
  error.message = "gone";
  error.retry_delay = std::chrono::seconds(2);
  const v1::Error proto = ToProto(error);
  EXPECT_EQ(proto.code(), 14);
  EXPECT_EQ(proto.reason(), "NO_DEVICE");
  EXPECT_EQ(proto.message(), "gone");
  EXPECT_EQ(proto.retry_delay().seconds(), 2);
}

}  // namespace
}  // namespace octavo
