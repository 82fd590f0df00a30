#include "runtime/tokenizer_json.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr int kMaxDepth = 64;
constexpr int64_t kMaxCharactersPerWord = 65536;

absl::Status Invalid(const std::string& path, const std::string& problem) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.json: ", path, ": ", problem));
}

absl::Status Unsupported(const std::string& path, const std::string& type,
                         const std::string& supported) {
  return absl::UnimplementedError(absl::StrCat("tokenizer.json: ", path, ": \"", type,
                                               "\" is not supported; supported: ", supported));
}

// A value and where it is in the document. Errors are kept: after the first, every read yields a
// default, so that a caller may read several fields and then ask for `status` once.
class Reader {
 public:
  Reader(const Json& value, std::string path, absl::Status* status)
      : value_(value), path_(std::move(path)), status_(*status) {}

  const Json& value() const { return value_; }
  const std::string& path() const { return path_; }
  bool is_null() const { return value_.is_null(); }

  // The member, or null if there is none.
  Reader operator[](const char* name) const {
    static const Json kNull;
    const std::string path = path_.empty() ? name : absl::StrCat(path_, ".", name);
    if (value_.is_object()) {
      const auto found = value_.find(name);
      if (found != value_.end()) return Reader(*found, path, &status_);
    } else {
      Fail(path_, "must be an object");
    }
    return Reader(kNull, path, &status_);
  }

  Reader At(const Json& element, size_t index) const {
    return Reader(element, absl::StrCat(path_, "[", index, "]"), &status_);
  }

  std::string String() const {
    if (value_.is_string()) return value_.get_ref<const std::string&>();
    Fail(path_, "must be a string");
    return "";
  }

  bool Bool() const {
    if (value_.is_boolean()) return value_.get_ref<const bool&>();
    Fail(path_, "must be true or false");
    return false;
  }

  int32_t Integer(int64_t maximum) const {
    const bool in_range = value_.is_number_unsigned() &&
                          value_.get_ref<const uint64_t&>() <= static_cast<uint64_t>(maximum);
    if (in_range) return static_cast<int32_t>(value_.get_ref<const uint64_t&>());
    Fail(path_, absl::StrCat("must be an integer from 0 to ", maximum));
    return 0;
  }

  int32_t Id() const { return Integer(ByteTrie::kMaxValue); }

  // Elements of an array; none if it is not one.
  template <typename Body>
  void ForEach(Body body) const {
    if (!value_.is_array()) return Fail(path_, "must be an array");
    for (size_t i = 0; i < value_.size(); ++i) body(At(value_[i], i));
  }

