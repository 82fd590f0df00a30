// A Hugging Face / sentence-transformers model directory, read and checked.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model_spec.h"
#include "runtime/safetensors.h"
#include "runtime/tokenizer.h"

namespace octavo {

// Everything a model directory holds. The weights stay mapped while this lives: build what is
// needed, then destroy it. Not thread-safe while loading; const use is thread-safe.
class Checkpoint {
 public:
  // Reads config.json, model.safetensors, tokenizer.json, modules.json, pooling and
  // sentence_bert_config.json. Checks that every tensor the spec names exists with its shape and
  // holds only finite values where cheap. Errors name the file and what to do; an unsupported
  // architecture is UNIMPLEMENTED and lists the supported ones.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  const ModelSpec& spec() const { return spec_; }
  // The directory's last path component, e.g. "all-MiniLM-L6-v2".
  const std::string& name() const { return name_; }
  // sha256 (hex) over weights, tokenizer.json, config, modules, prompts and max_seq_length.
  const std::string& revision() const { return revision_; }
  std::shared_ptr<const Tokenizer> tokenizer() const { return tokenizer_; }

  // A tensor as f32, shape checked against `shape`.
  absl::StatusOr<std::vector<float>> Read(const std::string& tensor,
                                          const std::vector<int64_t>& shape) const;
  // The stacked weight [n, k] and bias [n] (zeros if it has none) of a linear layer.
  absl::StatusOr<std::vector<float>> ReadWeight(const LinearSpec& linear) const;
  absl::StatusOr<std::vector<float>> ReadBias(const LinearSpec& linear) const;
  // Fails if the weights file changed while it was being read.
  absl::Status CheckUnchanged() const { return weights_->CheckUnchanged(); }

  // A checkpoint of `spec`'s shape with random weights (seeded), no tokenizer and no files: for
  // benches and tests.
  static std::unique_ptr<Checkpoint> Random(const ModelSpec& spec, uint64_t seed);

 private:
  Checkpoint() = default;
  std::string name_;
  std::string revision_;
  ModelSpec spec_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<MappedFile> weights_;
  TensorFile tensors_;
  std::vector<uint8_t> random_;  // backing store of Random
};

}  // namespace octavo
