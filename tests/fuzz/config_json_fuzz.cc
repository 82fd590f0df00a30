// Any bytes as each of the small JSON documents of a model directory; the first byte says which.
// A spec that is accepted must have sizes that Forward can allocate.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/models/models.h"
#include "runtime/models/sentence_modules.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 6) {
    case 0: {
      const absl::StatusOr<octavo::ModelSpec> spec = octavo::ReadModelConfig(text);
      if (spec.ok() && (spec->hidden <= 0 || spec->heads <= 0 || spec->layers.empty() ||
                        spec->heads * spec->head_size != spec->hidden ||
                        !(spec->norm_epsilon > 0) || spec->linear_flops_per_token() <= 0)) {
        std::abort();
      }
      break;
    }
    case 1:
      (void)octavo::ReadModules(text);
      break;
    case 2:
      (void)octavo::ReadPooling(text, 384);
      break;
    case 3: {
      const auto config = octavo::ReadSentenceConfig(text);
      if (config.ok() && config->max_seq_length.value_or(1) < 1) std::abort();
      break;
    }
    case 4: {
      const auto length = octavo::ReadModelMaxLength(text);
      if (length.ok() && length->value_or(1) < 1) std::abort();
      break;
    }
    case 5: {
      octavo::ModelSpec spec;
      if (octavo::ReadPrompts(text, &spec).ok() && !spec.default_query_prompt.empty() &&
          !spec.prompts.contains(spec.default_query_prompt)) {
        std::abort();
      }
      break;
    }
  }
  return 0;
}
