#include "runtime/model_spec.h"

namespace octavo {

double ModelSpec::linear_flops_per_token() const {
  double multiply_adds = 0;
  for (const LayerSpec& layer : layers) {
    for (const LinearSpec* linear :
         {&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down}) {
      multiply_adds += static_cast<double>(linear->shape.n) * static_cast<double>(linear->shape.k);
    }
  }
  return 2 * multiply_adds;
}

double ModelSpec::attention_flops_per_token(double keys) const {
  // Scores and the weighted sum of values: one multiply-add each for a key, head and channel.
  return 4 * static_cast<double>(layers.size()) * heads * head_size * keys;
}

}  // namespace octavo
