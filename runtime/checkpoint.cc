#include "runtime/checkpoint.h"

#include <algorithm>
#include <bit>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "runtime/config_json.h"
#include "runtime/models/models.h"
#include "runtime/models/sentence_modules.h"
#include "runtime/sha256.h"
#include "runtime/tensor_names.h"

namespace octavo {
namespace {

constexpr int64_t kMaxTextFile = 64 << 20;

// A text file of the model directory, or nothing where it does not exist.
absl::StatusOr<std::optional<std::string>> ReadOptional(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::optional<std::string>();
  absl::StatusOr<std::unique_ptr<MappedFile>> file = MappedFile::Open(path.string());
  if (!file.ok()) return file.status();
  const std::span<const uint8_t> bytes = (*file)->bytes();
  if (static_cast<int64_t>(bytes.size()) > kMaxTextFile) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is longer than ", kMaxTextFile, " bytes"));
  }
  return std::optional<std::string>(
      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

absl::StatusOr<std::string> ReadRequired(const std::filesystem::path& path) {
  absl::StatusOr<std::optional<std::string>> text = ReadOptional(path);
  if (!text.ok()) return text.status();
  if (!text->has_value()) {
    return absl::NotFoundError(
        absl::StrCat(path.string(),
                     " does not exist: --model wants a Hugging Face model directory with "
                     "config.json, model.safetensors and tokenizer.json"));
  }
  return **std::move(text);
}

// The small files of a model directory, as they are.
struct ModelFiles {
  std::filesystem::path directory;    // as given
  std::filesystem::path transformer;  // where config.json and the weights are
  std::string config;
  std::string tokenizer;
  std::optional<std::string> modules, pooling, sentence_config, tokenizer_config, prompts;
};

// Parses nothing but modules.json, which says where the others are.
absl::StatusOr<ModelFiles> ReadFiles(const std::filesystem::path& directory, ModelSpec* spec) {
  ModelFiles files;
  files.directory = directory;
  files.transformer = directory;
  const auto optional = [](const std::filesystem::path& path, std::optional<std::string>* to) {
    absl::StatusOr<std::optional<std::string>> text = ReadOptional(path);
    if (text.ok()) *to = *std::move(text);
    return text.status();
  };
  const auto required = [](const std::filesystem::path& path, std::string* to) {
    absl::StatusOr<std::string> text = ReadRequired(path);
    if (text.ok()) *to = *std::move(text);
    return text.status();
  };
  absl::Status status = optional(directory / "modules.json", &files.modules);
  if (!status.ok()) return status;
  if (files.modules.has_value()) {
    absl::StatusOr<SentenceModules> modules = ReadModules(*files.modules);
    if (!modules.ok()) return Within((directory / "modules.json").string(), modules.status());
    files.transformer = directory / modules->transformer_path;
    spec->normalize = modules->normalize;
    std::string pooling;
    status = required(directory / modules->pooling_path / "config.json", &pooling);
    if (!status.ok()) return status;
    files.pooling = std::move(pooling);
  }
  status.Update(required(files.transformer / "config.json", &files.config));
  status.Update(required(files.transformer / "tokenizer.json", &files.tokenizer));
  status.Update(optional(files.transformer / "sentence_bert_config.json", &files.sentence_config));
  status.Update(optional(files.transformer / "tokenizer_config.json", &files.tokenizer_config));
  status.Update(optional(directory / "config_sentence_transformers.json", &files.prompts));
  if (!status.ok()) return status;
  return files;
}

// Pooling, prompts and max_tokens, into `spec`.
absl::Status ApplyModules(const ModelFiles& files, const Tokenizer& tokenizer, ModelSpec* spec) {
  if (files.pooling.has_value()) {
    absl::StatusOr<Pooling> pooling = ReadPooling(*files.pooling, spec->hidden);
    if (!pooling.ok()) return Within("the Pooling module's config.json", pooling.status());
    spec->pooling = *pooling;
  }
  if (files.prompts.has_value()) {
    absl::Status status = ReadPrompts(*files.prompts, spec);
    if (!status.ok()) return Within("config_sentence_transformers.json", status);
  }
  std::optional<int64_t> max_tokens;
  if (files.sentence_config.has_value()) {
    absl::StatusOr<SentenceConfig> config = ReadSentenceConfig(*files.sentence_config);
    if (!config.ok()) return Within("sentence_bert_config.json", config.status());
    max_tokens = config->max_seq_length;
    // do_lower_case asks for a Lowercase step unless the tokenizer has one; a letter tells.
    std::vector<int32_t> upper, lower;
    tokenizer.EncodeOrdinary("Q", &upper);
    tokenizer.EncodeOrdinary("q", &lower);
    if (config->do_lower_case && upper != lower) {
      return absl::UnimplementedError(
          "sentence_bert_config.json: do_lower_case: true is not supported with a tokenizer.json "
          "that keeps the case");
    }
  }
  if (!max_tokens.has_value() && files.tokenizer_config.has_value()) {
    absl::StatusOr<std::optional<int64_t>> length = ReadModelMaxLength(*files.tokenizer_config);
    if (!length.ok()) return Within("tokenizer_config.json", length.status());
    max_tokens = *length;
  }
  spec->max_tokens = static_cast<int>(
      std::min<int64_t>(max_tokens.value_or(spec->max_positions), spec->max_positions));
  if (spec->max_tokens <= tokenizer.special_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat("max_seq_length ", spec->max_tokens,
                                                   " leaves no room beside ",
                                                   tokenizer.special_tokens(), " special tokens"));
  }
  return absl::OkStatus();
}

std::string Revision(const ModelFiles& files, std::span<const uint8_t> weights,
                     const ModelSpec& spec) {
  const auto digest = [](const std::optional<std::string>& text) {
    return text.has_value() ? Sha256Hex(*text) : std::string("-");
  };
  const nlohmann::json prompts = {spec.prompts, spec.default_query_prompt,
                                  spec.default_document_prompt};
  return Sha256Hex(
      absl::StrCat("weights ", Sha256Hex(weights), "\ntokenizer.json ", Sha256Hex(files.tokenizer),
                   "\nconfig.json ", Sha256Hex(files.config), "\nmodules.json ",
                   digest(files.modules), "\npooling ", digest(files.pooling), "\nprompts ",
                   Sha256Hex(prompts.dump()), "\nmax_seq_length ", spec.max_tokens, "\n"));
}

absl::StatusOr<std::unique_ptr<MappedFile>> OpenWeights(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "model.safetensors";
  std::error_code ignored;
  if (std::filesystem::exists(path, ignored)) return MappedFile::Open(path.string());
  if (std::filesystem::exists(folder / "model.safetensors.index.json", ignored)) {
    return absl::UnimplementedError(
        absl::StrCat(folder.string(),
                     " holds weights in several files (model.safetensors.index.json); only "
                     "one model.safetensors is supported"));
  }
  if (std::filesystem::exists(folder / "pytorch_model.bin", ignored)) {
    return absl::UnimplementedError(
        absl::StrCat(folder.string(),
                     " holds pytorch_model.bin, which is not read: save the model with "
                     "safe_serialization to get model.safetensors"));
  }
  return absl::NotFoundError(absl::StrCat(path.string(), " does not exist"));
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status NotThere(const std::string& name) {
  return absl::NotFoundError(
      absl::StrCat("the weights have no tensor \"", name, "\", which config.json implies"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  std::error_code ignored;
  const std::filesystem::path path(directory);
  if (!std::filesystem::is_directory(path, ignored)) {
    return absl::NotFoundError(absl::StrCat("the model directory ", directory, " does not exist"));
  }
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  const std::filesystem::path full = std::filesystem::absolute(path, ignored).lexically_normal();
  checkpoint->name_ = (full.has_filename() ? full : full.parent_path()).filename().string();

  ModelSpec modules;
  absl::StatusOr<ModelFiles> files = ReadFiles(path, &modules);
  if (!files.ok()) return files.status();
  absl::StatusOr<ModelSpec> spec = ReadModelConfig(files->config);
  if (!spec.ok()) return Within((files->transformer / "config.json").string(), spec.status());
  spec->normalize = modules.normalize;

  const std::string tokenizer_path = (files->transformer / "tokenizer.json").string();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = LoadTokenizer(files->tokenizer);
  if (!tokenizer.ok()) return Within(tokenizer_path, tokenizer.status());
  checkpoint->tokenizer_ = *std::move(tokenizer);
  if (checkpoint->tokenizer_->vocabulary_size() > spec->vocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat(tokenizer_path, " has ", checkpoint->tokenizer_->vocabulary_size(),
                     " tokens, more than vocab_size ", spec->vocabulary, " of config.json"));
  }
  if (absl::Status status = ApplyModules(*files, *checkpoint->tokenizer_, &*spec); !status.ok()) {
    return Within(directory, status);
  }

  absl::StatusOr<std::unique_ptr<MappedFile>> weights = OpenWeights(files->transformer);
  if (!weights.ok()) return weights.status();
  checkpoint->weights_ = *std::move(weights);
  const std::span<const uint8_t> bytes = checkpoint->weights_->bytes();
  absl::StatusOr<TensorFile> tensors = ParseSafetensors(bytes);
  const std::string weights_path = (files->transformer / "model.safetensors").string();
  if (!tensors.ok()) return Within(weights_path, tensors.status());
  checkpoint->tensors_ = *std::move(tensors);
  absl::Status status = ResolveTensorNames(checkpoint->tensors_, &*spec);
  if (status.ok()) status = CheckTensors(checkpoint->tensors_, *spec);
  if (!status.ok()) return Within(weights_path, status);
  checkpoint->spec_ = *std::move(spec);
  checkpoint->revision_ = Revision(*files, bytes, checkpoint->spec_);
  return checkpoint;
}

absl::StatusOr<std::vector<float>> Checkpoint::Read(const std::string& tensor,
                                                    const std::vector<int64_t>& shape) const {
  const auto found = tensors_.tensors.find(tensor);
  if (found == tensors_.tensors.end()) return NotThere(tensor);
  if (found->second.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor \"", tensor, "\" has shape ",
                                                   ShapeText(found->second.shape), ", not ",
                                                   ShapeText(shape)));
  }
  std::vector<float> values(found->second.elements());
  if (absl::Status status = ToFloat(found->second, values); !status.ok()) {
    return Within(absl::StrCat("tensor \"", tensor, "\""), status);
  }
  uint32_t largest = 0;  // of |x| as bits, which order as the values do, NaN above infinity
  for (float value : values) {
    largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  if (largest >= 0x7f800000u) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor \"", tensor, "\" holds values that are not finite"));
  }
  return values;
}

