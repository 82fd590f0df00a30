#include "runtime/models/bert.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/config_json.h"

namespace octavo {
namespace {

struct ActivationName {
  std::string_view name;
  Activation activation;
};
// gelu_new, gelu_pytorch_tanh and gelu_fast are three spellings of the tanh form.
constexpr ActivationName kActivations[] = {
    {"gelu", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_fast", Activation::kGeluTanh},
};

absl::StatusOr<Activation> ReadActivation(const nlohmann::json& config) {
  absl::StatusOr<std::string> name = OptionalString(config, "hidden_act", "gelu");
  if (!name.ok()) return name.status();
  std::string known;
  for (const ActivationName& row : kActivations) {
    if (row.name == *name) return row.activation;
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(row.name));
  }
  return absl::UnimplementedError(
      absl::StrCat("hidden_act: \"", *name, "\" is not supported; known are ", known));
}

absl::Status ReadSizes(const nlohmann::json& config, ModelSpec* spec, int* layers) {
  struct Size {
    const char* field;
    int64_t most;
    int* value;
  };
  const Size sizes[] = {
      {"hidden_size", 16384, &spec->hidden},
      {"num_hidden_layers", 256, layers},
      {"num_attention_heads", 1024, &spec->heads},
      {"intermediate_size", 131072, &spec->intermediate},
      {"vocab_size", 4'000'000, &spec->vocabulary},
      {"max_position_embeddings", 1'000'000, &spec->max_positions},
  };
  for (const Size& size : sizes) {
    absl::StatusOr<int64_t> value = RequiredInteger(config, size.field, 1, size.most);
    if (!value.ok()) return value.status();
    *size.value = static_cast<int>(*value);
  }
  absl::StatusOr<int64_t> types = OptionalInteger(config, "type_vocab_size", 1, 1024, 2);
  if (!types.ok()) return types.status();
  spec->token_types = static_cast<int>(*types);
  if (spec->hidden % spec->heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("num_attention_heads: ", spec->heads,
                                                   " does not divide hidden_size ", spec->hidden));
  }
  spec->key_value_heads = spec->heads;
  spec->head_size = spec->hidden / spec->heads;
  return absl::OkStatus();
}

LinearSpec Linear(const std::string& name, int64_t n, int64_t k) {
  return {.weights = {absl::StrCat(name, ".weight")},
          .biases = {absl::StrCat(name, ".bias")},
          .shape = {.n = n, .k = k}};
}

NormSpec LayerNorm(const std::string& name) {
  return {.gain = absl::StrCat(name, ".weight"), .bias = absl::StrCat(name, ".bias")};
}

}  // namespace

void NameBertTensors(int count, ModelSpec* spec) {
  spec->word_embedding = "embeddings.word_embeddings.weight";
  spec->position_embedding = "embeddings.position_embeddings.weight";
  spec->token_type_embedding = "embeddings.token_type_embeddings.weight";
  spec->embedding_norm = LayerNorm("embeddings.LayerNorm");
  spec->layers.clear();
  for (int i = 0; i < count; ++i) {
    const std::string prefix = absl::StrCat("encoder.layer.", i, ".");
    LayerSpec& layer = spec->layers.emplace_back();
    LinearSpec& qkv = layer.query_key_value;
    for (const char* part : {"query", "key", "value"}) {
      qkv.weights.push_back(absl::StrCat(prefix, "attention.self.", part, ".weight"));
      qkv.biases.push_back(absl::StrCat(prefix, "attention.self.", part, ".bias"));
    }
    qkv.shape = {.n = 3 * int64_t{spec->hidden}, .k = spec->hidden};
    layer.attention_output = Linear(prefix + "attention.output.dense", spec->hidden, spec->hidden);
    layer.attention_norm = LayerNorm(prefix + "attention.output.LayerNorm");
    layer.up = Linear(prefix + "intermediate.dense", spec->intermediate, spec->hidden);
    layer.down = Linear(prefix + "output.dense", spec->hidden, spec->intermediate);
    layer.output_norm = LayerNorm(prefix + "output.LayerNorm");
  }
}

absl::StatusOr<ModelSpec> ReadBert(const nlohmann::json& config) {
  ModelSpec spec;
  int layers = 0;
  if (absl::Status status = ReadSizes(config, &spec, &layers); !status.ok()) return status;
  absl::StatusOr<double> epsilon = OptionalNumber(config, "layer_norm_eps", 1e-30, 0.1, 1e-12);
  if (!epsilon.ok()) return epsilon.status();
  spec.norm_epsilon = static_cast<float>(*epsilon);
  absl::StatusOr<Activation> activation = ReadActivation(config);
  if (!activation.ok()) return activation.status();
  spec.activation = *activation;
  absl::StatusOr<std::string> position =
      OptionalString(config, "position_embedding_type", "absolute");
  if (!position.ok()) return position.status();
  if (*position != "absolute") {
    return absl::UnimplementedError(absl::StrCat("position_embedding_type: \"", *position,
                                                 "\" is not supported; known is absolute"));
  }
  for (const char* field : {"is_decoder", "add_cross_attention"}) {
    absl::StatusOr<bool> on = OptionalBool(config, field, false);
    if (!on.ok()) return on.status();
    if (*on) {
      return absl::UnimplementedError(
          absl::StrCat(field, ": true is not supported: not an encoder"));
    }
  }
  NameBertTensors(layers, &spec);
  return spec;
}

}  // namespace octavo
