// Which architectures Octavo can read: the table is in models.cc, one file a family.
#pragma once

#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model_spec.h"

namespace octavo {

struct ModelFamily {
  std::string_view architecture;  // config.json's architectures[0]
  std::string_view model_type;    // config.json's model_type
  // Maps config.json to sizes and tensor names. Pooling, prompts and max_tokens come later, from
  // the sentence-transformers modules. INVALID_ARGUMENT names the field.
  absl::StatusOr<ModelSpec> (*read)(const nlohmann::json& config);
};

std::span<const ModelFamily> ModelFamilies();

// Reads config.json with the family its `architectures` (or, without one, `model_type`) names.
// UNIMPLEMENTED lists the supported architectures; other errors name the field.
absl::StatusOr<ModelSpec> ReadModelConfig(std::string_view config_json);

// Shapes by name with standard tensor names, for benches: "minilm", "bert-base", "bert-large".
absl::StatusOr<ModelSpec> NamedShape(std::string_view name);

}  // namespace octavo
