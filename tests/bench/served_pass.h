// The texts of a workload through a running server: what octavo-bench profile compares with the
// same texts in process.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/bench/serve_load.h"

namespace octavo::bench {

class ServedTexts {
 public:
  // FAILED_PRECONDITION if the server's lanes have other formats.
  static absl::StatusOr<std::unique_ptr<ServedTexts>> Connect(const std::string& server,
                                                              const std::string& document_format,
                                                              const std::string& query_format,
                                                              std::vector<std::string> documents,
                                                              std::vector<std::string> queries);

  // Mean seconds of a query, one at a time, a tenth of them for warming up. INTERNAL if one fails
  // or is wrong.
  absl::StatusOr<double> QuerySeconds();
  // Seconds of a document where as many are in flight as the server takes.
  absl::StatusOr<double> DocumentSeconds();

 private:
  ServedTexts() = default;
  std::string server_;
  uint32_t dimensions_ = 0;
  std::vector<std::string> documents_;
  int64_t query_count_ = 0;
  std::unique_ptr<QueryLoad> queries_;
};

}  // namespace octavo::bench
