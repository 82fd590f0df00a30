#include "runtime/tokenizer_added_tokens.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/unicode.h"

namespace octavo {
namespace {

// Start of the character that ends at `end`.
size_t CharacterBefore(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

bool HasFlag(std::string_view text, size_t start, CharacterFlag flag) {
  const char* p = text.data() + start;
  return (ClassOf(DecodeUtf8(p)).flags & flag) != 0;
}

}  // namespace

absl::StatusOr<AddedTokenMatcher> AddedTokenMatcher::Create(std::vector<AddedToken> tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  AddedTokenMatcher matcher;
  matcher.tokens_ = std::move(tokens);
  std::vector<ByteTrie::Entries> tries(1);
  for (size_t i = 0; i < matcher.tokens_.size(); ++i) {
    const std::string& content = matcher.tokens_[i].content;
    if (content.empty()) {
      return absl::InvalidArgumentError("added_tokens: a token is empty once normalized");
    }
    if (i > 0 && content == matcher.tokens_[i - 1].content) {
      return absl::InvalidArgumentError(
          absl::StrCat("added_tokens: two tokens are both \"", content,
                       "\" once normalized; which one a text means is undefined"));
    }
    tries[0].emplace_back(content, static_cast<int32_t>(i));
    matcher.first_bytes_.set(static_cast<uint8_t>(content[0]));
  }
  if (!matcher.trie_.Build(tries)) {
    return absl::InvalidArgumentError("added_tokens: too many");
  }
  if (matcher.first_bytes_.count() == 1) {
    matcher.only_first_byte_ = static_cast<uint8_t>(matcher.tokens_[0].content[0]);
  }
  return matcher;
}

AddedTokenMatcher::Found AddedTokenMatcher::Next(std::string_view text, size_t from) const {
  const char* const begin = text.data();
  const char* const end = begin + text.size();
  for (const char* p = begin + from; p < end; ++p) {
    if (only_first_byte_ >= 0) {
      p = static_cast<const char*>(std::memchr(p, only_first_byte_, static_cast<size_t>(end - p)));
      if (p == nullptr) break;
    } else if (!first_bytes_[static_cast<uint8_t>(*p)]) {
      continue;
    }
    const ByteTrie::Match match = trie_.LongestPrefix(0, p, end);
    if (match.value >= 0) {
      const auto start = static_cast<size_t>(p - begin);
      return {&tokens_[static_cast<size_t>(match.value)], start, start + match.length};
    }
  }
  return {};
}

bool AddedTokenMatcher::BesideWordCharacter(std::string_view text, size_t start, size_t stop) {
  return (start > 0 && HasFlag(text, CharacterBefore(text, start), kWordCharacter)) ||
         (stop < text.size() && HasFlag(text, stop, kWordCharacter));
}

size_t AddedTokenMatcher::SpaceBefore(std::string_view text, size_t end, size_t from) {
  while (end > from) {
    const size_t start = CharacterBefore(text, end);
    if (!HasFlag(text, start, kRegexSpace)) break;
    end = start;
  }
  return end;
}

size_t AddedTokenMatcher::SpaceAfter(std::string_view text, size_t start) {
  while (start < text.size() && HasFlag(text, start, kRegexSpace)) {
    const char* p = text.data() + start;
    DecodeUtf8(p);
    start = static_cast<size_t>(p - text.data());
  }
  return start;
}

}  // namespace octavo
