#include "runtime/wordpiece_tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/unicode.h"

namespace octavo {

AsciiTable::AsciiTable(const NormalizerOptions& options) {
  for (int byte = 0; byte < 256; ++byte) {
    const uint16_t flags = ClassOf(static_cast<char32_t>(byte)).flags;
    const auto c = static_cast<char>(byte);
    normalized[byte] = 0;
    if (byte >= 0x80) {
      kind[byte] = kNotAscii;
    } else if (options.clean_text && (flags & kControl) != 0) {
      kind[byte] = kDropped;
    } else if ((options.clean_text && (flags & kCleanSpace) != 0) || (flags & kWhitespace) != 0) {
      kind[byte] = kSpace;
    } else if ((flags & octavo::kPunctuation) != 0) {
      kind[byte] = kPunctuation;
    } else if (byte == 0) {
      kind[byte] = kOther;
    } else {
      kind[byte] = kWord;
      normalized[byte] =
          options.lowercase && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
}

// Gathers normalized characters to words and words to ids: BertPreTokenizer, then WordPiece.
class WordPieceTokenizer::WordSink {
 public:
  // `limit`: ids wanted. With `stop_past_limit` work ends soon after there are more; otherwise only
  // the last of them need be kept.
  WordSink(const WordPiece& model, size_t limit, bool stop_past_limit, std::vector<int32_t>* ids)
      : model_(model),
        max_characters_(model.max_characters_per_word()),
        word_(std::make_unique_for_overwrite<char[]>(4 * (max_characters_ + size_t{1}))),
        word_end_(word_.get()),
        limit_(limit),
        stop_past_limit_(stop_past_limit),
        check_at_(limit == kNoLimit ? kNoLimit : limit + 1),
        ids_(*ids) {}

  static constexpr size_t kNoLimit = std::numeric_limits<size_t>::max();

  void set_ascii(const AsciiTable* ascii) { ascii_ = ascii; }
  bool done() const { return done_; }
  // Ids made, including those no longer kept.
  size_t total() const { return forgotten_ + ids_.size(); }

  void Character(char32_t c, const CharacterClass& character_class) {
    if ((character_class.flags & (kWhitespace | kPunctuation)) == 0) {
      Append(c);
      return;
    }
    EndWord();
    if ((character_class.flags & kPunctuation) != 0) {
      Append(c);
      EndWord();
    }
  }

  const char* Ascii(const char* p, const char* end) {
    const AsciiTable& ascii = *ascii_;
    do {
      const char* const run = p;
      const char* const run_end = p + std::min<ptrdiff_t>(end - p, max_characters_ - characters_);
      char* word_end = word_end_;
      char c;
      while (p < run_end && (c = ascii.normalized[static_cast<uint8_t>(*p)]) != 0) {
        *word_end++ = c;
        ++p;
      }
      word_end_ = word_end;
      characters_ += static_cast<int>(p - run);
      if (p == end) break;
      switch (ascii.kind[static_cast<uint8_t>(*p)]) {
        case AsciiTable::kWord:
          too_long_ = true;
          ++p;
          break;
        case AsciiTable::kSpace:
          EndWord();
          ++p;
          break;
        case AsciiTable::kPunctuation:
          EndWord();
          Append(static_cast<uint8_t>(*p++));
          EndWord();
          break;
        case AsciiTable::kDropped:
          ++p;
          break;
        case AsciiTable::kOther:
          Append(static_cast<uint8_t>(*p++));
          break;
        case AsciiTable::kNotAscii:
          return p;
      }
    } while (p < end && !done_);
    return p;
  }

  void EndWord() {
    if (characters_ == 0 && !too_long_) return;
    if (too_long_) {
      ids_.push_back(model_.unknown_id());
    } else {
      model_.Tokenize(word_.get(), word_end_, &ids_);
    }
    word_end_ = word_.get();
    characters_ = 0;
    too_long_ = false;
    if (ids_.size() >= check_at_) PassLimit();
  }

  void AddedToken(int32_t id) {
    ids_.push_back(id);
    if (ids_.size() >= check_at_) PassLimit();
  }

 private:
  void Append(char32_t c) {
    if (characters_ == max_characters_) {
      too_long_ = true;
      return;
    }
    word_end_ += EncodeUtf8(c, word_end_);
    ++characters_;
  }

  void PassLimit() {
    if (stop_past_limit_) {
      done_ = true;
      return;
    }
    const size_t excess = ids_.size() - limit_;
    ids_.erase(ids_.begin(), ids_.begin() + static_cast<ptrdiff_t>(excess));
    forgotten_ += excess;
    check_at_ = limit_ + std::max<size_t>(limit_, 4096);
  }

  const WordPiece& model_;
  const AsciiTable* ascii_ = nullptr;
  const int max_characters_;
  const std::unique_ptr<char[]> word_;  // the word so far, UTF-8
  char* word_end_;
  int characters_ = 0;
  bool too_long_ = false;
  bool done_ = false;
  const size_t limit_;
  const bool stop_past_limit_;
  size_t check_at_;
  size_t forgotten_ = 0;
  std::vector<int32_t>& ids_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> WordPieceTokenizer::Create(
    TokenizerDescription description) {
  absl::StatusOr<WordPiece> model = WordPiece::Create(description.model);
  if (!model.ok()) return model.status();
  std::vector<octavo::AddedToken> raw, normalized;
  for (octavo::AddedToken& token : description.added_tokens) {
    if (token.normalized) {
      token.content = NormalizeText(description.normalizer, token.content);
      normalized.push_back(std::move(token));
    } else {
      raw.push_back(std::move(token));
    }
  }
  absl::StatusOr<AddedTokenMatcher> raw_matcher = AddedTokenMatcher::Create(std::move(raw));
  if (!raw_matcher.ok()) return raw_matcher.status();
  absl::StatusOr<AddedTokenMatcher> normalized_matcher =
      AddedTokenMatcher::Create(std::move(normalized));
  if (!normalized_matcher.ok()) return normalized_matcher.status();
  return std::unique_ptr<Tokenizer>(new WordPieceTokenizer(
      description, *std::move(model), *std::move(raw_matcher), *std::move(normalized_matcher)));
}

WordPieceTokenizer::WordPieceTokenizer(const TokenizerDescription& description, WordPiece model,
                                       AddedTokenMatcher raw_tokens,
                                       AddedTokenMatcher normalized_tokens)
    : normalizer_(description.normalizer),
      model_(std::move(model)),
      raw_tokens_(std::move(raw_tokens)),
      normalized_tokens_(std::move(normalized_tokens)),
      ids_before_(description.ids_before),
      ids_after_(description.ids_after),
      vocabulary_size_(description.vocabulary_size),
      ascii_(normalizer_),
      normalized_ascii_(NormalizerOptions{}) {}

void WordPieceTokenizer::EncodeText(std::string_view text, WordSink* sink) const {
  raw_tokens_.Split(
      text,
      [&](std::string_view between) {
        EncodeBetweenTokens(between, sink);
        return !sink->done();
      },
      [&](int32_t id) {
        sink->AddedToken(id);
        return !sink->done();
      });
}

void WordPieceTokenizer::EncodeBetweenTokens(std::string_view text, WordSink* sink) const {
  const auto encode = [&](const NormalizerOptions& options, const AsciiTable& ascii,
                          std::string_view part) {
    sink->set_ascii(&ascii);
    CharacterNormalizer<WordSink> normalizer(options, sink);
    normalizer.Run(part);
    sink->EndWord();
  };
  if (normalized_tokens_.empty()) return encode(normalizer_, ascii_, text);
  normalized_tokens_.Split(
      NormalizeText(normalizer_, text),
      [&](std::string_view between) {
        encode(NormalizerOptions{}, normalized_ascii_, between);
        return !sink->done();
      },
      [&](int32_t id) {
        sink->AddedToken(id);
        return !sink->done();
      });
}

absl::StatusOr<TokenizedText> WordPieceTokenizer::Encode(std::string_view text, int max_tokens,
                                                         Truncation truncation) const {
  if (max_tokens <= special_tokens()) {
    return absl::InvalidArgumentError(absl::StrCat("a limit of ", max_tokens,
                                                   " tokens leaves no room beside the ",
                                                   special_tokens(), " special tokens"));
  }
  const size_t valid = ValidUtf8Prefix(text);
  if (valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("not UTF-8 at byte ", valid));
  }
  const auto limit = static_cast<size_t>(max_tokens - special_tokens());
  std::vector<int32_t> ids;
  ids.reserve(std::min(limit + 1, text.size() / 2 + 1));
  WordSink sink(model_, limit, truncation == Truncation::kEnd, &ids);
  EncodeText(text, &sink);
  const size_t total = sink.total();
  if (total > limit && truncation == Truncation::kNone) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text is ", total + static_cast<size_t>(special_tokens()),
                     " tokens long, at most ", max_tokens, " are allowed"));
  }
  TokenizedText result;
  result.truncated = total > limit;
  const size_t kept = std::min(ids.size(), limit);
  const auto first =
      truncation == Truncation::kStart ? ids.end() - static_cast<ptrdiff_t>(kept) : ids.begin();
  result.ids.reserve(kept + static_cast<size_t>(special_tokens()));
  result.ids.insert(result.ids.end(), ids_before_.begin(), ids_before_.end());
  result.ids.insert(result.ids.end(), first, first + static_cast<ptrdiff_t>(kept));
  result.ids.insert(result.ids.end(), ids_after_.begin(), ids_after_.end());
  return result;
}

void WordPieceTokenizer::EncodeOrdinary(std::string_view text, std::vector<int32_t>* ids) const {
  if (ValidUtf8Prefix(text) != text.size()) return;
  WordSink sink(model_, WordSink::kNoLimit, false, ids);
  EncodeText(text, &sink);
}

}  // namespace octavo
