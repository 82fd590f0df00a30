#include "runtime/tensor_names.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace octavo {
namespace {

// Encoder alone; inside a model with a head; inside a saved SentenceTransformer.
constexpr std::string_view kPrefixes[] = {"", "bert.", "0.auto_model.", "auto_model."};

void VisitNorm(NormSpec& norm, int64_t hidden, const VisitTensor& visit) {
  visit(norm.gain, TensorRole::kNormGain, {hidden});
  visit(norm.bias, TensorRole::kNormBias, {hidden});
}

// `rows`: output channels of each stacked tensor.
void VisitLinear(LinearSpec& linear, const std::vector<int64_t>& rows, const VisitTensor& visit) {
  for (size_t i = 0; i < linear.weights.size(); ++i) {
    visit(linear.weights[i], TensorRole::kWeight, {rows[i], linear.shape.k});
    if (!linear.biases.empty()) visit(linear.biases[i], TensorRole::kBias, {rows[i]});
  }
}

bool ReplaceEnd(std::string* text, std::string_view end, std::string_view replacement) {
  if (!text->ends_with(end)) return false;
  text->replace(text->size() - end.size(), end.size(), replacement);
  return true;
}

}  // namespace

void ForEachTensor(ModelSpec* spec, const VisitTensor& visit) {
  const int64_t hidden = spec->hidden;
  visit(spec->word_embedding, TensorRole::kEmbedding, {spec->vocabulary, hidden});
  visit(spec->position_embedding, TensorRole::kEmbedding, {spec->max_positions, hidden});
  if (!spec->token_type_embedding.empty()) {
    visit(spec->token_type_embedding, TensorRole::kEmbedding, {spec->token_types, hidden});
  }
  VisitNorm(spec->embedding_norm, hidden, visit);
  const int64_t query = int64_t{spec->heads} * spec->head_size;
  const int64_t key = int64_t{spec->key_value_heads} * spec->head_size;
  for (LayerSpec& layer : spec->layers) {
    VisitLinear(layer.query_key_value, {query, key, key}, visit);
    VisitLinear(layer.attention_output, {layer.attention_output.shape.n}, visit);
    VisitNorm(layer.attention_norm, hidden, visit);
    VisitLinear(layer.up, {layer.up.shape.n}, visit);
    VisitLinear(layer.down, {layer.down.shape.n}, visit);
    VisitNorm(layer.output_norm, hidden, visit);
  }
}

absl::Status ResolveTensorNames(const TensorFile& file, ModelSpec* spec) {
  for (const std::string_view prefix : kPrefixes) {
    if (!file.tensors.contains(std::string(prefix) + spec->word_embedding)) continue;
    ForEachTensor(spec, [&](std::string& name, TensorRole role, const std::vector<int64_t>&) {
      name.insert(0, prefix);
      if (file.tensors.contains(name)) return;
      std::string older = name;
      const bool is_norm =
          (role == TensorRole::kNormGain && ReplaceEnd(&older, ".weight", ".gamma")) ||
          (role == TensorRole::kNormBias && ReplaceEnd(&older, ".bias", ".beta"));
      if (is_norm && file.tensors.contains(older)) name = std::move(older);
    });
    return absl::OkStatus();
  }
  return absl::NotFoundError(
      absl::StrCat("no tensor \"", spec->word_embedding,
                   "\", with or without the prefix bert., 0.auto_model. or auto_model."));
}

absl::Status CheckTensors(const TensorFile& file, const ModelSpec& spec) {
  absl::Status first;
  ModelSpec names = spec;
  ForEachTensor(&names, [&](std::string& name, TensorRole, const std::vector<int64_t>& shape) {
    if (!first.ok()) return;
    const auto found = file.tensors.find(name);
    if (found == file.tensors.end()) {
      first = absl::NotFoundError(
          absl::StrCat("there is no tensor \"", name, "\", which config.json implies"));
      return;
    }
    const Tensor& tensor = found->second;
    if (tensor.shape != shape) {
      first = absl::InvalidArgumentError(
          absl::StrCat("tensor \"", name, "\" has shape [", absl::StrJoin(tensor.shape, ", "),
                       "], config.json implies [", absl::StrJoin(shape, ", "), "]"));
    } else if (tensor.type != TensorType::kF32 && tensor.type != TensorType::kF16 &&
               tensor.type != TensorType::kBf16) {
      first =
          absl::UnimplementedError(absl::StrCat("tensor \"", name, "\" is not F32, F16 or BF16"));
    }
  });
  return first;
}

}  // namespace octavo
