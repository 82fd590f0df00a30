#include "runtime/config_json.h"

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

constexpr size_t kMaxBytes = 16 << 20;
constexpr int kMaxDepth = 64;

// Levels of nesting outside strings; a document that is not JSON may give any number.
int Depth(std::string_view text) {
  int depth = 0, deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > deepest) deepest = depth;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// The field's value, or null where it is missing.
const nlohmann::json* Find(const nlohmann::json& object, const char* field) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(field);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status Wrong(const char* field, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", problem));
}

}  // namespace

absl::Status ParseConfigJson(std::string_view text, nlohmann::json* document) {
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(absl::StrCat("longer than ", kMaxBytes, " bytes"));
  }
  if (Depth(text) > kMaxDepth) {
    return absl::InvalidArgumentError(absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
  }
  *document = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (document->is_discarded()) return absl::InvalidArgumentError("not valid JSON");
  if (!document->is_structured()) {
    return absl::InvalidArgumentError("neither a JSON object nor an array");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RequiredInteger(const nlohmann::json& object, const char* field,
                                        int64_t least, int64_t most) {
  if (Find(object, field) == nullptr) return Wrong(field, "is missing");
  return OptionalInteger(object, field, least, most, 0);
}

absl::StatusOr<int64_t> OptionalInteger(const nlohmann::json& object, const char* field,
                                        int64_t least, int64_t most, int64_t otherwise) {
  const nlohmann::json* value = Find(object, field);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer()) return Wrong(field, "must be an integer");
  const auto* number = value->get_ptr<const int64_t*>();
  // Unsigned values above the signed range would read as negative.
  const bool huge =
      value->is_number_unsigned() && *value->get_ptr<const uint64_t*>() > uint64_t{INT64_MAX};
  if (huge || *number < least || *number > most) {
    return Wrong(field, absl::StrCat("must be from ", least, " to ", most));
  }
  return *number;
}

absl::StatusOr<double> OptionalNumber(const nlohmann::json& object, const char* field, double least,
                                      double most, double otherwise) {
  const nlohmann::json* value = Find(object, field);
  if (value == nullptr) return otherwise;
  if (!value->is_number()) return Wrong(field, "must be a number");
  const double number = value->get<double>();
  if (!(number >= least && number <= most)) {
    return Wrong(field, absl::StrCat("must be from ", least, " to ", most));
  }
  return number;
}

absl::StatusOr<std::string> OptionalString(const nlohmann::json& object, const char* field,
                                           std::string_view otherwise) {
  const nlohmann::json* value = Find(object, field);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) return Wrong(field, "must be a string");
  return *value->get_ptr<const std::string*>();
}

absl::StatusOr<bool> OptionalBool(const nlohmann::json& object, const char* field, bool otherwise) {
  const nlohmann::json* value = Find(object, field);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return Wrong(field, "must be true or false");
  return *value->get_ptr<const bool*>();
}

absl::Status Within(std::string_view where, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(std::string(where), ": ", std::string(status.message())));
}

}  // namespace octavo
