#include "tests/bench/served_pass.h"

#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/client/connection.h"
#include "tests/eval/metrics.h"

namespace octavo::bench {
namespace {

constexpr std::chrono::milliseconds kDocumentWarmUp(500);
constexpr std::chrono::milliseconds kDocumentTime(2000);

}  // namespace

absl::StatusOr<std::unique_ptr<ServedTexts>> ServedTexts::Connect(
    const std::string& server, const std::string& document_format, const std::string& query_format,
    std::vector<std::string> documents, std::vector<std::string> queries) {
  const client::Connection connection({.server = server});
  auto info = connection.GetInfo();
  if (!info.ok()) return info.status();
  for (const auto& lane : info->lanes()) {
    const std::string& wanted = lane.name() == "query" ? query_format : document_format;
    if (lane.format() != wanted) {
      return absl::FailedPreconditionError(
          absl::StrCat("the server's ", lane.name(), " lane runs ", lane.format(), ", not ", wanted,
                       ": start it with the formats of the profile"));
    }
  }
  std::unique_ptr<ServedTexts> served(new ServedTexts);
  served->server_ = server;
  served->dimensions_ = info->dimensions();
  served->documents_ = std::move(documents);
  served->query_count_ = static_cast<int64_t>(queries.size());
  served->queries_ =
      std::make_unique<QueryLoad>(server, std::move(queries), served->dimensions_, /*seed=*/1);
  return served;
}

absl::StatusOr<double> ServedTexts::QuerySeconds() {
  const int64_t warm_up = query_count_ / 10;
  const QueryRun run = queries_->RunOneByOne(query_count_ - warm_up, warm_up);
  if (!run.failures.empty() || run.wrong > 0 || run.milliseconds.empty()) {
    return absl::InternalError("queries through the server failed or were wrong");
  }
  return eval::Mean(run.milliseconds) * 1e-3;
}

absl::StatusOr<double> ServedTexts::DocumentSeconds() {
  DocumentLoad load(server_, documents_, dimensions_, DocumentLoad::Options{});
  std::this_thread::sleep_for(kDocumentWarmUp);
  const auto start = ServeClock::now();
  const int64_t before = load.count().documents;
  std::this_thread::sleep_for(kDocumentTime);
  const DocumentLoad::Count after = load.count();
  const double seconds = std::chrono::duration<double>(ServeClock::now() - start).count();
  if (absl::Status status = load.status(); !status.ok()) return status;
  if (after.wrong > 0 || after.documents == before) {
    return absl::InternalError("documents through the server were wrong, or none came back");
  }
  return seconds / static_cast<double>(after.documents - before);
}

}  // namespace octavo::bench
