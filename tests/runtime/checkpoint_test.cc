#include "runtime/checkpoint.h"

#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/models/models.h"
#include "runtime/sha256.h"
#include "tests/runtime/model_directory.h"

namespace octavo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const ModelDirectory& model) {
  return Checkpoint::Open(model.path());
}

void ExpectError(const ModelDirectory& model, absl::StatusCode code,
                 const std::vector<std::string>& words) {
  const auto checkpoint = Open(model);
  ASSERT_FALSE(checkpoint.ok()) << "opened; expected " << words[0];
  EXPECT_EQ(checkpoint.status().code(), code) << checkpoint.status();
  for (const std::string& word : words) {
    EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(word));
  }
}

std::vector<float> Floats(const RawTensor& tensor) {
  std::vector<float> values(tensor.bytes.size() / sizeof(float));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

TEST(Checkpoint, OpensASmallModel) {
  const ModelDirectory model;
  model.Save();
  auto checkpoint = Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelSpec& spec = (*checkpoint)->spec();
  EXPECT_EQ((*checkpoint)->name(), std::filesystem::path(model.path()).filename().string());
  EXPECT_EQ(spec.max_tokens, 10);
  EXPECT_EQ(spec.pooling, Pooling::kMean);
  EXPECT_TRUE(spec.normalize);
  ASSERT_NE((*checkpoint)->tokenizer(), nullptr);
  EXPECT_EQ((*checkpoint)->tokenizer()->vocabulary_size(), 16);
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());

  auto words = (*checkpoint)->Read(spec.word_embedding, {16, 8});
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_EQ(*words, Floats(model.tensors.at("embeddings.word_embeddings.weight")));
  EXPECT_EQ((*checkpoint)->Read(spec.word_embedding, {8, 16}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*checkpoint)->Read("nowhere", {8}).status().code(), absl::StatusCode::kNotFound);
}

