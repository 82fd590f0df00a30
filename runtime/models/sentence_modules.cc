#include "runtime/models/sentence_modules.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/config_json.h"

namespace octavo {
namespace {

absl::Status ParseObject(std::string_view text, nlohmann::json* object) {
  if (absl::Status status = ParseConfigJson(text, object); !status.ok()) return status;
  if (!object->is_object()) return absl::InvalidArgumentError("not a JSON object");
  return absl::OkStatus();
}

// A module's folder must stay inside the model directory.
bool IsPlainPath(std::string_view path) {
  return path.find("..") == path.npos && path.find('\0') == path.npos &&
         (path.empty() || path[0] != '/');
}

// The modes a Pooling config switches on, in either of its spellings: a name or names under
// pooling_mode, or one boolean a mode. None at all means mean.
absl::StatusOr<std::vector<std::string>> PoolingModes(const nlohmann::json& config) {
  std::vector<std::string> modes;
  if (const auto found = config.find("pooling_mode"); found != config.end()) {
    const nlohmann::json& value = *found;
    const bool list = value.is_array();
    const size_t count = list ? value.size() : 1;
    for (size_t i = 0; i < count; ++i) {
      const nlohmann::json& mode = list ? value[i] : value;
      if (!mode.is_string()) {
        return absl::InvalidArgumentError("pooling_mode: must be a name or a list of names");
      }
      modes.push_back(*mode.get_ptr<const std::string*>());
    }
    return modes;
  }
  constexpr struct {
    const char* field;
    const char* mode;
  } kFlags[] = {
      {"pooling_mode_cls_token", "cls"},
      {"pooling_mode_max_tokens", "max"},
      {"pooling_mode_mean_tokens", "mean"},
      {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"},
      {"pooling_mode_weightedmean_tokens", "weightedmean"},
      {"pooling_mode_lasttoken", "lasttoken"},
  };
  for (const auto& flag : kFlags) {
    absl::StatusOr<bool> on = OptionalBool(config, flag.field, false);
    if (!on.ok()) return on.status();
    if (*on) modes.push_back(flag.mode);
  }
  if (modes.empty()) modes.push_back("mean");
  return modes;
}

}  // namespace

absl::StatusOr<SentenceModules> ReadModules(std::string_view modules_json) {
  nlohmann::json list;
  if (absl::Status status = ParseConfigJson(modules_json, &list); !status.ok()) return status;
  if (!list.is_array()) return absl::InvalidArgumentError("not a JSON array");
  constexpr std::string_view kOrder[] = {"Transformer", "Pooling", "Normalize"};
  SentenceModules modules;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrCat("module ", i);
    absl::StatusOr<std::string> type = OptionalString(list[i], "type", "");
    if (!type.ok()) return Within(where, type.status());
    absl::StatusOr<std::string> path = OptionalString(list[i], "path", "");
    if (!path.ok()) return Within(where, path.status());
    if (!IsPlainPath(*path)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": path: must stay inside the model directory"));
    }
    // The packages of the classes have moved between versions; their names have not.
    const std::string name = type->substr(type->rfind('.') + 1);
    if (i >= std::size(kOrder) || name != kOrder[i]) {
      return absl::UnimplementedError(
          absl::StrCat(where, " is \"", *type,
                       "\"; supported are Transformer, Pooling and Normalize, in this order"));
    }
    if (i == 0) modules.transformer_path = *path;
    if (i == 1) modules.pooling_path = *path;
    if (i == 2) modules.normalize = true;
  }
  if (list.size() < 2) {
    return absl::UnimplementedError(
        "a Transformer and a Pooling module are needed to make one vector a text");
  }
  return modules;
}

absl::StatusOr<Pooling> ReadPooling(std::string_view pooling_json, int hidden) {
  nlohmann::json config;
  if (absl::Status status = ParseObject(pooling_json, &config); !status.ok()) return status;
  for (const char* field : {"word_embedding_dimension", "embedding_dimension"}) {
    absl::StatusOr<int64_t> size = OptionalInteger(config, field, hidden, hidden, hidden);
    if (!size.ok()) return size.status();
  }
  absl::StatusOr<bool> include_prompt = OptionalBool(config, "include_prompt", true);
  if (!include_prompt.ok()) return include_prompt.status();
  if (!*include_prompt) {
    return absl::UnimplementedError("include_prompt: false is not supported");
  }
  absl::StatusOr<std::vector<std::string>> modes = PoolingModes(config);
  if (!modes.ok()) return modes.status();
  if (modes->size() == 1 && (*modes)[0] == "mean") return Pooling::kMean;
  if (modes->size() == 1 && (*modes)[0] == "cls") return Pooling::kCls;
  std::string names;
  for (const std::string& mode : *modes) absl::StrAppend(&names, names.empty() ? "" : "+", mode);
  return absl::UnimplementedError(
      absl::StrCat("pooling mode \"", names, "\" is not supported; supported are mean and cls"));
}

absl::StatusOr<SentenceConfig> ReadSentenceConfig(std::string_view sentence_bert_config_json) {
  nlohmann::json config;
  if (absl::Status status = ParseObject(sentence_bert_config_json, &config); !status.ok()) {
    return status;
  }
  SentenceConfig result;
  absl::StatusOr<int64_t> length =
      OptionalInteger(config, "max_seq_length", 1, INT64_MAX, /*otherwise=*/0);
  if (!length.ok()) return length.status();
  if (*length > 0) result.max_seq_length = *length;
  absl::StatusOr<bool> lower = OptionalBool(config, "do_lower_case", false);
  if (!lower.ok()) return lower.status();
  result.do_lower_case = *lower;
  return result;
}

absl::StatusOr<std::optional<int64_t>> ReadModelMaxLength(std::string_view tokenizer_config_json) {
  nlohmann::json config;
  if (absl::Status status = ParseObject(tokenizer_config_json, &config); !status.ok()) {
    return status;
  }
  constexpr double kNoLimit = 1e9;
  absl::StatusOr<double> length = OptionalNumber(config, "model_max_length", 1, 1e300, kNoLimit);
  if (!length.ok()) return length.status();
  if (*length >= kNoLimit) return std::optional<int64_t>();
  return std::optional<int64_t>(static_cast<int64_t>(*length));
}

absl::Status ReadPrompts(std::string_view config_sentence_transformers_json, ModelSpec* spec) {
  nlohmann::json config;
  if (absl::Status status = ParseObject(config_sentence_transformers_json, &config); !status.ok()) {
    return status;
  }
  if (const auto prompts = config.find("prompts"); prompts != config.end() && !prompts->is_null()) {
    if (!prompts->is_object()) return absl::InvalidArgumentError("prompts: must be an object");
    for (const auto& [name, text] : prompts->items()) {
      if (!text.is_string()) {
        return absl::InvalidArgumentError("prompts: every prompt must be a string");
      }
      spec->prompts[name] = *text.get_ptr<const std::string*>();
    }
  }
  absl::StatusOr<std::string> standard = OptionalString(config, "default_prompt_name", "");
  if (!standard.ok()) return standard.status();
  if (!standard->empty() && *standard != "query" && *standard != "document" &&
      !spec->prompts.contains(*standard)) {
    return absl::InvalidArgumentError(
        absl::StrCat("default_prompt_name: prompts has no \"", *standard, "\""));
  }
  if (spec->prompts.contains("query")) spec->default_query_prompt = "query";
  for (const char* name : {"document", "passage", "corpus"}) {
    if (spec->default_document_prompt.empty() && spec->prompts.contains(name)) {
      spec->default_document_prompt = name;
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
