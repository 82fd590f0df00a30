// Any bytes as a tokenizer.json. What is accepted must encode within its own vocabulary.
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "runtime/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto tokenizer =
      octavo::LoadTokenizer(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!tokenizer.ok()) return 0;
  const auto encoded = (*tokenizer)
                           ->Encode("Ünaffable  runners, [MASK]中文 \xe3\x80\xae a",
                                    (*tokenizer)->special_tokens() + 8, octavo::Truncation::kEnd);
  if (!encoded.ok()) std::abort();
  for (const int32_t id : encoded->ids) {
    if (id < 0 || id >= (*tokenizer)->vocabulary_size()) std::abort();
  }
  return 0;
}
