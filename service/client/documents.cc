#include "service/client/documents.h"

#include <cctype>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace octavo::client {
namespace {

// Reads a string member; true if it is absent, null or a string.
bool ReadOptionalString(const nlohmann::json& object, const char* name, std::string* value) {
  const auto member = object.find(name);
  if (member == object.end() || member->is_null()) return true;
  if (!member->is_string()) return false;
  *value = member->get_ref<const std::string&>();
  return true;
}

}  // namespace

std::string Document::EmbeddedText() const {
  const std::string joined = absl::StrCat(title, " ", text);
  return std::string(absl::StripAsciiWhitespace(joined));
}

absl::StatusOr<std::unique_ptr<DocumentReader>> DocumentReader::Open(const std::string& path) {
  if (path == "-") {
    return std::make_unique<DocumentReader>(std::make_unique<std::istream>(std::cin.rdbuf()), 0);
  }
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is a directory, not a JSON lines file"));
  }
  auto file = std::make_unique<std::ifstream>(path, std::ios::binary);
  if (!*file) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  const auto size = std::filesystem::file_size(path, error);  // fails on a pipe: length unknown
  return std::make_unique<DocumentReader>(std::move(file), error ? 0 : static_cast<int64_t>(size));
}

DocumentReader::DocumentReader(std::unique_ptr<std::istream> stream, int64_t total_bytes)
    : stream_(std::move(stream)), total_bytes_(total_bytes) {}

std::optional<Rejection> DocumentReader::Parse(std::string_view line, Document* document) {
  Rejection rejection{.line = line_, .reason = "INVALID_LINE"};
  const nlohmann::json object = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
  if (object.is_discarded()) {
    rejection.message = "not valid JSON in UTF-8";
    return rejection;
  }
  if (!object.is_object()) {
    rejection.message = "not a JSON object";
    return rejection;
  }
  auto id = object.find("_id");
  if (id == object.end()) id = object.find("id");
  if (id == object.end()) {
    rejection.message = "no \"_id\" (or \"id\")";
    return rejection;
  }
  if (id->is_string()) {
    document->id = id->get<std::string>();
  } else if (id->is_number_integer()) {
    document->id = id->dump();
  }
  rejection.id = document->id;
  if (document->id.empty()) {
    rejection.message = "the id is neither text nor a whole number, or is empty";
  } else if (!object.contains("text") || !object["text"].is_string()) {
    rejection.message = "no \"text\", or it is not text";
  } else if (!ReadOptionalString(object, "title", &document->title)) {
    rejection.message = "\"title\" is not text";
  } else {
    document->text = object["text"].get<std::string>();
    return std::nullopt;
  }
  return rejection;
}

absl::StatusOr<std::optional<Document>> DocumentReader::Next(
    const std::function<void(const Rejection&)>& reject) {
  std::string line;
  while (std::getline(*stream_, line)) {
    ++line_;
    offset_ += static_cast<int64_t>(line.size()) + (stream_->eof() ? 0 : 1);
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    Document document;
    document.line = line_;
    document.end_offset = offset_;
    if (std::optional<Rejection> rejection = Parse(line, &document)) {
      reject(*rejection);
      continue;
    }
    const auto [first, inserted] = line_of_id_.emplace(document.id, line_);
    if (!inserted) {
      reject({line_, document.id, "DUPLICATE_ID",
              absl::StrCat("the id was first used on line ", first->second)});
      continue;
    }
    if (document.EmbeddedText().empty()) {
      reject({line_, document.id, "TEXT_EMPTY", "title and text are empty"});
      continue;
    }
    return document;
  }
  if (stream_->bad()) {
    return absl::DataLossError(absl::StrCat("reading failed after line ", line_));
  }
  return std::nullopt;
}

std::string OneLine(std::string_view text, size_t columns) {
  std::string line;
  for (const char c : text) {
    if (std::isspace(static_cast<unsigned char>(c))) {
      if (!line.empty() && line.back() != ' ') line += ' ';
    } else if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {  // no terminal escapes
      line += c;
    }
    if (line.size() > columns + 4) break;
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() <= columns) return line;
  line.resize(columns > 3 ? columns - 3 : 0);
  // Drop a character cut in half: back to before its lead byte.
  size_t lead = line.size();
  while (lead > 0 && (static_cast<unsigned char>(line[lead - 1]) & 0xc0) == 0x80) --lead;
  if (lead > 0 && (static_cast<unsigned char>(line[lead - 1]) & 0xc0) == 0xc0) {
    const unsigned char first = static_cast<unsigned char>(line[lead - 1]);
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (line.size() - (lead - 1) < length) line.resize(lead - 1);
  }
  return line + "...";
}

}  // namespace octavo::client
