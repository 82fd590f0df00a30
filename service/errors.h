// What a caller is told when a request fails: one closed list of reasons, and the forms an error
// takes on the wire.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "octavo/v1/embedding.pb.h"
#include "runtime/job.h"

namespace octavo {

// Every reason an error can carry. Clients act on the names: never rename one.
enum class Reason : uint8_t {
  kMessageMalformed,
  kTextNotUtf8,
  kInputsMissing,
  kTooManyInputs,
  kInputMissing,
  kTextEmpty,
  kTextTooLarge,
  kTooManyTokens,
  kTokenIdOutOfRange,
  kInputTypeInvalid,
  kOutputTypeInvalid,
  kDimensionsInvalid,
  kTruncationInvalid,
  kPromptUnknown,
  kResponseTooLarge,
  kModelNotFound,
  kRevisionMismatch,
  kLaneFull,
  kDeadlineUnreachable,
  kDeadlineExceeded,
  kCancelled,
  kDraining,
  kLoading,
  kNoDevice,
  kInternal,
};
inline constexpr int kReasons = static_cast<int>(Reason::kInternal) + 1;

// The name on the wire: "LANE_FULL".
std::string_view ReasonName(Reason reason);
// The status code that goes with a reason. The numbers of absl::StatusCode are gRPC's.
absl::StatusCode ReasonCode(Reason reason);
// "OK", "INVALID_ARGUMENT", ...: the label value of metrics.
std::string_view CodeName(absl::StatusCode code);

struct FieldViolation {
  std::string field;  // "inputs[3].text"
  std::string description;
};

struct RequestError {
  Reason reason = Reason::kInternal;
  std::string message;
  std::vector<FieldViolation> violations;
  std::optional<Duration> retry_delay;

  absl::StatusCode code() const { return ReasonCode(reason); }
};

// An error of one field; the message repeats field and description.
RequestError FieldError(Reason reason, std::string field, std::string description);

// The error of a job that ended with `status` (not OK). `draining`: the server is going away, so
// that UNAVAILABLE means that and not a lost device.
RequestError JobError(const absl::Status& status, bool draining);

// Clients lose a status whose details and message together outgrow the header limit (8 KiB).
inline constexpr size_t kMaxDetailsBytes = 4096;
inline constexpr size_t kMaxMessageBytes = 512;

// The message cut to kMaxMessageBytes at a character boundary.
std::string StatusMessage(const RequestError& error);

// A serialized google.rpc.Status {ErrorInfo, BadRequest, RetryInfo}, at most kMaxDetailsBytes:
// violations that do not fit are left out and counted in a last one.
std::string SerializeDetails(const RequestError& error);

// The value of the trailer `grpc-retry-pushback-ms`; unset where a retry must not be scheduled.
std::optional<int64_t> RetryPushbackMs(const RequestError& error);

// The form used inside responses of a stream.
v1::Error ToProto(const RequestError& error);

}  // namespace octavo
