// The commands of octavo-client. Each prints its result to `out` and everything else to `log`, and
// returns an error instead of printing it.
#pragma once

#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "service/client/bulk.h"
#include "service/client/connection.h"

namespace octavo::client {

struct IndexOptions {
  std::string input;      // JSON lines, "-" for standard input
  std::string directory;  // see index_directory.h
  BulkOptions bulk;       // revision and format are filled in
  bool terminal = false;  // `log` can redraw a line
};
// Embeds every document of a file on the document lane and writes an index. Lines and documents
// that cannot be embedded are listed in it and do not stop the rest; INVALID_ARGUMENT if none is
// left.
absl::Status IndexCommand(const Connection& connection, const IndexOptions& options,
                          std::ostream& out, std::ostream& log);

struct SearchOptions {
  std::string directory;
  std::vector<std::string> queries;
  int top = 5;
  bool json = false;  // one JSON line a query
};
// Embeds each query on the query lane and prints the nearest documents. FAILED_PRECONDITION if the
// server serves another revision than the index was made with.
absl::Status SearchCommand(const Connection& connection, const SearchOptions& options,
                           std::ostream& out);

struct EmbedCommandOptions {
  std::vector<std::string> texts;
  std::string input_type = "query";
  std::string output_types = "float32";  // comma-separated
  uint32_t dimensions = 0;
  std::string truncation;  // "", "none", "end", "start"
  std::string normalize;   // "" (as the model), "true", "false"
  std::optional<std::string> prompt_name;
};
// Prints one JSON line a text, in order.
absl::Status EmbedCommand(const Connection& connection, const EmbedCommandOptions& options,
                          std::ostream& out);

absl::Status InfoCommand(const Connection& connection, std::ostream& out);

}  // namespace octavo::client
