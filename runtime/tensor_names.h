// Between a ModelSpec and the tensors of a file: which names a spec holds, what shapes they must
// have, and how the file spells them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/model_spec.h"
#include "runtime/safetensors.h"

namespace octavo {

enum class TensorRole : uint8_t { kEmbedding, kWeight, kBias, kNormGain, kNormBias };

// Calls `visit` for every tensor name of `spec` with its role and the shape it must have. `visit`
// may change the name.
using VisitTensor =
    std::function<void(std::string& name, TensorRole role, const std::vector<int64_t>& shape)>;
void ForEachTensor(ModelSpec* spec, const VisitTensor& visit);

// Rewrites the names of `spec` to those of `file`: adds the prefix under which the file has the
// encoder, and takes gamma and beta for a norm's weight and bias. Names the file lacks are left
// for CheckTensors to report. NOT_FOUND if the word embedding is under no known prefix.
absl::Status ResolveTensorNames(const TensorFile& file, ModelSpec* spec);

// Every tensor of `spec` exists with its shape and is F32, F16 or BF16.
absl::Status CheckTensors(const TensorFile& file, const ModelSpec& spec);

}  // namespace octavo
