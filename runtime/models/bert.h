// BERT (Devlin et al. 2018, section 3.1): post-norm encoder, learned absolute positions.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model_spec.h"

namespace octavo {

// Reads a BERT config.json. INVALID_ARGUMENT or UNIMPLEMENTED names the field.
absl::StatusOr<ModelSpec> ReadBert(const nlohmann::json& config);

// Fills tensor names and linear shapes of a BERT whose sizes are set, with `count` layers.
void NameBertTensors(int count, ModelSpec* spec);

}  // namespace octavo
