// A Hugging Face / sentence-transformers model directory, read and checked.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model_spec.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace octavo {

// Everything a model directory holds. The weights stay in memory while this lives: build what is
// needed, then destroy it. Immutable after Open, so const use is thread-safe.
class Checkpoint {
 public:
  // Reads config.json, model.safetensors, tokenizer.json and, where they exist, modules.json with
  // the files it points to, sentence_bert_config.json, config_sentence_transformers.json and
  // tokenizer_config.json. Without modules.json the vectors are mean-pooled and not normalized, as
  // sentence-transformers does it. max_tokens is max_seq_length, or without one the tokenizer's
  // model_max_length, and never more than the model has positions.
  // Checks that every tensor the spec names exists with its shape and type. Names may carry a
  // prefix ("bert.", "0.auto_model.") and norms may be called gamma and beta; the spec has the
  // names as they stand in the file. Errors name the file and what to do; an unsupported
  // architecture is UNIMPLEMENTED and lists the supported ones.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  const ModelSpec& spec() const { return spec_; }
  // The directory's last path component, e.g. "all-MiniLM-L6-v2".
  const std::string& name() const { return name_; }
  // sha256 (hex) over these lines, each "KEY VALUE\n", in this order:
  //   weights, tokenizer.json, config.json, modules.json, pooling: sha256 (hex) of the file's
  //   bytes, or "-" where it does not exist; prompts: sha256 (hex) of the JSON [prompts, default
  //   query prompt, default document prompt] without spaces, keys in order; max_seq_length:
  //   max_tokens.
  // "" for Random.
  const std::string& revision() const { return revision_; }
  std::shared_ptr<const Tokenizer> tokenizer() const { return tokenizer_; }

  // A tensor as f32, row-major. INVALID_ARGUMENT names the tensor if its shape is not `shape` or a
  // value is not finite; NOT_FOUND if there is none.
  absl::StatusOr<std::vector<float>> Read(const std::string& tensor,
                                          const std::vector<int64_t>& shape) const;
  // The stacked weight [n, k] and bias [n] (zeros if it has none) of a linear layer.
  absl::StatusOr<std::vector<float>> ReadWeight(const LinearSpec& linear) const;
  absl::StatusOr<std::vector<float>> ReadBias(const LinearSpec& linear) const;
  // Fails if the weights file has changed since Open. What was read stands: Open took a copy.
  absl::Status CheckUnchanged() const {
    return weights_ == nullptr ? absl::OkStatus() : weights_->CheckUnchanged();
  }

  // A checkpoint of `spec`'s shape with random f32 weights, the same for the same seed on every
  // machine; no tokenizer and no files: for benches and tests. Weights and embeddings have mean 0
  // and deviation 0.03, norm gains lie within 1 +- 0.05, all biases have deviation 0.02.
  static std::unique_ptr<Checkpoint> Random(const ModelSpec& spec, uint64_t seed);

 private:
  Checkpoint() = default;
  std::string name_;
  std::string revision_;
  ModelSpec spec_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<MappedFile> weights_;
  TensorFile tensors_;
  std::vector<float> random_;  // what the tensors of Random point into
};

}  // namespace octavo
