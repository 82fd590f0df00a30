#include "runtime/tokenizer.h"

#include <utility>

#include "runtime/tokenizer_json.h"
#include "runtime/wordpiece_tokenizer.h"

namespace octavo {

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(std::string_view json) {
  absl::StatusOr<TokenizerDescription> description = ParseTokenizerJson(json);
  if (!description.ok()) return description.status();
  return WordPieceTokenizer::Create(*std::move(description));
}

}  // namespace octavo
