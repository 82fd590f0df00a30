#include "runtime/model_spec.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/models/models.h"
#include "runtime/models/sentence_modules.h"
#include "tests/runtime/model_directory.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<ModelSpec> Read(const nlohmann::json& config) {
  return ReadModelConfig(config.dump());
}

template <typename T>
void ExpectError(const absl::StatusOr<T>& result, absl::StatusCode code, const char* words) {
  ASSERT_FALSE(result.ok()) << "accepted; expected " << words;
  EXPECT_EQ(result.status().code(), code) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(words));
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

TEST(BertConfig, GivesSizesAndTensorNames) {
  const ModelDirectory model;
  absl::StatusOr<ModelSpec> spec = Read(model.config);
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->architecture, "BertModel");
  EXPECT_EQ(spec->hidden, 8);
  EXPECT_EQ(spec->intermediate, 12);
  EXPECT_EQ(spec->heads, 2);
  EXPECT_EQ(spec->key_value_heads, 2);
  EXPECT_EQ(spec->head_size, 4);
  EXPECT_EQ(spec->vocabulary, 16);
  EXPECT_EQ(spec->token_types, 2);
  EXPECT_EQ(spec->max_positions, 12);
  EXPECT_FLOAT_EQ(spec->norm_epsilon, 1e-12f);
  EXPECT_EQ(spec->activation, Activation::kGelu);
  ASSERT_EQ(spec->layers.size(), 2u);
  const LayerSpec& layer = spec->layers[1];
  EXPECT_THAT(layer.query_key_value.weights,
              ElementsAre("encoder.layer.1.attention.self.query.weight",
                          "encoder.layer.1.attention.self.key.weight",
                          "encoder.layer.1.attention.self.value.weight"));
  EXPECT_EQ(layer.query_key_value.shape.n, 24);
  EXPECT_EQ(layer.query_key_value.shape.k, 8);
  EXPECT_EQ(layer.up.shape.n, 12);
  EXPECT_EQ(layer.up.shape.k, 8);
  EXPECT_EQ(layer.down.shape.n, 8);
  EXPECT_EQ(layer.down.shape.k, 12);
  EXPECT_EQ(layer.output_norm.gain, "encoder.layer.1.output.LayerNorm.weight");
}

TEST(BertConfig, MapsActivations) {
  ModelDirectory model;
  for (const char* name : {"gelu_new", "gelu_pytorch_tanh", "gelu_fast"}) {
    model.config["hidden_act"] = name;
    absl::StatusOr<ModelSpec> spec = Read(model.config);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(spec->activation, Activation::kGeluTanh) << name;
  }
  model.config["hidden_act"] = "relu";
  ExpectError(Read(model.config), kUnimplemented, "hidden_act: \"relu\" is not supported");
  model.config["hidden_act"] = 3;
  ExpectError(Read(model.config), kInvalid, "hidden_act: must be a string");
}

