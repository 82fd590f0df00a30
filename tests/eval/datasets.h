// Evaluation sets on disk: BEIR's layout, and sentence pairs as CSV.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/eval/metrics.h"

namespace octavo::eval {

struct RetrievalSet {
  std::string name;    // the directory's last component
  std::string sha256;  // of corpus.jsonl
  std::vector<std::string> document_ids;
  std::vector<std::string> documents;  // title + " " + text, trimmed
  // Queries with at least one relevant document, by id in order.
  std::vector<std::string> query_ids;
  std::vector<std::string> queries;
  std::vector<Judgments> judgments;  // of each query
};

// Reads DIR/corpus.jsonl {_id, title, text}, DIR/queries.jsonl {_id, text} and DIR/qrels/QRELS.tsv
// (query id, document id, grade; one header line). Errors name file and line.
absl::StatusOr<RetrievalSet> ReadRetrievalSet(const std::string& directory,
                                              const std::string& qrels);

// nDCG@10 and recall@100 of one set, averaged over its queries; rows are of length 1.
struct RetrievalScores {
  double ndcg_at_10 = 0;
  double recall_at_100 = 0;
};
RetrievalScores ScoreRetrieval(const RetrievalSet& set, const Matrix& documents,
                               const Matrix& queries);

struct SentencePairs {
  std::vector<std::string> first, second;
  std::vector<double> scores;
};

// Rows of three fields: sentence, sentence, score. Rows with another number of fields are left
// out. INVALID_ARGUMENT if no row is left or a score is no number.
absl::StatusOr<SentencePairs> ReadSentencePairs(const std::string& path);

// Splits CSV (RFC 4180): fields separated by commas, quoted where they hold commas, line ends or
// quotes, which are doubled. Rows end with LF or CRLF.
std::vector<std::vector<std::string>> ParseCsv(std::string_view text);

// Values of a member of every line of a JSON lines file, in order: for plain lists of texts.
absl::StatusOr<std::vector<std::string>> ReadTexts(const std::string& path,
                                                   const std::string& member);

// The whole of a file.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace octavo::eval
