#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "service/client/commands.h"
#include "service/client/documents.h"
#include "service/client/index_directory.h"
#include "service/client/search.h"
#include "service/client/vectors.h"

namespace octavo::client {
namespace {

using Clock = std::chrono::steady_clock;

struct QueryResult {
  std::vector<Hit> hits;
  std::vector<Document> documents;  // of each hit
  uint32_t tokens = 0;
  double embed_ms = 0;  // the call, network included
  double search_ms = 0;
  octavo::v1::Execution execution;
};

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

absl::Status ExplainRevision(const absl::Status& status, const IndexManifest& manifest) {
  if (status.code() != absl::StatusCode::kFailedPrecondition) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      "the index was made with ", manifest.model, " at revision ", manifest.revision,
      ", which this server does not serve; scores against it would mean nothing. Serve that model "
      "or make the index again with octavo-client index. (",
      std::string(status.message()), ")"));
}

absl::StatusOr<QueryResult> Ask(const Connection& connection, const Index& index,
                                const std::string& query, int top) {
  const IndexManifest& manifest = index.manifest();
  octavo::v1::EmbedRequest request;
  request.add_inputs()->set_text(query);
  request.set_revision(manifest.revision);
  request.mutable_options()->set_input_type(octavo::v1::INPUT_TYPE_QUERY);
  request.mutable_options()->set_dimensions(static_cast<uint32_t>(manifest.dimensions));
  request.mutable_options()->set_normalize(true);

  QueryResult result;
  Clock::time_point start = Clock::now();
  auto response = connection.Embed(request);
  result.embed_ms = MillisecondsSince(start);
  if (!response.ok()) return ExplainRevision(response.status(), manifest);
  if (absl::Status status = CheckResponse(request, *response); !status.ok()) return status;
  if (response->revision() != manifest.revision) {
    return ExplainRevision(absl::FailedPreconditionError(
                               absl::StrCat("it answered from revision ", response->revision())),
                           manifest);
  }
  result.tokens = response->results(0).tokens();
  result.execution = response->execution();

  start = Clock::now();
  result.hits = Search(index.vectors(), DecodeRow(response->vectors(0), 0), top);
  result.search_ms = MillisecondsSince(start);
  for (const Hit& hit : result.hits) {
    auto document = index.document(hit.row);
    if (!document.ok()) return document.status();
    result.documents.push_back(*std::move(document));
  }
  return result;
}

void PrintText(const std::string& query, const QueryResult& result, std::ostream& out) {
  out << OneLine(query, 200) << "\n";
  for (size_t i = 0; i < result.hits.size(); ++i) {
    const Document& document = result.documents[i];
    out << absl::StrFormat("%3d  %.4f  %s", i + 1, result.hits[i].score,
                           OneLine(document.title.empty() ? document.id : document.title, 60));
    const std::string text = OneLine(document.text, 100);
    if (!text.empty()) out << "  |  " << text;
    out << "\n";
  }
  out << absl::StrFormat("     embed %.2f ms, search %.2f ms, %d tokens\n\n", result.embed_ms,
                         result.search_ms, result.tokens);
  out.flush();
}

void PrintJson(const std::string& query, const QueryResult& result, std::ostream& out) {
  nlohmann::ordered_json json = {
      {"query", query},
      {"tokens", result.tokens},
      {"embed_ms", result.embed_ms},
      {"search_ms", result.search_ms},
      {"queue_us", result.execution.queue_us()},
      {"compute_us", result.execution.compute_us()},
      {"lane", result.execution.lane()},
      {"format", result.execution.format()},
      {"hits", nlohmann::ordered_json::array()},
  };
  for (size_t i = 0; i < result.hits.size(); ++i) {
    const Document& document = result.documents[i];
    json["hits"].push_back({{"rank", i + 1},
                            {"score", result.hits[i].score},
                            {"id", document.id},
                            {"title", document.title},
                            {"text", document.text}});
  }
  out << json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << std::endl;
}

}  // namespace

absl::Status SearchCommand(const Connection& connection, const SearchOptions& options,
                           std::ostream& out) {
  if (options.top < 1) return absl::InvalidArgumentError("--top must be at least 1");
  if (options.queries.empty()) {
    return absl::InvalidArgumentError("no query: octavo-client search --index=DIR TEXT...");
  }
  auto index = Index::Open(options.directory);
  if (!index.ok()) return index.status();
  // Connects, so that the first query's time is that of a call.
  if (auto info = connection.GetInfo(); !info.ok()) return info.status();
  for (const std::string& query : options.queries) {
    auto result = Ask(connection, **index, query, options.top);
    if (!result.ok()) return result.status();
    if (options.json) {
      PrintJson(query, *result, out);
    } else {
      PrintText(query, *result, out);
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo::client
