#include "tests/runtime/model_directory.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

// Different in every tensor and element, near zero.
std::vector<float> SomeValues(size_t count, size_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>((i * 37 + seed * 101) % 199) / 1000.0f - 0.1f;
  }
  return values;
}

}  // namespace

RawTensor F32Tensor(std::vector<int64_t> shape, const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
  return {"F32", std::move(shape), std::move(bytes)};
}

std::string SafetensorsBytes(const std::map<std::string, RawTensor>& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    header[name] = {{"dtype", tensor.dtype},
                    {"shape", tensor.shape},
                    {"data_offsets", {data.size(), data.size() + tensor.bytes.size()}}};
    data += tensor.bytes;
  }
  return SafetensorsBytes(header.dump(), data);
}

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string bytes(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, sizeof(length));
  bytes.append(header);
  bytes.append(data);
  return bytes;
}

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "octavo_test_XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "mkdtemp " << name;
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::File(std::string_view name) const {
  return (std::filesystem::path(path_) / name).string();
}

void TemporaryDirectory::Write(std::string_view name, std::string_view text) const {
  const std::filesystem::path file = std::filesystem::path(path_) / name;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream stream(file, std::ios::binary | std::ios::trunc);
  stream.write(text.data(), static_cast<std::streamsize>(text.size()));
  EXPECT_TRUE(stream.good()) << file;
}

void TemporaryDirectory::Remove(std::string_view name) const {
  EXPECT_TRUE(std::filesystem::remove(std::filesystem::path(path_) / name)) << name;
}

ModelDirectory::ModelDirectory() {
  constexpr int64_t kHidden = 8, kIntermediate = 12, kVocabulary = 16, kPositions = 12;
  config = {{"architectures", {"BertModel"}},
            {"model_type", "bert"},
            {"hidden_act", "gelu"},
            {"hidden_size", kHidden},
            {"intermediate_size", kIntermediate},
            {"num_attention_heads", 2},
            {"num_hidden_layers", 2},
            {"max_position_embeddings", kPositions},
            {"position_embedding_type", "absolute"},
            {"type_vocab_size", 2},
            {"vocab_size", kVocabulary},
            {"layer_norm_eps", 1e-12}};
  const char* const pieces[kVocabulary] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a",
                                           "b",     "c",     "##a",   "##b",   "##c",    "cat",
                                           "dog",   "##s",   ".",     "q"};
  nlohmann::json vocabulary = nlohmann::json::object();
  for (int i = 0; i < kVocabulary; ++i) vocabulary[pieces[i]] = i;
  const auto special = [](const char* token, int id) {
    return nlohmann::json{{token, {{"id", token}, {"ids", {id}}, {"tokens", {token}}}}};
  };
  const auto template_special = [](const char* token) {
    return nlohmann::json{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  };
  nlohmann::json special_tokens = special("[CLS]", 2);
  special_tokens.update(special("[SEP]", 3));
  tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", nlohmann::json::array()},
      {"normalizer",
       {{"type", "BertNormalizer"},
        {"clean_text", true},
        {"handle_chinese_chars", true},
        {"strip_accents", nullptr},
        {"lowercase", true}}},
      {"pre_tokenizer", {{"type", "BertPreTokenizer"}}},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {template_special("[CLS]"), nlohmann::json{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
          template_special("[SEP]")}},
        {"pair",
         {template_special("[CLS]"), nlohmann::json{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
          template_special("[SEP]"), nlohmann::json{{"Sequence", {{"id", "B"}, {"type_id", 1}}}},
          template_special("[SEP]")}},
        {"special_tokens", special_tokens}}},
      {"decoder", {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}}},
      {"model",
       {{"type", "WordPiece"},
        {"unk_token", "[UNK]"},
        {"continuing_subword_prefix", "##"},
        {"max_input_chars_per_word", 100},
        {"vocab", vocabulary}}}};
  for (int i = 0; i < 5; ++i) {
    tokenizer["added_tokens"].push_back({{"id", i},
                                         {"content", pieces[i]},
                                         {"special", true},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false}});
  }
  const std::string package = "sentence_transformers.models.";
  const char* const paths[] = {"", "1_Pooling", "2_Normalize"};
  const char* const types[] = {"Transformer", "Pooling", "Normalize"};
  modules = nlohmann::json::array();
  for (int i = 0; i < 3; ++i) {
    modules.push_back({{"idx", i},
                       {"name", std::to_string(i)},
                       {"path", paths[i]},
                       {"type", package + types[i]}});
  }
  pooling = {{"word_embedding_dimension", kHidden},
             {"pooling_mode_cls_token", false},
             {"pooling_mode_mean_tokens", true},
             {"pooling_mode_max_tokens", false},
             {"pooling_mode_mean_sqrt_len_tokens", false}};
  sentence_config = {{"max_seq_length", 10}, {"do_lower_case", false}};

  const auto add = [this](const std::string& name, std::vector<int64_t> shape) {
    size_t count = 1;
    for (int64_t dimension : shape) count *= dimension;
    std::vector<float> values = SomeValues(count, tensors.size());
    tensors[name] = F32Tensor(std::move(shape), values);
  };
  add("embeddings.word_embeddings.weight", {kVocabulary, kHidden});
  add("embeddings.position_embeddings.weight", {kPositions, kHidden});
  add("embeddings.token_type_embeddings.weight", {2, kHidden});
  add("embeddings.LayerNorm.weight", {kHidden});
  add("embeddings.LayerNorm.bias", {kHidden});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = absl::StrCat("encoder.layer.", layer, ".");
    for (const char* part : {"attention.self.query", "attention.self.key", "attention.self.value",
                             "attention.output.dense"}) {
      add(absl::StrCat(prefix, part, ".weight"), {kHidden, kHidden});
      add(absl::StrCat(prefix, part, ".bias"), {kHidden});
    }
    add(prefix + "intermediate.dense.weight", {kIntermediate, kHidden});
    add(prefix + "intermediate.dense.bias", {kIntermediate});
    add(prefix + "output.dense.weight", {kHidden, kIntermediate});
    add(prefix + "output.dense.bias", {kHidden});
    for (const char* part : {"attention.output.LayerNorm", "output.LayerNorm"}) {
      add(absl::StrCat(prefix, part, ".weight"), {kHidden});
      add(absl::StrCat(prefix, part, ".bias"), {kHidden});
    }
  }
}

void ModelDirectory::Save() const { SaveWithPrefix(""); }

void ModelDirectory::SaveWithPrefix(std::string_view prefix) const {
  directory.Write("config.json", config.dump());
  directory.Write("tokenizer.json", tokenizer.dump());
  directory.Write("modules.json", modules.dump());
  directory.Write("1_Pooling/config.json", pooling.dump());
  directory.Write("sentence_bert_config.json", sentence_config.dump());
  std::map<std::string, RawTensor> named;
  for (const auto& [name, tensor] : tensors) named[std::string(prefix) + name] = tensor;
  directory.Write("model.safetensors", SafetensorsBytes(named));
}

}  // namespace octavo
