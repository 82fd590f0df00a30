// Embeds evaluation sets in several formats and measures what quantization costs.
#pragma once

#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "runtime/runtime.h"
#include "tests/eval/datasets.h"
#include "tests/eval/vector_cache.h"

namespace octavo::eval {

struct EvaluationOptions {
  RuntimeOptions runtime;                     // the lanes' formats are set for each pair
  std::vector<std::string> document_formats;  // full names
  std::vector<std::string> query_formats;
  std::vector<std::pair<std::string, std::string>> datasets;  // directory and name of its qrels
  std::string sentence_pairs;                                 // CSV; empty: none
  std::string cache_directory;
  bool compare_f32 = true;  // embeds in f32 too, for the cosines and the loss
};

// Runs every pair of formats over every set. A format is embedded once, through the lane it is
// asked for; document vectors come from the cache where a spot check shows they are still what the
// kernels make. Writes a JSON line a result to `out` and progress to `log`.
absl::Status Evaluate(const EvaluationOptions& options, std::ostream& out, std::ostream& log);

}  // namespace octavo::eval
