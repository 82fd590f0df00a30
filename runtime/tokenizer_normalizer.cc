#include "runtime/tokenizer_normalizer.h"

#include <utility>

namespace octavo {
namespace {

class StringSink {
 public:
  explicit StringSink(const NormalizerOptions& options) : options_(options) {}

  void Character(char32_t c, const CharacterClass&) {
    char bytes[4];
    text_.append(bytes, static_cast<size_t>(EncodeUtf8(c, bytes)));
  }

  const char* Ascii(const char* p, const char* end) {
    for (; p < end && static_cast<uint8_t>(*p) < 0x80; ++p) {
      const uint16_t flags = ClassOf(static_cast<uint8_t>(*p)).flags;
      if (options_.clean_text && (flags & kControl) != 0) continue;
      char c = options_.clean_text && (flags & kCleanSpace) != 0 ? ' ' : *p;
      if (options_.lowercase && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
      text_.push_back(c);
    }
    return p;
  }

  bool done() const { return false; }
  std::string text_;

 private:
  const NormalizerOptions& options_;
};

}  // namespace

std::string NormalizeText(const NormalizerOptions& options, std::string_view text) {
  StringSink sink(options);
  sink.text_.reserve(text.size());
  CharacterNormalizer<StringSink> normalizer(options, &sink);
  normalizer.Run(text);
  return std::move(sink.text_);
}

}  // namespace octavo