TEST(BertConfig, NamesTheFieldAtFault) {
  const struct {
    const char* field;
    nlohmann::json value;
    absl::StatusCode code;
  } cases[] = {
      {"position_embedding_type", "relative_key", kUnimplemented},
      {"is_decoder", true, kUnimplemented},
      {"hidden_size", 0, kInvalid},
      {"hidden_size", -8, kInvalid},
      {"hidden_size", 1 << 30, kInvalid},
      {"hidden_size", uint64_t{1} << 63, kInvalid},
      {"hidden_size", 8.5, kInvalid},
      {"hidden_size", "8", kInvalid},
      {"hidden_size", nullptr, kInvalid},
      {"num_attention_heads", 3, kInvalid},
      {"num_attention_heads", 0, kInvalid},
      {"num_hidden_layers", 0, kInvalid},
      {"num_hidden_layers", 1'000'000'000, kInvalid},
      {"intermediate_size", 0, kInvalid},
      {"vocab_size", 0, kInvalid},
      {"vocab_size", 4'000'000'000u, kInvalid},
      {"max_position_embeddings", 0, kInvalid},
      {"type_vocab_size", 0, kInvalid},
      {"layer_norm_eps", 0, kInvalid},
      {"layer_norm_eps", -1e-12, kInvalid},
      {"layer_norm_eps", 1e300, kInvalid},
      {"layer_norm_eps", "1e-12", kInvalid},
  };
  for (const auto& c : cases) {
    ModelDirectory model;
    model.config[c.field] = c.value;
    SCOPED_TRACE(c.value.dump());
    ExpectError(Read(model.config), c.code, c.field);
  }
  for (const char* field : {"hidden_size", "num_hidden_layers", "num_attention_heads",
                            "intermediate_size", "vocab_size", "max_position_embeddings"}) {
    ModelDirectory model;
    model.config.erase(field);
    ExpectError(Read(model.config), kInvalid, field);
  }
}

TEST(ModelConfig, ListsSupportedArchitectures) {
  ModelDirectory model;
  model.config["architectures"] = {"LlamaForCausalLM"};
  const absl::StatusOr<ModelSpec> spec = Read(model.config);
  ExpectError(spec, kUnimplemented, "\"LlamaForCausalLM\" is not supported");
  for (const ModelFamily& family : ModelFamilies()) {
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr(std::string(family.architecture)));
  }
  model.config.erase("architectures");
  model.config["model_type"] = "llama";
  ExpectError(Read(model.config), kUnimplemented, "model_type \"llama\" is not supported");
  model.config["model_type"] = "bert";
  EXPECT_TRUE(Read(model.config).ok());
  model.config["architectures"] = {"BertForMaskedLM"};
  ASSERT_TRUE(Read(model.config).ok());
  EXPECT_EQ(Read(model.config)->architecture, "BertForMaskedLM");
  for (const nlohmann::json& value :
       {nlohmann::json("BertModel"), nlohmann::json::array(), nlohmann::json::array({1}),
        nlohmann::json::array({"BertModel", "BertModel"})}) {
    model.config["architectures"] = value;
    ExpectError(Read(model.config), kInvalid, "architectures");
  }
}

TEST(ModelConfig, RefusesWhatIsNotAnObject) {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"a\":1}}", "\xff"}) {
    ExpectError(ReadModelConfig(text), kInvalid, "");
  }
  ExpectError(ReadModelConfig("{\"a\":" + std::string(1'000'000, '[')), kInvalid, "nested deeper");
  ExpectError(ReadModelConfig(std::string((16 << 20) + 1, ' ')), kInvalid, "longer than");
}

TEST(SentenceModules, ReadsTheThreeModules) {
  ModelDirectory model;
  absl::StatusOr<SentenceModules> modules = ReadModules(model.modules.dump());
  ASSERT_TRUE(modules.ok()) << modules.status();
  EXPECT_EQ(modules->transformer_path, "");
  EXPECT_EQ(modules->pooling_path, "1_Pooling");
  EXPECT_TRUE(modules->normalize);
  model.modules.erase(2);
  EXPECT_FALSE(ReadModules(model.modules.dump())->normalize);
  model.modules[0]["type"] = "sentence_transformers.base.modules.transformer.Transformer";
  EXPECT_TRUE(ReadModules(model.modules.dump()).ok());
  model.modules.erase(1);
  ExpectError(ReadModules(model.modules.dump()), kUnimplemented, "Pooling module");
}

TEST(SentenceModules, NamesAModuleItDoesNotKnow) {
  ModelDirectory model;
  model.modules[2]["type"] = "sentence_transformers.models.Dense";
  ExpectError(ReadModules(model.modules.dump()), kUnimplemented,
              "module 2 is \"sentence_transformers.models.Dense\"");
  model.modules[2]["type"] = "sentence_transformers.models.Pooling";
  ExpectError(ReadModules(model.modules.dump()), kUnimplemented, "module 2");
  model.modules[2] = 5;
  ExpectError(ReadModules(model.modules.dump()), kUnimplemented, "module 2");
  ExpectError(ReadModules("{}"), kInvalid, "not a JSON array");
  for (const char* path : {"../secret", "/etc", "a/../../b"}) {
    ModelDirectory outside;
    outside.modules[1]["path"] = path;
    ExpectError(ReadModules(outside.modules.dump()), kInvalid, "module 1: path");
  }
}

TEST(SentenceModules, ReadsPoolingInBothSpellings) {
  ModelDirectory model;
  EXPECT_EQ(*ReadPooling(model.pooling.dump(), 8), Pooling::kMean);
  model.pooling["pooling_mode_mean_tokens"] = false;
  EXPECT_EQ(*ReadPooling(model.pooling.dump(), 8), Pooling::kMean);  // none set: the default
  model.pooling["pooling_mode_cls_token"] = true;
  EXPECT_EQ(*ReadPooling(model.pooling.dump(), 8), Pooling::kCls);
  model.pooling["pooling_mode_mean_tokens"] = true;
  ExpectError(ReadPooling(model.pooling.dump(), 8), kUnimplemented, "\"cls+mean\"");
  EXPECT_EQ(*ReadPooling(R"({"pooling_mode":"cls"})", 8), Pooling::kCls);
  EXPECT_EQ(*ReadPooling(R"({"pooling_mode":["mean"]})", 8), Pooling::kMean);
  ExpectError(ReadPooling(R"({"pooling_mode":"lasttoken"})", 8), kUnimplemented, "\"lasttoken\"");
  ExpectError(ReadPooling(R"({"pooling_mode_weightedmean_tokens":true})", 8), kUnimplemented,
              "\"weightedmean\"");
  ExpectError(ReadPooling(R"({"pooling_mode":[]})", 8), kUnimplemented, "pooling mode");
  ExpectError(ReadPooling(R"({"pooling_mode":7})", 8), kInvalid, "pooling_mode");
  ExpectError(ReadPooling(R"({"include_prompt":false})", 8), kUnimplemented, "include_prompt");
  ExpectError(ReadPooling(R"({"word_embedding_dimension":9})", 8), kInvalid,
              "word_embedding_dimension");
}