TEST(Checkpoint, StacksQueryKeyValue) {
  const ModelDirectory model;
  model.Save();
  auto checkpoint = Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const LinearSpec& linear = (*checkpoint)->spec().layers[1].query_key_value;
  auto weight = (*checkpoint)->ReadWeight(linear);
  auto bias = (*checkpoint)->ReadBias(linear);
  ASSERT_TRUE(weight.ok() && bias.ok());
  std::vector<float> expected_weight, expected_bias;
  for (const char* part : {"query", "key", "value"}) {
    const std::string name = absl::StrCat("encoder.layer.1.attention.self.", part);
    for (float value : Floats(model.tensors.at(name + ".weight"))) {
      expected_weight.push_back(value);
    }
    for (float value : Floats(model.tensors.at(name + ".bias"))) expected_bias.push_back(value);
  }
  EXPECT_EQ(*weight, expected_weight);
  EXPECT_EQ(*bias, expected_bias);

  LinearSpec unbiased = linear;
  unbiased.biases.clear();
  EXPECT_EQ(*(*checkpoint)->ReadBias(unbiased), std::vector<float>(24, 0.0f));
  LinearSpec wrong = linear;
  wrong.shape.n = 25;
  EXPECT_EQ((*checkpoint)->ReadWeight(wrong).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ((*checkpoint)->ReadBias(wrong).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Checkpoint, AcceptsPrefixesAndOlderNormNames) {
  for (const char* prefix : {"bert.", "0.auto_model."}) {
    ModelDirectory model;
    for (const char* norm : {"embeddings.LayerNorm", "encoder.layer.0.output.LayerNorm"}) {
      model.tensors[absl::StrCat(norm, ".gamma")] = model.tensors.at(absl::StrCat(norm, ".weight"));
      model.tensors[absl::StrCat(norm, ".beta")] = model.tensors.at(absl::StrCat(norm, ".bias"));
      model.tensors.erase(absl::StrCat(norm, ".weight"));
      model.tensors.erase(absl::StrCat(norm, ".bias"));
    }
    model.SaveWithPrefix(prefix);
    auto checkpoint = Open(model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const ModelSpec& spec = (*checkpoint)->spec();
    EXPECT_EQ(spec.embedding_norm.gain, absl::StrCat(prefix, "embeddings.LayerNorm.gamma"));
    EXPECT_EQ(*(*checkpoint)->Read(spec.embedding_norm.bias, {8}),
              Floats(model.tensors.at("embeddings.LayerNorm.beta")));
    EXPECT_TRUE((*checkpoint)->ReadWeight(spec.layers[1].down).ok());
  }
  ModelDirectory model;
  model.SaveWithPrefix("encoder_of_mine.");
  ExpectError(model, absl::StatusCode::kNotFound,
              {"model.safetensors", "embeddings.word_embeddings.weight"});
}

TEST(Checkpoint, WithoutModulesPoolsTheMeanAndDoesNotNormalize) {
  const ModelDirectory model;
  model.Save();
  model.directory.Remove("modules.json");
  model.directory.Remove("sentence_bert_config.json");
  auto checkpoint = Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->spec().pooling, Pooling::kMean);
  EXPECT_FALSE((*checkpoint)->spec().normalize);
  EXPECT_EQ((*checkpoint)->spec().max_tokens, 12);
  model.directory.Write("tokenizer_config.json", R"({"model_max_length":7})");
  EXPECT_EQ((*Open(model))->spec().max_tokens, 7);
}

TEST(Checkpoint, BoundsMaxTokens) {
  ModelDirectory model;
  model.sentence_config["max_seq_length"] = 4000;
  model.Save();
  auto checkpoint = Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->spec().max_tokens, 12);
  model.sentence_config["max_seq_length"] = 2;
  model.Save();
  ExpectError(model, absl::StatusCode::kInvalidArgument, {"max_seq_length 2 leaves no room"});
}

TEST(Checkpoint, LowerCaseNeedsATokenizerThatDoesIt) {
  ModelDirectory model;
  model.sentence_config["do_lower_case"] = true;
  model.Save();
  EXPECT_TRUE(Open(model).ok());
  model.tokenizer["normalizer"]["lowercase"] = false;
  model.Save();
  ExpectError(model, absl::StatusCode::kUnimplemented, {"do_lower_case"});
}

TEST(Checkpoint, NamesTheFileAtFault) {
  using Break = void (*)(ModelDirectory&);
  const struct {
    Break change;
    absl::StatusCode code;
    std::vector<std::string> words;
  } cases[] = {
      {[](ModelDirectory& m) { m.config["hidden_act"] = "relu"; },
       absl::StatusCode::kUnimplemented,
       {"config.json", "hidden_act"}},
      {[](ModelDirectory& m) { m.config["architectures"] = {"T5Model"}; },
       absl::StatusCode::kUnimplemented,
       {"config.json", "T5Model", "BertModel"}},
      {[](ModelDirectory& m) { m.config["vocab_size"] = 17; },
       absl::StatusCode::kInvalidArgument,
       {"embeddings.word_embeddings.weight", "[16, 8]", "[17, 8]"}},
      {[](ModelDirectory& m) { m.config["vocab_size"] = 15; },
       absl::StatusCode::kInvalidArgument,
       {"tokenizer.json", "16 tokens", "vocab_size 15"}},
      {[](ModelDirectory& m) { m.config["num_hidden_layers"] = 3; },
       absl::StatusCode::kNotFound,
       {"model.safetensors", "encoder.layer.2.attention.self.query.weight"}},
      {[](ModelDirectory& m) { m.config["max_position_embeddings"] = 13; },
       absl::StatusCode::kInvalidArgument,
       {"embeddings.position_embeddings.weight"}},
      {[](ModelDirectory& m) { m.config["intermediate_size"] = 16; },
       absl::StatusCode::kInvalidArgument,
       {"encoder.layer.0.intermediate.dense.weight", "[12, 8]"}},
      {[](ModelDirectory& m) { m.tensors.erase("encoder.layer.1.output.LayerNorm.bias"); },
       absl::StatusCode::kNotFound,
       {"encoder.layer.1.output.LayerNorm.bias"}},
      {[](ModelDirectory& m) { m.tensors["embeddings.LayerNorm.bias"].dtype = "I32"; },
       absl::StatusCode::kUnimplemented,
       {"embeddings.LayerNorm.bias"}},
      {[](ModelDirectory& m) { m.pooling["pooling_mode_max_tokens"] = true; },
       absl::StatusCode::kUnimplemented,
       {"Pooling", "max+mean"}},
      {[](ModelDirectory& m) { m.modules[2]["type"] = "sentence_transformers.models.Dense"; },
       absl::StatusCode::kUnimplemented,
       {"modules.json", "Dense"}},
      {[](ModelDirectory& m) { m.sentence_config["max_seq_length"] = -1; },
       absl::StatusCode::kInvalidArgument,
       {"sentence_bert_config.json", "max_seq_length"}},
      {[](ModelDirectory& m) { m.tokenizer["model"]["type"] = "Nonesuch"; },
       absl::StatusCode::kUnimplemented,
       {"tokenizer.json"}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.words[0]);
    ModelDirectory model;
    c.change(model);
    model.Save();
    ExpectError(model, c.code, c.words);
  }
}

TEST(Checkpoint, NamesTheFileThatIsMissing) {
  EXPECT_EQ(Checkpoint::Open("/nonexistent/model").status().code(), absl::StatusCode::kNotFound);
  for (const char* file :
       {"config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"}) {
    const ModelDirectory model;
    model.Save();
    model.directory.Remove(file);
    ExpectError(model, absl::StatusCode::kNotFound, {file, "does not exist"});
  }
  const ModelDirectory model;
  model.Save();
  model.directory.Remove("model.safetensors");
  model.directory.Write("pytorch_model.bin", "x");
  ExpectError(model, absl::StatusCode::kUnimplemented, {"pytorch_model.bin"});
  model.directory.Write("model.safetensors.index.json", "{}");
  ExpectError(model, absl::StatusCode::kUnimplemented, {"model.safetensors.index.json"});
}

TEST(Checkpoint, RefusesTruncatedWeights) {
  const ModelDirectory model;
  model.Save();
  const std::string weights = model.directory.File("model.safetensors");
  const auto size = std::filesystem::file_size(weights);
  for (const auto keep : {size - 1, size / 2, uintmax_t{100}, uintmax_t{7}, uintmax_t{0}}) {
    std::filesystem::resize_file(weights, keep);
    ExpectError(model, absl::StatusCode::kInvalidArgument, {"model.safetensors"});
  }
}

TEST(Checkpoint, ReadsOnWhenTheWeightsAreTruncatedAfterOpen) {
  const ModelDirectory model;
  model.Save();
  auto checkpoint = Open(model);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::filesystem::resize_file(model.directory.File("model.safetensors"), 10);
  EXPECT_EQ((*checkpoint)->CheckUnchanged().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*(*checkpoint)->Read("embeddings.word_embeddings.weight", {16, 8}),
            Floats(model.tensors.at("embeddings.word_embeddings.weight")));
}

TEST(Checkpoint, RefusesValuesThatAreNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    ModelDirectory model;
    std::vector<float> values(8, 1.0f);
    values[5] = bad;
    model.tensors["embeddings.LayerNorm.bias"] = F32Tensor({8}, values);
    model.Save();
    auto checkpoint = Open(model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto read = (*checkpoint)->Read("embeddings.LayerNorm.bias", {8});
    EXPECT_EQ(read.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(read.status().message()),
                AllOf(HasSubstr("embeddings.LayerNorm.bias"), HasSubstr("not finite")));
  }
}

TEST(Checkpoint, RevisionChangesWithEveryPartAndNothingElse) {
  using Change = void (*)(ModelDirectory&);
  const Change changes[] = {
      [](ModelDirectory& m) { m.tensors["embeddings.LayerNorm.bias"].bytes[0] ^= 1; },
      [](ModelDirectory& m) { m.config["note"] = 1; },
      [](ModelDirectory& m) { m.tokenizer["note"] = 1; },
      [](ModelDirectory& m) { m.modules[0]["note"] = 1; },
      [](ModelDirectory& m) { m.pooling["note"] = 1; },
      [](ModelDirectory& m) { m.sentence_config["max_seq_length"] = 9; },
      [](ModelDirectory& m) {
        m.directory.Write("config_sentence_transformers.json", R"({"prompts":{"query":"q: "}})");
      },
      [](ModelDirectory& m) {
        m.directory.Write("config_sentence_transformers.json", R"({"prompts":{"query":"q:"}})");
      },
  };
  const ModelDirectory original;
  original.Save();
  std::set<std::string> revisions = {(*Open(original))->revision()};
  EXPECT_EQ(revisions.begin()->size(), 64u);
  for (const Change change : changes) {
    ModelDirectory model;
    change(model);
    model.Save();
    auto checkpoint = Open(model);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    revisions.insert((*checkpoint)->revision());
  }
  EXPECT_EQ(revisions.size(), 1 + std::size(changes));
  // Another folder, other times, a README: the same revision.
  ModelDirectory copy;
  copy.Save();
  copy.directory.Write("README.md", "x");
  EXPECT_TRUE(revisions.contains((*Open(copy))->revision()));
}

TEST(Checkpoint, RandomIsSeededAndOfRealisticScale) {
  ModelSpec spec = *NamedShape("minilm");
  spec.layers.resize(2);
  const auto checkpoint = Checkpoint::Random(spec, 7);
  EXPECT_EQ(checkpoint->tokenizer(), nullptr);
  EXPECT_TRUE(checkpoint->CheckUnchanged().ok());
  const auto weight = checkpoint->ReadWeight(spec.layers[1].up);
  ASSERT_TRUE(weight.ok()) << weight.status();
  double sum = 0, squares = 0;
  for (float value : *weight) {
    sum += value;
    squares += double{value} * value;
  }
  const double count = static_cast<double>(weight->size());
  EXPECT_NEAR(sum / count, 0, 2e-4);
  EXPECT_NEAR(std::sqrt(squares / count), 0.03, 3e-4);
  const auto gains = checkpoint->Read(spec.layers[0].output_norm.gain, {384});
  ASSERT_TRUE(gains.ok()) << gains.status();
  for (float gain : *gains) {
    EXPECT_NEAR(gain, 1, 0.05);
  }
  EXPECT_EQ(*Checkpoint::Random(spec, 7)->ReadWeight(spec.layers[1].up), *weight);
  EXPECT_NE(*Checkpoint::Random(spec, 8)->ReadWeight(spec.layers[1].up), *weight);
  EXPECT_NE(*checkpoint->ReadWeight(spec.layers[0].up), *weight);
}

TEST(Sha256, MatchesPublishedVectors) {
  // FIPS 180-4 examples: the empty message and "abc".
  EXPECT_EQ(Sha256Hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 parts;
  parts.Update("a");
  parts.Update("bc");
  EXPECT_EQ(parts.Finish(), Sha256Hex("abc"));
}

TEST(Checkpoint, OpensTheRealModel) {
  const char* directory = std::getenv("OCTAVO_MODEL");
  if (directory == nullptr) GTEST_SKIP() << "OCTAVO_MODEL is not set (deploy/fetch_model.sh)";
  auto checkpoint = Checkpoint::Open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const ModelSpec& spec = (*checkpoint)->spec();
  if ((*checkpoint)->name() == "all-MiniLM-L6-v2") {
    EXPECT_EQ(spec.hidden, 384);
    EXPECT_EQ(spec.layers.size(), 6u);
    EXPECT_EQ(spec.heads, 12);
    EXPECT_EQ(spec.max_tokens, 256);
    EXPECT_EQ(spec.pooling, Pooling::kMean);
    EXPECT_TRUE(spec.normalize);
  }
  for (const LayerSpec& layer : spec.layers) {
    for (const LinearSpec* linear :
         {&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down}) {
      EXPECT_TRUE((*checkpoint)->ReadWeight(*linear).ok());
      EXPECT_TRUE((*checkpoint)->ReadBias(*linear).ok());
    }
  }
  EXPECT_TRUE((*checkpoint)->Read(spec.word_embedding, {spec.vocabulary, spec.hidden}).ok());
  EXPECT_TRUE((*checkpoint)->CheckUnchanged().ok());
}

}  // namespace
}  // namespace octavo
