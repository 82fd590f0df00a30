#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "service/client/commands.h"
#include "service/client/vectors.h"

namespace octavo::client {
namespace {

constexpr int kTextsPerCall = 16;

absl::StatusOr<octavo::v1::EmbedOptions> ParseOptions(const EmbedCommandOptions& options) {
  octavo::v1::EmbedOptions parsed;
  auto input_type = ParseInputType(options.input_type);
  if (!input_type.ok()) return input_type.status();
  parsed.set_input_type(*input_type);
  const std::vector<std::string> names = absl::StrSplit(options.output_types, ',');
  for (const std::string& name : names) {
    auto type = ParseDataType(name);
    if (!type.ok()) return type.status();
    parsed.add_output_types(*type);
  }
  parsed.set_dimensions(options.dimensions);
  if (options.normalize == "true" || options.normalize == "false") {
    parsed.set_normalize(options.normalize == "true");
  } else if (!options.normalize.empty()) {
    return absl::InvalidArgumentError("--normalize is true or false");
  }
  if (options.truncation == "none") {
    parsed.set_truncation(octavo::v1::TRUNCATION_NONE);
  } else if (options.truncation == "end") {
    parsed.set_truncation(octavo::v1::TRUNCATION_END);
  } else if (options.truncation == "start") {
    parsed.set_truncation(octavo::v1::TRUNCATION_START);
  } else if (!options.truncation.empty()) {
    return absl::InvalidArgumentError("--truncation is none, end or start");
  }
  if (options.prompt_name) parsed.set_prompt_name(*options.prompt_name);
  return parsed;
}

// Numbers as the type means them; int8 as its integers beside the scale, binary as packed bytes.
nlohmann::ordered_json VectorJson(const octavo::v1::Vectors& vectors, int64_t row) {
  const int64_t row_bytes = RowBytes(vectors.type(), vectors.dimensions());
  const char* bytes = vectors.data().data() + row * row_bytes;
  nlohmann::ordered_json values = nlohmann::ordered_json::array();
  switch (vectors.type()) {
    case octavo::v1::DATA_TYPE_INT8:
      for (int64_t i = 0; i < row_bytes; ++i) values.push_back(static_cast<int8_t>(bytes[i]));
      return {{"scale", vectors.scales(static_cast<int>(row))}, {"values", values}};
    case octavo::v1::DATA_TYPE_BINARY:
      for (int64_t i = 0; i < row_bytes; ++i) values.push_back(static_cast<uint8_t>(bytes[i]));
      return values;
    default:
      return DecodeRow(vectors, row);
  }
}

std::string LimitText(uint64_t limit) { return limit ? absl::StrCat(limit) : "none"; }

}  // namespace

absl::Status EmbedCommand(const Connection& connection, const EmbedCommandOptions& options,
                          std::ostream& out) {
  if (options.texts.empty()) {
    return absl::InvalidArgumentError("no text: octavo-client embed TEXT...");
  }
  auto parsed = ParseOptions(options);
  if (!parsed.ok()) return parsed.status();
  for (size_t begin = 0; begin < options.texts.size(); begin += kTextsPerCall) {
    const size_t end = std::min(options.texts.size(), begin + kTextsPerCall);
    octavo::v1::EmbedRequest request;
    *request.mutable_options() = *parsed;
    for (size_t i = begin; i < end; ++i) request.add_inputs()->set_text(options.texts[i]);
    auto response = connection.Embed(request);
    if (!response.ok()) return response.status();
    if (absl::Status status = CheckResponse(request, *response); !status.ok()) return status;
    for (size_t i = begin; i < end; ++i) {
      const auto& result = response->results(static_cast<int>(i - begin));
      nlohmann::ordered_json json = {{"text", options.texts[i]},
                                     {"tokens", result.tokens()},
                                     {"truncated", result.truncated()},
                                     {"format", response->execution().format()}};
      for (const octavo::v1::Vectors& vectors : response->vectors()) {
        json[DataTypeName(vectors.type())] = VectorJson(vectors, static_cast<int64_t>(i - begin));
      }
      out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    }
  }
  out.flush();
  return absl::OkStatus();
}

absl::Status InfoCommand(const Connection& connection, std::ostream& out) {
  auto info = connection.GetInfo();
  if (!info.ok()) return info.status();
  const auto line = [&](std::string_view name, const std::string& value) {
    out << absl::StrFormat("%-20s %s\n", std::string(name), value);
  };
  line("model", info->model());
  line("revision", info->revision());
  line("architecture", info->architecture());
  line("dimensions", absl::StrCat(info->dimensions()));
  line("max tokens", absl::StrCat(info->max_tokens()));
  line("pooling", absl::StrCat(info->pooling(), info->normalized() ? ", normalized" : ""));
  if (info->prompt_names_size() > 0) line("prompts", absl::StrJoin(info->prompt_names(), ", "));
  if (info->models_size() > 1) line("models", absl::StrJoin(info->models(), ", "));
  line("devices", absl::StrJoin(info->devices(), ", "));
  for (const octavo::v1::LaneInfo& lane : info->lanes()) {
    std::string text = absl::StrCat(lane.format(), lane.method().empty() ? "" : " by ",
                                    lane.method(), ", ", lane.max_batch_tokens(),
                                    " tokens a batch, ", lane.max_queue_tokens(), " in the queue");
    if (!lane.fallback_format().empty()) {
      absl::StrAppend(&text, ", falls back to ", lane.fallback_format());
    }
    line(absl::StrCat(lane.name(), " lane"), text);
    if (lane.kernels_size() > 0) line("", absl::StrJoin(lane.kernels(), ", "));
  }
  std::vector<std::string> types;
  for (const int type : info->output_types()) {
    types.push_back(DataTypeName(static_cast<octavo::v1::DataType>(type)));
  }
  line("output types", absl::StrJoin(types, ", "));
  line("inputs a request", LimitText(info->max_inputs()));
  line("bytes a text", LimitText(info->max_text_bytes()));
  line("bytes a message", LimitText(info->max_message_bytes()));
  line("bytes a response", LimitText(info->max_response_bytes()));
  line("tokens a stream", LimitText(info->max_stream_tokens()));
  line("server version", info->version());
  return absl::OkStatus();
}

}  // namespace octavo::client
