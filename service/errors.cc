#include "service/errors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace octavo {
namespace {

struct ReasonRow {
  std::string_view name;
  absl::StatusCode code;
};

// In the order of Reason.
constexpr ReasonRow kRows[] = {
    {"MESSAGE_MALFORMED", absl::StatusCode::kInvalidArgument},
    {"TEXT_NOT_UTF8", absl::StatusCode::kInvalidArgument},
    {"INPUTS_MISSING", absl::StatusCode::kInvalidArgument},
    {"TOO_MANY_INPUTS", absl::StatusCode::kInvalidArgument},
    {"INPUT_MISSING", absl::StatusCode::kInvalidArgument},
    {"TEXT_EMPTY", absl::StatusCode::kInvalidArgument},
    {"TEXT_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"TOO_MANY_TOKENS", absl::StatusCode::kInvalidArgument},
    {"TOKEN_ID_OUT_OF_RANGE", absl::StatusCode::kInvalidArgument},
    {"INPUT_TYPE_INVALID", absl::StatusCode::kInvalidArgument},
    {"OUTPUT_TYPE_INVALID", absl::StatusCode::kInvalidArgument},
    {"DIMENSIONS_INVALID", absl::StatusCode::kInvalidArgument},
    {"TRUNCATION_INVALID", absl::StatusCode::kInvalidArgument},
    {"PROMPT_UNKNOWN", absl::StatusCode::kInvalidArgument},
    {"RESPONSE_TOO_LARGE", absl::StatusCode::kInvalidArgument},
    {"MODEL_NOT_FOUND", absl::StatusCode::kNotFound},
    {"REVISION_MISMATCH", absl::StatusCode::kFailedPrecondition},
    {"LANE_FULL", absl::StatusCode::kResourceExhausted},
    {"DEADLINE_UNREACHABLE", absl::StatusCode::kResourceExhausted},
    {"DEADLINE_EXCEEDED", absl::StatusCode::kDeadlineExceeded},
    {"CANCELLED", absl::StatusCode::kCancelled},
    {"DRAINING", absl::StatusCode::kUnavailable},
    {"LOADING", absl::StatusCode::kUnavailable},
    {"NO_DEVICE", absl::StatusCode::kUnavailable},
    {"INTERNAL", absl::StatusCode::kInternal},
};
static_assert(sizeof(kRows) / sizeof(kRows[0]) == kReasons);

constexpr std::string_view kCodeNames[] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
};

constexpr size_t kMaxFieldBytes = 96;
constexpr size_t kMaxDescriptionBytes = 256;
constexpr std::string_view kTypePrefix = "type.googleapis.com/";

// Cuts at a UTF-8 character boundary and marks the cut.
std::string Shorten(std::string_view text, size_t limit) {
  if (text.size() <= limit) return std::string(text);
  size_t end = limit - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(std::string(text.substr(0, end)), "...");
}

void SetDuration(Duration duration, google::protobuf::Duration* proto) {
  const int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count();
  proto->set_seconds(ns / 1'000'000'000);
  proto->set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
}

template <typename Message>
void Pack(const Message& message, std::string_view type, google::rpc::Status* status) {
  google::protobuf::Any* any = status->add_details();
  any->set_type_url(absl::StrCat(std::string(kTypePrefix), std::string(type)));
  any->set_value(message.SerializeAsString());
}

google::rpc::BadRequest ShortViolations(const std::vector<FieldViolation>& violations,
                                        size_t budget) {
  google::rpc::BadRequest bad;
  size_t used = 0;
  for (const FieldViolation& violation : violations) {
    google::rpc::BadRequest::FieldViolation entry;
    entry.set_field(Shorten(violation.field, kMaxFieldBytes));
    entry.set_description(Shorten(violation.description, kMaxDescriptionBytes));
    used += entry.ByteSizeLong() + 4;
    if (used > budget) {
      auto* rest = bad.add_field_violations();
      rest->set_field("...");
      rest->set_description(
          absl::StrCat("and ", violations.size() - (bad.field_violations_size() - 1), " more"));
      break;
    }
    *bad.add_field_violations() = std::move(entry);
  }
  return bad;
}

}  // namespace

std::string_view ReasonName(Reason reason) { return kRows[static_cast<int>(reason)].name; }

absl::StatusCode ReasonCode(Reason reason) { return kRows[static_cast<int>(reason)].code; }

std::string_view CodeName(absl::StatusCode code) {
  const size_t index = static_cast<size_t>(code);
  return index < std::size(kCodeNames) ? kCodeNames[index] : "UNKNOWN";
}

RequestError FieldError(Reason reason, std::string field, std::string description) {
  RequestError error;
  error.reason = reason;
  error.message = absl::StrCat(field, ": ", description);
  error.violations.push_back({std::move(field), std::move(description)});
  return error;
}

RequestError JobError(const absl::Status& status, bool draining) {
  RequestError error;
  error.message = std::string(status.message());
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
      error.reason = Reason::kCancelled;
      break;
    case absl::StatusCode::kDeadlineExceeded:
      error.reason = Reason::kDeadlineExceeded;
      break;
    case absl::StatusCode::kUnavailable:
      error.reason = draining ? Reason::kDraining : Reason::kNoDevice;
      break;
    default:
      error.reason = Reason::kInternal;
      break;
  }
  if (error.message.empty()) error.message = std::string(ReasonName(error.reason));
  return error;
}

std::string StatusMessage(const RequestError& error) {
  return Shorten(error.message, kMaxMessageBytes);
}

std::string SerializeDetails(const RequestError& error) {
  google::rpc::Status status;
  status.set_code(static_cast<int32_t>(error.code()));
  status.set_message(StatusMessage(error));

  google::rpc::ErrorInfo info;
  info.set_reason(std::string(ReasonName(error.reason)));
  info.set_domain("octavo");
  Pack(info, "google.rpc.ErrorInfo", &status);

  if (error.retry_delay.has_value()) {
    google::rpc::RetryInfo retry;
    SetDuration(*error.retry_delay, retry.mutable_retry_delay());
    Pack(retry, "google.rpc.RetryInfo", &status);
  }
  if (!error.violations.empty()) {
    // The last entry ("and N more") and the wrapping need a little room of their own.
    constexpr size_t kSlack = 160;
    const size_t budget = kMaxDetailsBytes - status.ByteSizeLong() - kSlack;
    Pack(ShortViolations(error.violations, budget), "google.rpc.BadRequest", &status);
  }
  return status.SerializeAsString();
}

std::optional<int64_t> RetryPushbackMs(const RequestError& error) {
  if (!error.retry_delay.has_value()) return std::nullopt;
  const int64_t ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(*error.retry_delay).count();
  return std::max<int64_t>(ms, 1);
}

v1::Error ToProto(const RequestError& error) {
  v1::Error proto;
  proto.set_code(static_cast<int32_t>(error.code()));
  proto.set_reason(std::string(ReasonName(error.reason)));
  proto.set_message(StatusMessage(error));
  if (error.retry_delay.has_value()) SetDuration(*error.retry_delay, proto.mutable_retry_delay());
  return proto;
}

}  // namespace octavo
