// octavo-eval: what a format costs in retrieval and similarity quality.
#include <iostream>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/eval/evaluation.h"

ABSL_FLAG(std::string, model, "", "model directory");
ABSL_FLAG(std::string, dataset, "",
          "directories in BEIR's layout, separated by commas; DIR:QRELS names other judgments");
ABSL_FLAG(std::string, qrels, "test", "judgments: DIR/qrels/NAME.tsv");
ABSL_FLAG(std::string, stsb, "",
          "CSV of sentence pairs with scores: prints Spearman's correlation");
ABSL_FLAG(std::string, document_format, "a8w8_int8",
          "format of the document lane; several separated by commas: every pair is measured");
ABSL_FLAG(std::string, query_format, "a16w4_int4", "format of the query lane, likewise");
ABSL_FLAG(std::string, document_method, "", "how document weights are rounded: rtn, hqq");
ABSL_FLAG(std::string, query_method, "", "how query weights are rounded: rtn, hqq");
ABSL_FLAG(std::string, device, "cpu", "device");
ABSL_FLAG(int, threads, 0, "CPU threads; 0: every available processor");
ABSL_FLAG(std::string, kernel, "", "force linear kernel rows by name, separated by commas");
ABSL_FLAG(std::string, attention_kernel, "", "force an attention row by name");
ABSL_FLAG(std::string, kernel_plan, "", "file of measured kernel choices to read or write");
ABSL_FLAG(std::string, cache, octavo::eval::VectorCache::DefaultDirectory(),
          "directory of stored document vectors; empty: none are stored");
ABSL_FLAG(bool, compare_f32, true, "also embed in f32 and print cosines and losses against it");

namespace octavo::eval {
namespace {

absl::StatusOr<std::vector<std::string>> FormatNames(const std::string& list) {
  std::vector<std::string> names;
  const std::vector<std::string> asked = absl::StrSplit(list, ',', absl::SkipEmpty());
  for (const std::string& name : asked) {
    auto format = FindFormat(name);
    if (!format.ok()) return format.status();
    names.emplace_back((*format)->name);
  }
  if (names.empty()) return absl::InvalidArgumentError("no format named");
  return names;
}

absl::StatusOr<EvaluationOptions> ReadFlags() {
  EvaluationOptions options;
  options.runtime = DefaultRuntimeOptions();
  options.runtime.model_directory = absl::GetFlag(FLAGS_model);
  options.runtime.device = absl::GetFlag(FLAGS_device);
  options.runtime.threads = absl::GetFlag(FLAGS_threads);
  options.runtime.kernel = absl::GetFlag(FLAGS_kernel);
  options.runtime.attention_kernel = absl::GetFlag(FLAGS_attention_kernel);
  options.runtime.kernel_plan = absl::GetFlag(FLAGS_kernel_plan);
  options.runtime.lanes[static_cast<int>(Lane::kDocument)].method =
      absl::GetFlag(FLAGS_document_method);
  options.runtime.lanes[static_cast<int>(Lane::kQuery)].method = absl::GetFlag(FLAGS_query_method);
  auto documents = FormatNames(absl::GetFlag(FLAGS_document_format));
  if (!documents.ok()) return documents.status();
  options.document_formats = *documents;
  auto queries = FormatNames(absl::GetFlag(FLAGS_query_format));
  if (!queries.ok()) return queries.status();
  options.query_formats = *queries;
  const std::vector<std::string> datasets =
      absl::StrSplit(absl::GetFlag(FLAGS_dataset), ',', absl::SkipEmpty());
  for (const std::string& dataset : datasets) {
    const size_t colon = dataset.rfind(':');
    options.datasets.emplace_back(dataset.substr(0, colon), colon == std::string::npos
                                                                ? absl::GetFlag(FLAGS_qrels)
                                                                : dataset.substr(colon + 1));
  }
  options.sentence_pairs = absl::GetFlag(FLAGS_stsb);
  options.cache_directory = absl::GetFlag(FLAGS_cache);
  options.compare_f32 = absl::GetFlag(FLAGS_compare_f32);
  if (options.runtime.model_directory.empty()) {
    return absl::InvalidArgumentError("--model=DIR is missing");
  }
  if (options.datasets.empty() && options.sentence_pairs.empty()) {
    return absl::InvalidArgumentError("nothing to measure: --dataset=DIR or --stsb=FILE");
  }
  return options;
}

}  // namespace
}  // namespace octavo::eval

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "measures retrieval (nDCG@10, recall@100) and similarity (Spearman) of a model in pairs of "
      "formats, a JSON line a result.\n"
      "octavo-eval --model=DIR --dataset=DIR [--stsb=FILE] --document_format=a8w8_int8,f32 "
      "--query_format=a16w4_int4,f32");
  absl::FlagsUsageConfig usage;  // --help shows this program's flags
  usage.contains_help_flags = [](auto file) { return absl::StrContains(file, "octavo_eval"); };
  absl::SetFlagsUsageConfig(usage);
  const std::vector<char*> positional = absl::ParseCommandLine(argc, argv);
  absl::Status status;
  if (positional.size() > 1) {
    status = absl::InvalidArgumentError(
        absl::StrCat("unexpected argument \"", positional[1], "\"; see --help"));
  } else if (auto options = octavo::eval::ReadFlags(); options.ok()) {
    status = octavo::eval::Evaluate(*options, std::cout, std::cerr);
  } else {
    status = options.status();
  }
  if (status.ok()) return 0;
  std::cerr << "octavo-eval: " << absl::StatusCodeToString(status.code()) << ": "
            << std::string(status.message()) << std::endl;
  return 1;
}
