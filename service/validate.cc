#include "service/validate.h"

#include <algorithm>
#include <climits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "google/protobuf/io/coded_stream.h"
#include "runtime/unicode.h"
#include "service/vectors.h"

namespace octavo {
namespace {

// Upper bounds on the encoding of a response besides its vectors: each InputResult (tokens and
// truncated, or an error's code and reason), each `scales` entry, and names, execution and lengths
// once.
constexpr int64_t kResultBytes = 48;
constexpr int64_t kScaleBytes = 4;
constexpr int64_t kFixedBytes = 512;

bool Utf8(std::string_view text) { return ValidUtf8Prefix(text) == text.size(); }

RequestError Malformed() {
  RequestError error;
  error.reason = Reason::kMessageMalformed;
  error.message = "the bytes are not a valid message of this method, or a string is not UTF-8";
  return error;
}

template <typename Message>
bool ParseBytes(std::string_view bytes, Message* message) {
  return message->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// Wire types of the protobuf encoding.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kLengthDelimited = 2, kFixed32 = 5;

constexpr uint32_t Tag(int field, uint32_t wire_type) {
  return static_cast<uint32_t>(field) << 3 | wire_type;
}

// Walks the fields of one message on the wire, without building anything. `visit(tag, value, data)`
// gets the value of a varint or the bytes of a length-delimited field; false ends the walk. False
// if the bytes are not a message; groups, which proto3 lacks, are not accepted.
template <typename Visit>
bool ForEachField(std::string_view bytes, const Visit& visit) {
  google::protobuf::io::CodedInputStream stream(reinterpret_cast<const uint8_t*>(bytes.data()),
                                                static_cast<int>(bytes.size()));
  while (const uint32_t tag = stream.ReadTag()) {
    uint64_t value = 0;
    uint32_t length = 0;
    std::string_view data;
    switch (tag & 7) {
      case kVarint:
        if (!stream.ReadVarint64(&value)) return false;
        break;
      case kFixed64:
        if (!stream.Skip(8)) return false;
        break;
      case kLengthDelimited:
        if (!stream.ReadVarint32(&length)) return false;
        data = bytes.substr(static_cast<size_t>(stream.CurrentPosition()));
        if (length > data.size() || !stream.Skip(static_cast<int>(length))) return false;
        data = data.substr(0, length);
        break;
      case kFixed32:
        if (!stream.Skip(4)) return false;
        break;
      default:
        return false;
    }
    if (!visit(tag, value, data)) return false;
  }
  return stream.ConsumedEntireMessage();
}

// Adds the inputs of an EmbedRequest on the wire.
bool CountInputs(std::string_view bytes, int64_t* inputs) {
  constexpr uint32_t kInput = Tag(v1::EmbedRequest::kInputsFieldNumber, kLengthDelimited);
  return ForEachField(bytes, [&](uint32_t tag, uint64_t, std::string_view) {
    *inputs += tag == kInput;
    return true;
  });
}

RequestError TooManyInputs(std::string field, int64_t inputs, const RequestLimits& limits) {
  return FieldError(Reason::kTooManyInputs, std::move(field),
                    absl::StrCat(inputs, " inputs, at most ", limits.max_inputs, " are accepted"));
}

RequestError NotUtf8(std::string field) {
  return FieldError(Reason::kTextNotUtf8, std::move(field), "is not UTF-8");
}

// protobuf rejects such strings while parsing in most of its builds; this does not rely on it.
std::optional<RequestError> CheckStrings(const v1::EmbedRequest& request, std::string_view parent) {
  const auto field = [&](const auto&... parts) {
    return absl::StrCat(std::string(parent), parts...);
  };
  if (!Utf8(request.model())) return NotUtf8(field("model"));
  if (!Utf8(request.revision())) return NotUtf8(field("revision"));
  if (!Utf8(request.options().prompt_name())) return NotUtf8(field("options.prompt_name"));
  for (int i = 0; i < request.inputs_size(); ++i) {
    const v1::Input& input = request.inputs(i);
    if (input.has_text() && !Utf8(input.text())) {
      return NotUtf8(field("inputs[", i, "].text"));
    }
  }
  return std::nullopt;
}

// Collects what is wrong; the first reason becomes the error's.
class Violations {
 public:
  void Add(Reason reason, std::string field, std::string description) {
    if (error_.has_value()) {
      error_->violations.push_back({std::move(field), std::move(description)});
    } else {
      error_ = FieldError(reason, std::move(field), std::move(description));
    }
  }
  std::optional<RequestError> Take() { return std::move(error_); }

 private:
  std::optional<RequestError> error_;
};

void CheckTypes(const v1::EmbedOptions& options, EmbedPlan* plan, Violations* violations) {
  if (options.output_types_size() > static_cast<int>(OutputTypes().size())) {
    violations->Add(
        Reason::kOutputTypeInvalid, "options.output_types",
        absl::StrCat(options.output_types_size(), " types, there are only ", OutputTypes().size()));
    return;
  }
  for (int i = 0; i < options.output_types_size(); ++i) {
    const v1::DataType type = options.output_types(i);
    const std::string field = absl::StrCat("options.output_types[", i, "]");
    const auto known = OutputTypes();
    if (std::find(known.begin(), known.end(), type) == known.end()) {
      violations->Add(Reason::kOutputTypeInvalid, field,
                      absl::StrCat("unknown type ", static_cast<int>(type)));
    } else if (std::find(plan->types.begin(), plan->types.end(), type) != plan->types.end()) {
      violations->Add(Reason::kOutputTypeInvalid, field, "repeated");
    } else {
      plan->types.push_back(type);
    }
  }
  if (options.output_types_size() == 0) plan->types.push_back(v1::DATA_TYPE_FLOAT32);
}

void CheckDimensions(const v1::EmbedOptions& options, const ModelSpec& spec, EmbedPlan* plan,
                     Violations* violations) {
  if (options.dimensions() > static_cast<uint32_t>(spec.hidden)) {
    violations->Add(Reason::kDimensionsInvalid, "options.dimensions",
                    absl::StrCat(options.dimensions(), " is more than the model's ", spec.hidden));
    return;
  }
  plan->dimensions =
      options.dimensions() == 0 ? spec.hidden : static_cast<int>(options.dimensions());
  const bool binary =
      std::find(plan->types.begin(), plan->types.end(), v1::DATA_TYPE_BINARY) != plan->types.end();
  if (binary && plan->dimensions % 8 != 0) {
    violations->Add(Reason::kDimensionsInvalid, "options.dimensions",
                    absl::StrCat(plan->dimensions, " is not a multiple of 8, as BINARY needs"));
  }
}

void CheckPrompt(const v1::EmbedOptions& options, const ModelSpec& spec, EmbedPlan* plan,
                 Violations* violations) {
  std::optional<std::string_view> name;
  if (options.has_prompt_name()) name = options.prompt_name();
  const std::string* prompt = FindPrompt(spec, plan->lane, name);
  if (prompt != nullptr) {
    plan->prompt = *prompt;
    return;
  }
  std::vector<std::string> names;
  for (const auto& [known, text] : spec.prompts) names.push_back(known);
  violations->Add(Reason::kPromptUnknown, "options.prompt_name",
                  absl::StrCat("the model has no such prompt; it has: ",
                               names.empty() ? std::string("none") : absl::StrJoin(names, ", ")));
}

void CheckResponseSize(const v1::EmbedRequest& request, const ModelInfo& info,
                       const RequestLimits& limits, EmbedPlan* plan, Violations* violations) {
  int64_t per_input = kResultBytes;
  for (v1::DataType type : plan->types) {
    per_input += static_cast<int64_t>(RowBytes(type, plan->dimensions));
    if (type == v1::DATA_TYPE_INT8) per_input += kScaleBytes;
  }
  const int64_t fixed = kFixedBytes + static_cast<int64_t>(info.name.size() + info.revision.size());
  plan->response_bytes = fixed + per_input * request.inputs_size();
  if (plan->response_bytes <= limits.max_response_bytes) return;
  const int64_t fit = std::max<int64_t>(0, (limits.max_response_bytes - fixed) / per_input);
  violations->Add(Reason::kResponseTooLarge, "inputs",
                  absl::StrCat("the response would take ", plan->response_bytes,
                               " bytes, more than ", limits.max_response_bytes, "; at most ", fit,
                               " inputs fit with these output types and dimensions"));
}

void CheckInputs(const v1::EmbedRequest& request, const ModelSpec& spec,
                 const RequestLimits& limits, std::vector<InputError>* errors) {
  for (int i = 0; i < request.inputs_size(); ++i) {
    const v1::Input& input = request.inputs(i);
    const size_t index = static_cast<size_t>(i);
    const auto fail = [&](Reason reason, std::string_view leaf, std::string description) {
      errors->push_back(
          {index, FieldError(reason, absl::StrCat("inputs[", i, "]", std::string(leaf)),
                             std::move(description))});
    };
    if (input.has_text()) {
      const int64_t bytes = static_cast<int64_t>(input.text().size());
      if (bytes == 0) {
        fail(Reason::kTextEmpty, ".text", "is empty");
      } else if (bytes > limits.max_text_bytes) {
        fail(Reason::kTextTooLarge, ".text",
             absl::StrCat(bytes, " bytes, at most ", limits.max_text_bytes, " are accepted"));
      }
    } else if (input.has_token_ids()) {
      const auto& ids = input.token_ids().ids();
      const auto bad = std::find_if(ids.begin(), ids.end(), [&](uint32_t id) {
        return id >= static_cast<uint32_t>(spec.vocabulary);
      });
      if (ids.empty()) {
        fail(Reason::kTextEmpty, ".token_ids", "is empty");
      } else if (ids.size() > spec.max_tokens) {
        fail(Reason::kTooManyTokens, ".token_ids",
             absl::StrCat(ids.size(), " tokens, at most ", spec.max_tokens,
                          " are accepted; token ids are used as given"));
      } else if (bad != ids.end()) {
        fail(Reason::kTokenIdOutOfRange, absl::StrCat(".token_ids.ids[", bad - ids.begin(), "]"),
             absl::StrCat(*bad, " is beyond the vocabulary of ", spec.vocabulary));
      }
    } else {
      fail(Reason::kInputMissing, "", "holds neither text nor token_ids");
    }
  }
}

}  // namespace

std::optional<RequestError> Parse(std::string_view bytes, const RequestLimits& limits,
                                  v1::EmbedRequest* request) {
  if (bytes.size() > INT_MAX) return Malformed();
  int64_t inputs = 0;
  if (!CountInputs(bytes, &inputs)) return Malformed();
  if (inputs > limits.max_inputs) return TooManyInputs("inputs", inputs, limits);
  if (!ParseBytes(bytes, request)) return Malformed();
  return CheckStrings(*request, "");
}

std::optional<RequestError> Parse(std::string_view bytes, const RequestLimits& limits,
                                  v1::EmbedStreamRequest* request) {
  if (bytes.size() > INT_MAX) return Malformed();
  int64_t inputs = 0;
  uint64_t id = 0;
  const bool well_formed =
      ForEachField(bytes, [&](uint32_t tag, uint64_t value, std::string_view data) {
        if (tag == Tag(v1::EmbedStreamRequest::kIdFieldNumber, kVarint)) {
          id = value;
        } else if (tag == Tag(v1::EmbedStreamRequest::kRequestFieldNumber, kLengthDelimited)) {
          return CountInputs(data, &inputs);
        }
        return true;
      });
  if (!well_formed) return Malformed();
  if (inputs > limits.max_inputs) {
    request->set_id(id);
    return TooManyInputs("request.inputs", inputs, limits);
  }
  if (!ParseBytes(bytes, request)) return Malformed();
  return CheckStrings(request->request(), "request.");
}

std::optional<RequestError> Parse(std::string_view bytes, v1::GetInfoRequest* request) {
  if (bytes.size() > INT_MAX || !ParseBytes(bytes, request)) return Malformed();
  if (!Utf8(request->model())) return NotUtf8("model");
  return std::nullopt;
}

std::optional<Lane> LaneOf(const v1::EmbedRequest& request) {
  switch (request.options().input_type()) {
    case v1::INPUT_TYPE_QUERY:
      return Lane::kQuery;
    case v1::INPUT_TYPE_DOCUMENT:
      return Lane::kDocument;
    default:
      return std::nullopt;
  }
}

std::optional<RequestError> CheckModel(const std::string& name, const ModelInfo& info) {
  if (name.empty() || name == info.name) return std::nullopt;
  return FieldError(Reason::kModelNotFound, "model",
                    absl::StrCat("no such model is served; this server serves ", info.name));
}

std::optional<RequestError> Validate(const v1::EmbedRequest& request, const ModelInfo& info,
                                     const RequestLimits& limits, Validated* validated) {
  if (auto error = CheckModel(request.model(), info)) return error;
  if (!request.revision().empty() && request.revision() != info.revision) {
    return FieldError(Reason::kRevisionMismatch, "revision",
                      absl::StrCat("the server serves revision ", info.revision));
  }
  EmbedPlan& plan = validated->plan;
  const v1::EmbedOptions& options = request.options();
  Violations violations;

  const std::optional<Lane> lane = LaneOf(request);
  if (!lane.has_value()) {
    violations.Add(Reason::kInputTypeInvalid, "options.input_type",
                   "must be INPUT_TYPE_QUERY or INPUT_TYPE_DOCUMENT");
  }
  plan.lane = lane.value_or(Lane::kQuery);
  if (request.inputs_size() == 0) {
    violations.Add(Reason::kInputsMissing, "inputs", "at least one input is needed");
  }
  switch (options.truncation()) {
    case v1::TRUNCATION_UNSPECIFIED:
    case v1::TRUNCATION_END:
      plan.truncation = Truncation::kEnd;
      break;
    case v1::TRUNCATION_NONE:
      plan.truncation = Truncation::kNone;
      break;
    case v1::TRUNCATION_START:
      plan.truncation = Truncation::kStart;
      break;
    default:
      violations.Add(Reason::kTruncationInvalid, "options.truncation",
                     absl::StrCat("unknown value ", static_cast<int>(options.truncation())));
  }
  plan.normalize = options.has_normalize() ? options.normalize() : info.spec.normalize;
  CheckTypes(options, &plan, &violations);
  CheckDimensions(options, info.spec, &plan, &violations);
  CheckPrompt(options, info.spec, &plan, &violations);
  if (auto error = violations.Take()) return error;

  CheckResponseSize(request, info, limits, &plan, &violations);
  if (auto error = violations.Take()) return error;
  CheckInputs(request, info.spec, limits, &validated->input_errors);
  return std::nullopt;
}

const std::string* FindPrompt(const ModelSpec& spec, Lane lane,
                              std::optional<std::string_view> name) {
  static const std::string kNone;
  const std::string& default_name =
      lane == Lane::kQuery ? spec.default_query_prompt : spec.default_document_prompt;
  const std::string key = name.has_value() ? std::string(*name) : default_name;
  if (key.empty()) return &kNone;
  const auto prompt = spec.prompts.find(key);
  return prompt == spec.prompts.end() ? nullptr : &prompt->second;
}

RequestError JoinInputErrors(std::vector<InputError> errors) {
  RequestError joined = std::move(errors.front().error);
  for (size_t i = 1; i < errors.size(); ++i) {
    for (FieldViolation& violation : errors[i].error.violations) {
      joined.violations.push_back(std::move(violation));
    }
  }
  return joined;
}

}  // namespace octavo
