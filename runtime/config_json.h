// Small JSON documents of a model directory, read field by field. Nothing here throws.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octavo {

// Parses a document of at most 16 MiB and 64 levels whose top is an object or an array.
// INVALID_ARGUMENT otherwise.
absl::Status ParseConfigJson(std::string_view text, nlohmann::json* document);

// A field of `object`; a missing field and null are the same. INVALID_ARGUMENT names the field.
absl::StatusOr<int64_t> RequiredInteger(const nlohmann::json& object, const char* field,
                                        int64_t least, int64_t most);
absl::StatusOr<int64_t> OptionalInteger(const nlohmann::json& object, const char* field,
                                        int64_t least, int64_t most, int64_t otherwise);
absl::StatusOr<double> OptionalNumber(const nlohmann::json& object, const char* field, double least,
                                      double most, double otherwise);
absl::StatusOr<std::string> OptionalString(const nlohmann::json& object, const char* field,
                                           std::string_view otherwise);
absl::StatusOr<bool> OptionalBool(const nlohmann::json& object, const char* field, bool otherwise);

// The same status with "where: " before its message.
absl::Status Within(std::string_view where, const absl::Status& status);

}  // namespace octavo