TEST(SentenceModules, ReadsLengths) {
  EXPECT_EQ(ReadSentenceConfig(R"({"max_seq_length":256})")->max_seq_length, 256);
  EXPECT_EQ(ReadSentenceConfig(R"({"max_seq_length":null})")->max_seq_length, std::nullopt);
  EXPECT_TRUE(ReadSentenceConfig(R"({"do_lower_case":true})")->do_lower_case);
  ExpectError(ReadSentenceConfig(R"({"max_seq_length":0})"), kInvalid, "max_seq_length");
  ExpectError(ReadSentenceConfig(R"({"max_seq_length":"9"})"), kInvalid, "max_seq_length");
  EXPECT_EQ(*ReadModelMaxLength(R"({"model_max_length":512})"), 512);
  EXPECT_EQ(*ReadModelMaxLength(R"({"model_max_length":1000000000000000019884624838656})"),
            std::nullopt);
  EXPECT_EQ(*ReadModelMaxLength("{}"), std::nullopt);
  ExpectError(ReadModelMaxLength(R"({"model_max_length":-1})"), kInvalid, "model_max_length");
}

TEST(SentenceModules, ChoosesPromptsByInputType) {
  ModelSpec spec;
  ASSERT_TRUE(ReadPrompts(R"({"prompts":{"query":"query: ","passage":"passage: ","corpus":"c"},
                              "default_prompt_name":"query"})",
                          &spec)
                  .ok());
  EXPECT_EQ(spec.prompts.at("query"), "query: ");
  EXPECT_EQ(spec.default_query_prompt, "query");
  EXPECT_EQ(spec.default_document_prompt, "passage");

  ModelSpec other;
  ASSERT_TRUE(ReadPrompts(R"({"prompts":{"s2s":"x"},"default_prompt_name":"s2s"})", &other).ok());
  EXPECT_EQ(other.default_query_prompt, "");
  EXPECT_EQ(other.default_document_prompt, "");

  ModelSpec none;
  EXPECT_TRUE(ReadPrompts(R"({"prompts":null,"default_prompt_name":null})", &none).ok());
  EXPECT_EQ(ReadPrompts(R"({"prompts":{"a":1}})", &none).code(), kInvalid);
  EXPECT_EQ(ReadPrompts(R"({"prompts":[]})", &none).code(), kInvalid);
  EXPECT_EQ(ReadPrompts(R"({"default_prompt_name":"missing"})", &none).code(), kInvalid);
}

TEST(NamedShape, MatchesThePublishedSizes) {
  const struct {
    const char* name;
    int hidden, layers, heads, intermediate;
    double million_linear_parameters;
  } cases[] = {
      {"minilm", 384, 6, 12, 1536, 10.616832},
      {"bert-base", 768, 12, 12, 3072, 84.934656},
      {"bert-large", 1024, 24, 16, 4096, 301.989888},
  };
  for (const auto& c : cases) {
    absl::StatusOr<ModelSpec> spec = NamedShape(c.name);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(spec->hidden, c.hidden);
    EXPECT_EQ(spec->heads, c.heads);
    EXPECT_EQ(spec->intermediate, c.intermediate);
    EXPECT_EQ(spec->vocabulary, 30522);
    EXPECT_EQ(static_cast<int>(spec->layers.size()), c.layers);
    EXPECT_DOUBLE_EQ(spec->linear_flops_per_token(), 2e6 * c.million_linear_parameters);
    // Scores and values: 2 products of hidden multiply-adds a key and layer.
    EXPECT_DOUBLE_EQ(spec->attention_flops_per_token(100), 400.0 * c.hidden * c.layers);
  }
  ExpectError(NamedShape("bert-huge"), absl::StatusCode::kNotFound,
              "minilm, bert-base, bert-large");
}

}  // namespace
}  // namespace octavo
