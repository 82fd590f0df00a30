// What an encoder is, as plain data: sizes, layer structure, pooling. Filled by models/*.cc from
// config.json; read by Forward.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "kernels/linear.h"

namespace octavo {

enum class Norm : uint8_t { kLayerNorm };
enum class NormPlacement : uint8_t { kPost };
enum class Position : uint8_t { kLearned };
enum class Pooling : uint8_t { kMean, kCls };

// One linear layer: where its tensors are in the checkpoint, and its shape. Several names are
// stacked along the output channels (query, key, value become one product).
struct LinearSpec {
  std::vector<std::string> weights;  // each [n_i, k]
  std::vector<std::string> biases;   // empty, or one a weight
  LinearShape shape;                 // n is the sum
};

struct NormSpec {
  std::string gain;
  std::string bias;
};

struct LayerSpec {
  LinearSpec query_key_value;
  LinearSpec attention_output;
  NormSpec attention_norm;
  LinearSpec up;
  LinearSpec down;
  NormSpec output_norm;
  Mask mask = Mask::kFull;
  int window = 0;
};

struct ModelSpec {
  std::string architecture;  // "BertModel", for GetInfo
  int hidden = 0;
  int intermediate = 0;
  int heads = 0;
  int key_value_heads = 0;
  int head_size = 0;
  int vocabulary = 0;
  int token_types = 0;  // rows of token_type_embedding; Forward adds row 0
  int max_positions = 0;
  int max_tokens = 0;  // max_seq_length, special tokens included; at most max_positions
  float norm_epsilon = 0;
  Norm norm = Norm::kLayerNorm;
  NormPlacement norm_placement = NormPlacement::kPost;
  Position position = Position::kLearned;
  Activation activation = Activation::kGelu;
  Pooling pooling = Pooling::kMean;
  bool normalize = false;  // the modules end in Normalize

  std::string word_embedding;
  std::string position_embedding;
  std::string token_type_embedding;
  NormSpec embedding_norm;
  std::vector<LayerSpec> layers;

  // Prompt texts by name; default_query_prompt and default_document_prompt name entries or are "".
  std::map<std::string, std::string> prompts;
  std::string default_query_prompt;
  std::string default_document_prompt;

  // Multiply-adds times two of all linear layers for one token, and of attention for one token
  // that sees `keys` keys.
  double linear_flops_per_token() const;
  double attention_flops_per_token(double keys) const;
};

}  // namespace octavo
