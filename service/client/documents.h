// Documents to index: one JSON object a line.
#pragma once

#include <cstdint>
#include <functional>
#include <istream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo::client {

struct Document {
  std::string id;
  std::string title;
  std::string text;
  int64_t line = 0;        // in the input, from 1
  int64_t end_offset = 0;  // bytes of input up to the end of its line

  // What is embedded: title, a space and text, trimmed.
  std::string EmbeddedText() const;
};

// A line or document that is not in the index, and why.
struct Rejection {
  int64_t line = 0;
  std::string id;      // "" where the line has none
  std::string reason;  // upper case, from the server's list or one of ours: "INVALID_LINE",
                       // "DUPLICATE_ID", "TEXT_EMPTY", "TEXT_TOO_LARGE"
  std::string message;
};

// Reads {"_id" or "id": text or whole number, "title": optional text, "text": text}, one a line;
// blank lines are skipped, other fields ignored. Not thread-safe.
class DocumentReader {
 public:
  // "-" reads standard input. NOT_FOUND if the file cannot be opened.
  static absl::StatusOr<std::unique_ptr<DocumentReader>> Open(const std::string& path);
  // Reads `stream`, `total_bytes` long (0: unknown).
  DocumentReader(std::unique_ptr<std::istream> stream, int64_t total_bytes);

  // The next document, or nothing at the end. Lines that hold none go to `reject`. Every id is
  // returned once: a later line with the same id is rejected. DATA_LOSS if reading fails.
  absl::StatusOr<std::optional<Document>> Next(const std::function<void(const Rejection&)>& reject);

  int64_t total_bytes() const { return total_bytes_; }
  int64_t lines() const { return line_; }

 private:
  std::optional<Rejection> Parse(std::string_view line, Document* document);

  std::unique_ptr<std::istream> stream_;
  int64_t total_bytes_;
  int64_t line_ = 0;
  int64_t offset_ = 0;
  std::unordered_map<std::string, int64_t> line_of_id_;
};

// Splits text into one line for display: white space runs become a space, cut to `columns` bytes
// at a character boundary with "..." if longer.
std::string OneLine(std::string_view text, size_t columns);

}  // namespace octavo::client