absl::StatusOr<std::vector<float>> Checkpoint::ReadWeight(const LinearSpec& linear) const {
  std::vector<float> stacked;
  stacked.reserve(linear.shape.n * linear.shape.k);
  for (const std::string& name : linear.weights) {
    const auto found = tensors_.tensors.find(name);
    if (found == tensors_.tensors.end()) return NotThere(name);
    const int64_t rows = found->second.shape.empty() ? 0 : found->second.shape[0];
    absl::StatusOr<std::vector<float>> part = Read(name, {rows, linear.shape.k});
    if (!part.ok()) return part.status();
    if (linear.weights.size() == 1)
      stacked = *std::move(part);
    else
      stacked.insert(stacked.end(), part->begin(), part->end());
  }
  if (static_cast<int64_t>(stacked.size()) != linear.shape.n * linear.shape.k) {
    return absl::InvalidArgumentError(absl::StrCat("tensors ", absl::StrJoin(linear.weights, ", "),
                                                   " do not stack to [", linear.shape.n, ", ",
                                                   linear.shape.k, "]"));
  }
  return stacked;
}

absl::StatusOr<std::vector<float>> Checkpoint::ReadBias(const LinearSpec& linear) const {
  if (linear.biases.empty()) return std::vector<float>(linear.shape.n, 0.0f);
  std::vector<float> stacked;
  for (const std::string& name : linear.biases) {
    const auto found = tensors_.tensors.find(name);
    if (found == tensors_.tensors.end()) return NotThere(name);
    absl::StatusOr<std::vector<float>> part = Read(name, {found->second.elements()});
    if (!part.ok()) return part.status();
    stacked.insert(stacked.end(), part->begin(), part->end());
  }
  if (static_cast<int64_t>(stacked.size()) != linear.shape.n) {
    return absl::InvalidArgumentError(absl::StrCat("tensors ", absl::StrJoin(linear.biases, ", "),
                                                   " do not stack to [", linear.shape.n, "]"));
  }
  return stacked;
}

}  // namespace octavo
