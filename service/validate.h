// An EmbedRequest from the wire to a checked plan, before any room is taken or text tokenized.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "octavo/v1/embedding.pb.h"
#include "runtime/runtime.h"
#include "service/errors.h"

namespace octavo {

struct RequestLimits {
  int64_t max_inputs = 1024;
  int64_t max_text_bytes = 1 << 20;      // of one input
  int64_t max_message_bytes = 16 << 20;  // of one request, enforced by the transport
  int64_t max_response_bytes = 4 << 20;  // of one response
};

// What a request asked for, checked.
struct EmbedPlan {
  Lane lane = Lane::kQuery;
  std::vector<v1::DataType> types;  // at least one
  int dimensions = 0;
  bool normalize = false;
  Truncation truncation = Truncation::kEnd;
  std::string_view prompt;  // put before each text; points into the ModelInfo
  // What the response takes at most, before compute.
  int64_t response_bytes = 0;
};

// An input that cannot be embedded. Embed fails with it; in a stream the others stand.
struct InputError {
  size_t index = 0;
  RequestError error;  // its one violation names `inputs[index]...`
};

struct Validated {
  EmbedPlan plan;
  std::vector<InputError> input_errors;  // ascending
};

// The bytes as a message, or MESSAGE_MALFORMED / TEXT_NOT_UTF8. A request of far too many inputs
// (2 bytes each on the wire, many times that in memory) is TOO_MANY_INPUTS and not built; of a
// stream's, `id` is set even then.
std::optional<RequestError> Parse(std::string_view bytes, const RequestLimits& limits,
                                  v1::EmbedRequest* request);
std::optional<RequestError> Parse(std::string_view bytes, const RequestLimits& limits,
                                  v1::EmbedStreamRequest* request);
std::optional<RequestError> Parse(std::string_view bytes, v1::GetInfoRequest* request);

// The lane of a request, if its options name one.
std::optional<Lane> LaneOf(const v1::EmbedRequest& request);

// MODEL_NOT_FOUND unless `name` is empty or the served model's.
std::optional<RequestError> CheckModel(const std::string& name, const ModelInfo& info);

// All that is wrong with the request as a whole, in one error with a violation each; or the plan.
// `info` outlives the plan.
std::optional<RequestError> Validate(const v1::EmbedRequest& request, const ModelInfo& info,
                                     const RequestLimits& limits, Validated* validated);

// The prompt of a name in a request; unset: the default of the lane. Null if the name is unknown.
const std::string* FindPrompt(const ModelSpec& spec, Lane lane,
                              std::optional<std::string_view> name);

// What Embed answers when inputs are bad: one error with a violation for each.
RequestError JoinInputErrors(std::vector<InputError> errors);

}  // namespace octavo
