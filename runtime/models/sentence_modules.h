// What sentence-transformers adds to a model: modules.json and the files it points to. The rules
// are those of sentence-transformers 6.2 (base/model.py, sentence_transformer/modules/pooling.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/model_spec.h"

namespace octavo {

// modules.json: Transformer, Pooling and, if `normalize`, Normalize, in this order. Paths are
// relative to the model directory, "" for itself.
struct SentenceModules {
  std::string transformer_path;
  std::string pooling_path;
  bool normalize = false;
};
// UNIMPLEMENTED names a module that is not one of the three.
absl::StatusOr<SentenceModules> ReadModules(std::string_view modules_json);

// config.json of the Pooling module. UNIMPLEMENTED names a mode other than mean and cls, several
// modes at once, and include_prompt = false.
absl::StatusOr<Pooling> ReadPooling(std::string_view pooling_json, int hidden);

// sentence_bert_config.json.
struct SentenceConfig {
  std::optional<int64_t> max_seq_length;
  bool do_lower_case = false;
};
absl::StatusOr<SentenceConfig> ReadSentenceConfig(std::string_view sentence_bert_config_json);

// model_max_length of tokenizer_config.json; none where it is missing or beyond any model (files
// write 1e30 for "no limit").
absl::StatusOr<std::optional<int64_t>> ReadModelMaxLength(std::string_view tokenizer_config_json);

// prompts and default_prompt_name of config_sentence_transformers.json, into `spec`. The query
// prompt is the one called "query"; the document prompt the first of "document", "passage" and
// "corpus"; without one there is none: as with encode_query and encode_document,
// default_prompt_name (checked to exist) does not apply to inputs whose type is known.
absl::Status ReadPrompts(std::string_view config_sentence_transformers_json, ModelSpec* spec);

}  // namespace octavo
