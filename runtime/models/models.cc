#include "runtime/models/models.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/config_json.h"
#include "runtime/models/bert.h"

namespace octavo {
namespace {

// BERT with a language-model head is read for its encoder; classifiers are not: their encoder was
// trained for another output.
constexpr ModelFamily kFamilies[] = {
    {"BertModel", "bert", ReadBert},
    {"BertForMaskedLM", "bert", ReadBert},
    {"BertForPreTraining", "bert", ReadBert},
};

struct NamedBert {
  std::string_view name;
  int hidden, layers, heads, intermediate;
};
constexpr NamedBert kNamedBerts[] = {
    {"minilm", 384, 6, 12, 1536},
    {"bert-base", 768, 12, 12, 3072},
    {"bert-large", 1024, 24, 16, 4096},
};

absl::StatusOr<std::string> Architecture(const nlohmann::json& config) {
  const auto found = config.find("architectures");
  if (found == config.end() || found->is_null()) return std::string();
  if (!found->is_array() || found->size() != 1 || !(*found)[0].is_string()) {
    return absl::InvalidArgumentError("architectures: must be a list of one name");
  }
  return *(*found)[0].get_ptr<const std::string*>();
}

}  // namespace

std::span<const ModelFamily> ModelFamilies() { return kFamilies; }

absl::StatusOr<ModelSpec> ReadModelConfig(std::string_view config_json) {
  nlohmann::json config;
  if (absl::Status status = ParseConfigJson(config_json, &config); !status.ok()) return status;
  if (!config.is_object()) return absl::InvalidArgumentError("not a JSON object");
  absl::StatusOr<std::string> architecture = Architecture(config);
  if (!architecture.ok()) return architecture.status();
  absl::StatusOr<std::string> type = OptionalString(config, "model_type", "");
  if (!type.ok()) return type.status();

  std::string supported;
  for (const ModelFamily& family : kFamilies) {
    const bool matches =
        architecture->empty() ? family.model_type == *type : family.architecture == *architecture;
    if (matches) {
      absl::StatusOr<ModelSpec> spec = family.read(config);
      if (spec.ok()) spec->architecture = std::string(family.architecture);
      return spec;
    }
    absl::StrAppend(&supported, supported.empty() ? "" : ", ", std::string(family.architecture));
  }
  return absl::UnimplementedError(absl::StrCat("the architecture ",
                                               architecture->empty() ? "of model_type " : "", "\"",
                                               architecture->empty() ? *type : *architecture,
                                               "\" is not supported; supported are ", supported));
}

absl::StatusOr<ModelSpec> NamedShape(std::string_view name) {
  std::string known;
  for (const NamedBert& bert : kNamedBerts) {
    if (bert.name == name) {
      ModelSpec spec;
      spec.architecture = "BertModel";
      spec.hidden = bert.hidden;
      spec.intermediate = bert.intermediate;
      spec.heads = bert.heads;
      spec.key_value_heads = bert.heads;
      spec.head_size = bert.hidden / bert.heads;
      spec.vocabulary = 30522;
      spec.token_types = 2;
      spec.max_positions = 512;
      spec.max_tokens = 512;
      spec.norm_epsilon = 1e-12f;
      spec.normalize = true;
      NameBertTensors(bert.layers, &spec);
      return spec;
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(bert.name));
  }
  return absl::NotFoundError(
      absl::StrCat("no shape is called \"", std::string(name), "\"; known are ", known));
}

}  // namespace octavo
