#include "tests/eval/datasets.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "runtime/sha256.h"

namespace octavo::eval {
namespace {

// Calls `take` with the object of every line that is not blank.
absl::Status ForEachLine(const std::string& path, std::string_view content,
                         const std::function<absl::Status(const nlohmann::json&)>& take) {
  int64_t number = 0;
  for (size_t begin = 0; begin < content.size();) {
    size_t end = content.find('\n', begin);
    if (end == std::string_view::npos) end = content.size();
    const std::string_view line = content.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const auto object = nlohmann::json::parse(line.begin(), line.end(), nullptr, false);
    absl::Status status = object.is_object()
                              ? take(object)
                              : absl::InvalidArgumentError("not a JSON object in UTF-8");
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " line ", number, ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Text(const nlohmann::json& object, const std::string& member) {
  const auto found = object.find(member);
  if (found == object.end() || found->is_null()) {
    return absl::NotFoundError(absl::StrCat("no \"", member, "\""));
  }
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number_integer()) return found->dump();
  return absl::InvalidArgumentError(absl::StrCat("\"", member, "\" is not text"));
}

absl::Status ReadDocuments(const std::string& path, RetrievalSet* set) {
  auto content = ReadFile(path);
  if (!content.ok()) return content.status();
  set->sha256 = Sha256Hex(std::string_view(*content));
  return ForEachLine(path, *content, [&](const nlohmann::json& object) -> absl::Status {
    auto id = Text(object, "_id");
    if (!id.ok()) return id.status();
    auto text = Text(object, "text");
    if (!text.ok()) return text.status();
    auto title = Text(object, "title");
    if (!title.ok() && !absl::IsNotFound(title.status())) return title.status();
    const std::string joined = absl::StrCat(title.ok() ? *title : "", " ", *text);
    set->document_ids.push_back(*std::move(id));
    set->documents.emplace_back(absl::StripAsciiWhitespace(joined));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::unordered_map<std::string, std::string>> ReadQueries(const std::string& path) {
  auto content = ReadFile(path);
  if (!content.ok()) return content.status();
  std::unordered_map<std::string, std::string> queries;
  const absl::Status status =
      ForEachLine(path, *content, [&](const nlohmann::json& object) -> absl::Status {
        auto id = Text(object, "_id");
        if (!id.ok()) return id.status();
        auto text = Text(object, "text");
        if (!text.ok()) return text.status();
        queries[*id] = *std::move(text);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return queries;
}

absl::StatusOr<std::map<std::string, Judgments>> ReadJudgments(const std::string& path) {
  auto content = ReadFile(path);
  if (!content.ok()) return content.status();
  std::map<std::string, Judgments> judgments;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(*content, '\n')) {
    ++number;
    line = absl::StripTrailingAsciiWhitespace(line);
    if (number == 1 || line.empty()) continue;
    const std::vector<std::string> fields = absl::StrSplit(line, '\t');
    double grade = 0;
    if (fields.size() != 3 || !absl::SimpleAtod(fields[2], &grade)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " line ", number, ": not query id, document id and grade"));
    }
    judgments[fields[0]][fields[1]] = grade;
  }
  return judgments;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path, error)) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path));
  }
  std::stringstream content;
  content << file.rdbuf();
  return content.str();
}

absl::StatusOr<RetrievalSet> ReadRetrievalSet(const std::string& directory,
                                              const std::string& qrels) {
  RetrievalSet set;
  const std::filesystem::path path = std::filesystem::path(directory) / "";
  set.name = path.parent_path().filename().string();
  if (absl::Status status = ReadDocuments((path / "corpus.jsonl").string(), &set); !status.ok()) {
    return status;
  }
  const std::string queries_path = (path / "queries.jsonl").string();
  auto queries = ReadQueries(queries_path);
  if (!queries.ok()) return queries.status();
  const std::string qrels_path = (path / "qrels" / (qrels + ".tsv")).string();
  auto judgments = ReadJudgments(qrels_path);
  if (!judgments.ok()) return judgments.status();
  for (auto& [id, judged] : *judgments) {
    if (!HasRelevant(judged)) continue;
    const auto query = queries->find(id);
    if (query == queries->end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(qrels_path, " judges query ", id, ", which ", queries_path, " lacks"));
    }
    set.query_ids.push_back(id);
    set.queries.push_back(query->second);
    set.judgments.push_back(std::move(judged));
  }
  if (set.documents.empty() || set.queries.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, " has no documents or no query with a relevant one"));
  }
  return set;
}

RetrievalScores ScoreRetrieval(const RetrievalSet& set, const Matrix& documents,
                               const Matrix& queries) {
  std::vector<double> ndcg, recall;
  for (size_t i = 0; i < set.queries.size(); ++i) {
    std::vector<std::string_view> ranking;
    for (const int64_t row : Rank(documents, queries.row(static_cast<int64_t>(i)), 100)) {
      ranking.push_back(set.document_ids[static_cast<size_t>(row)]);
    }
    ndcg.push_back(NdcgAt(10, ranking, set.judgments[i]));
    recall.push_back(RecallAt(100, ranking, set.judgments[i]));
  }
  return {Mean(ndcg), Mean(recall)};
}

std::vector<std::vector<std::string>> ParseCsv(std::string_view text) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> row;
  std::string field;
  bool quoted = false;
  bool begun = false;  // the row has a field, perhaps an empty one
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c != '"') {
        field += c;
      } else if (i + 1 < text.size() && text[i + 1] == '"') {
        field += '"';
        ++i;
      } else {
        quoted = false;
      }
    } else if (c == '"' && field.empty()) {
      quoted = begun = true;
    } else if (c == ',') {
      row.push_back(std::exchange(field, ""));
      begun = true;
    } else if (c == '\n' || (c == '\r' && i + 1 < text.size() && text[i + 1] == '\n')) {
      if (c == '\r') ++i;
      if (begun || !field.empty()) row.push_back(std::exchange(field, ""));
      if (!row.empty()) rows.push_back(std::exchange(row, {}));
      begun = false;
    } else {
      field += c;
    }
  }
  if (begun || !field.empty()) row.push_back(field);
  if (!row.empty()) rows.push_back(row);
  return rows;
}

absl::StatusOr<SentencePairs> ReadSentencePairs(const std::string& path) {
  auto content = ReadFile(path);
  if (!content.ok()) return content.status();
  SentencePairs pairs;
  for (std::vector<std::string>& row : ParseCsv(*content)) {
    if (row.size() != 3) continue;
    double score = 0;
    if (!absl::SimpleAtod(row[2], &score)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": \"", row[2], "\" is not a score"));
    }
    pairs.first.push_back(std::move(row[0]));
    pairs.second.push_back(std::move(row[1]));
    pairs.scores.push_back(score);
  }
  if (pairs.scores.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has no row of three fields"));
  }
  return pairs;
}

absl::StatusOr<std::vector<std::string>> ReadTexts(const std::string& path,
                                                   const std::string& member) {
  auto content = ReadFile(path);
  if (!content.ok()) return content.status();
  std::vector<std::string> texts;
  const absl::Status status =
      ForEachLine(path, *content, [&](const nlohmann::json& object) -> absl::Status {
        auto text = Text(object, member);
        if (!text.ok()) return text.status();
        texts.push_back(*std::move(text));
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return texts;
}

}  // namespace octavo::eval