  void Fail(const std::string& path, const std::string& problem) const {
    if (status_.ok()) status_ = Invalid(path, problem);
  }
  void Fail(const std::string& problem) const { Fail(path_, problem); }
  void Fail(absl::Status status) const {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  const Json& value_;
  std::string path_;
  absl::Status& status_;
};

// Refuses deep nesting before a parser spends memory on it.
absl::Status CheckDepth(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) {
        return Invalid(absl::StrCat("byte ", i),
                       absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
      }
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return absl::OkStatus();
}

std::string TypeOf(const Reader& section) {
  const Reader type = section["type"];
  return type.is_null() ? "" : type.String();
}

NormalizerOptions ReadNormalizer(const Reader& normalizer) {
  NormalizerOptions options;
  if (normalizer.is_null()) return options;
  const std::string type = TypeOf(normalizer);
  if (type != "BertNormalizer") {
    normalizer.Fail(Unsupported("normalizer", type, "BertNormalizer, null"));
    return options;
  }
  options.clean_text = normalizer["clean_text"].Bool();
  options.handle_chinese_characters = normalizer["handle_chinese_chars"].Bool();
  options.lowercase = normalizer["lowercase"].Bool();
  const Reader strip_accents = normalizer["strip_accents"];
  options.strip_accents = strip_accents.is_null() ? options.lowercase : strip_accents.Bool();
  return options;
}

WordPieceOptions ReadModel(const Reader& model) {
  WordPieceOptions options;
  const std::string type = TypeOf(model);
  if (type != "WordPiece") {
    model.Fail(Unsupported("model", type, "WordPiece"));
    return options;
  }
  options.unknown_token = model["unk_token"].String();
  options.continuing_subword_prefix = model["continuing_subword_prefix"].String();
  options.max_characters_per_word =
      model["max_input_chars_per_word"].Integer(kMaxCharactersPerWord);
  const Reader vocabulary = model["vocab"];
  if (!vocabulary.value().is_object()) {
    vocabulary.Fail("must be an object");
    return options;
  }
  options.vocabulary.reserve(vocabulary.value().size());
  for (const auto& [token, id] : vocabulary.value().items()) {
    if (!id.is_number_unsigned() || id.get_ref<const uint64_t&>() > ByteTrie::kMaxValue) {
      vocabulary.Fail(absl::StrCat("the id of \"", token, "\" must be an integer from 0 to ",
                                   ByteTrie::kMaxValue));
      return options;
    }
    options.vocabulary.emplace_back(token, static_cast<int32_t>(id.get_ref<const uint64_t&>()));
  }
  if (options.vocabulary.empty()) vocabulary.Fail("is empty");
  std::sort(options.vocabulary.begin(), options.vocabulary.end());
  return options;
}

std::optional<int32_t> FindId(const WordPieceOptions& model, const std::string& token) {
  const auto found = std::lower_bound(
      model.vocabulary.begin(), model.vocabulary.end(), token,
      [](const auto& entry, const std::string& wanted) { return entry.first < wanted; });
  if (found == model.vocabulary.end() || found->first != token) return std::nullopt;
  return found->second;
}

// As the Hugging Face library loads them: a token's id is the vocabulary's, or the next after the
// vocabulary's size whatever the file says; of tokens with one id the last stands.
std::vector<AddedToken> ReadAddedTokens(const Reader& list, const WordPieceOptions& model) {
  std::vector<AddedToken> result;
  if (list.is_null()) return result;
  std::map<std::string, int32_t> id_of;
  std::map<int32_t, AddedToken> by_id;
  auto next_id = static_cast<int32_t>(model.vocabulary.size());
  list.ForEach([&](const Reader& entry) {
    AddedToken token;
    token.content = entry["content"].String();
    token.single_word = entry["single_word"].Bool();
    token.left_strip = entry["lstrip"].Bool();
    token.right_strip = entry["rstrip"].Bool();
    token.normalized = entry["normalized"].Bool();
    token.special = entry["special"].Bool();
    entry["id"].Id();
    if (token.content.empty()) return;
    const auto known = id_of.find(token.content);
    if (known != id_of.end()) {
      token.id = known->second;
    } else {
      const std::optional<int32_t> id = FindId(model, token.content);
      token.id = id.has_value() ? *id : next_id++;
    }
    id_of[token.content] = token.id;
    by_id[token.id] = token;
  });
  for (auto& [id, token] : by_id) result.push_back(std::move(token));
  return result;
}

void ReadTemplate(const Reader& processor, TokenizerDescription* description) {
  int sequences = 0;
  const Reader special_tokens = processor["special_tokens"];
  processor["single"].ForEach([&](const Reader& piece) {
    const Reader sequence = piece["Sequence"];
    if (!sequence.is_null()) {
      if (sequence["id"].String() != "A") piece.Fail("a single text has no sequence but \"A\"");
      ++sequences;
      return;
    }
    const std::string name = piece["SpecialToken"]["id"].String();
    const Reader token = special_tokens[name.c_str()];
    std::vector<int32_t>* ids = sequences == 0 ? &description->ids_before : &description->ids_after;
    token["ids"].ForEach([&](const Reader& id) { ids->push_back(id.Id()); });
  });
  if (sequences != 1) processor["single"].Fail("must hold the sequence \"A\" once");
}

void ReadPostProcessor(const Reader& processor, TokenizerDescription* description) {
  if (processor.is_null()) return;
  const std::string type = TypeOf(processor);
  if (type == "TemplateProcessing") return ReadTemplate(processor, description);
  if (type != "BertProcessing") {
    processor.Fail(Unsupported("post_processor", type, "TemplateProcessing, BertProcessing, null"));
    return;
  }
  const auto read_pair = [&](const char* name, std::vector<int32_t>* ids) {
    const Reader pair = processor[name];
    if (!pair.value().is_array() || pair.value().size() != 2) {
      return pair.Fail("must be a pair of a token and its id");
    }
    pair.At(pair.value()[0], 0).String();
    ids->push_back(pair.At(pair.value()[1], 1).Id());
  };
  read_pair("cls", &description->ids_before);
  read_pair("sep", &description->ids_after);
}

void SetVocabularySize(const Reader& root, TokenizerDescription* description) {
  int largest = 0;
  for (const auto& [token, id] : description->model.vocabulary) largest = std::max(largest, id);
  for (const AddedToken& token : description->added_tokens) largest = std::max(largest, token.id);
  description->vocabulary_size = largest + 1;
  for (const auto* ids : {&description->ids_before, &description->ids_after}) {
    for (const int32_t id : *ids) {
      if (id > largest) {
        root["post_processor"].Fail(absl::StrCat("id ", id, " is beyond the vocabulary"));
      }
    }
  }
}

}  // namespace

absl::StatusOr<TokenizerDescription> ParseTokenizerJson(std::string_view json) {
  if (json.size() > kMaxBytes) {
    return Invalid("size", absl::StrCat(json.size(), " bytes, at most ", kMaxBytes));
  }
  absl::Status status = CheckDepth(json);
  if (!status.ok()) return status;
  const Json document = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return Invalid("document", "not well-formed JSON");

  const Reader root(document, "", &status);
  if (!document.is_object()) return Invalid("document", "must be an object");
  const Reader version = root["version"];
  if (!version.is_null() && version.String() != "1.0") version.Fail("must be \"1.0\"");
  TokenizerDescription description;
  description.model = ReadModel(root["model"]);
  description.normalizer = ReadNormalizer(root["normalizer"]);
  const Reader pre_tokenizer = root["pre_tokenizer"];
  const std::string pre_tokenizer_type = pre_tokenizer.is_null() ? "null" : TypeOf(pre_tokenizer);
  if (pre_tokenizer_type != "BertPreTokenizer") {
    pre_tokenizer.Fail(Unsupported("pre_tokenizer", pre_tokenizer_type, "BertPreTokenizer"));
  }
  description.added_tokens = ReadAddedTokens(root["added_tokens"], description.model);
  ReadPostProcessor(root["post_processor"], &description);
  SetVocabularySize(root, &description);
  if (!status.ok()) return status;
  return description;
}

}  // namespace octavo
