#include "tests/bench/serve_bench.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "service/client/connection.h"
#include "tests/bench/serve_load.h"
#include "tests/eval/datasets.h"
#include "tests/eval/metrics.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::milliseconds kAnswerLimit(10000);
constexpr int64_t kWorkerQueries = 180;
constexpr int64_t kWorkerWarmUp = 20;

struct Phase {
  const char* name;
  bool queries, documents;
};

void Sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

class ServeBench {
 public:
  explicit ServeBench(const ServeBenchOptions& options) : options_(options) {}
  absl::Status Run();
  absl::Status Work(std::istream& commands);

 private:
  absl::Status Load();
  absl::StatusOr<double> FindCapacity();
  bool Holds(double rate);
  absl::Status RunPhase(const Phase& phase, double rate, Json* result);
  void AddQueries(const QueryRun& run, Json* line);

  const ServeBenchOptions& options_;
  Json server_;  // what every line says of it
  uint32_t dimensions_ = 0;
  std::vector<std::string> documents_;
  std::unique_ptr<QueryLoad> queries_;
  double capacity_ = 0;
  double probe_p99_ms_ = 0;
  int64_t wrong_ = 0;
};

absl::Status ServeBench::Load() {
  if (options_.query_texts.empty()) {
    return absl::InvalidArgumentError("no file of queries: --queries, or OCTAVO_DATA");
  }
  if (options_.document_texts.empty() && options_.documents != "off" && !options_.find_capacity) {
    return absl::InvalidArgumentError(
        "no file of documents: --text, OCTAVO_DATA, or --documents=off");
  }
  auto texts = eval::ReadTexts(options_.query_texts, "question");
  if (!texts.ok()) texts = eval::ReadTexts(options_.query_texts, "text");
  if (!texts.ok()) return texts.status();
  if (texts->empty()) return absl::InvalidArgumentError("there are no queries");
  if (options_.documents != "off" && !options_.find_capacity) {
    auto documents = eval::ReadTexts(options_.document_texts, "text");
    if (!documents.ok()) return documents.status();
    auto titles = eval::ReadTexts(options_.document_texts, "title");
    for (size_t i = 0; titles.ok() && i < documents->size(); ++i) {
      (*documents)[i] = absl::StrCat((*titles)[i], " ", (*documents)[i]);
    }
    documents_ = *std::move(documents);
    if (documents_.empty()) return absl::InvalidArgumentError("there are no documents");
  }
  const client::Connection connection({.server = options_.server});
  auto info = connection.GetInfo();
  if (!info.ok()) return info.status();
  dimensions_ = info->dimensions();
  server_ = {{"bench", "serve"},
             {"server", options_.server},
             {"model", info->model()},
             {"revision", info->revision()}};
  for (const auto& lane : info->lanes()) server_[lane.name() + "_format"] = lane.format();
  queries_ =
      std::make_unique<QueryLoad>(options_.server, *std::move(texts), dimensions_, options_.seed);
  return absl::OkStatus();
}

// Does the query lane keep up with this rate?
bool ServeBench::Holds(double rate) {
  const QueryRun run =
      queries_->RunOpenLoop(rate, options_.probe_seconds, options_.probe_queries, kAnswerLimit);
  const double p99 = eval::Percentile(run.milliseconds, 99);
  wrong_ += run.wrong;
  int64_t failures = 0;
  for (const auto& [reason, count] : run.failures) failures += count;
  const bool holds = failures == 0 && p99 < options_.capacity_p99_ms;
  if (holds) probe_p99_ms_ = p99;
  *options_.log << absl::StrFormat("%.1f queries/s: p99 %.1f ms, %d refused, %d late: %s\n", rate,
                                   p99, failures, run.late, holds ? "holds" : "too many");
  return holds;
}

// Brackets the capacity from what a closed loop gets through, then halves the bracket to 5%.
absl::StatusOr<double> ServeBench::FindCapacity() {
  const double closed = queries_->RunClosedLoop(16, std::max(1.0, options_.warm_up_seconds));
  if (closed <= 0) return absl::UnavailableError("the server answered no query");
  *options_.log << absl::StrFormat("16 at a time: %.1f queries/s\n", closed);
  double low = 0, high = closed;
  while (high < closed * 64 && Holds(high)) {
    low = high;
    high *= 1.25;
  }
  while (low == 0) {
    const double rate = high / 2;
    if (rate < closed / 1024) return absl::UnavailableError("no rate holds");
    if (Holds(rate)) {
      low = rate;
    } else {
      high = rate;
    }
  }
  while (high / low > 1.05) {
    const double rate = (low + high) / 2;
    (Holds(rate) ? low : high) = rate;
  }
  return low;
}

void ServeBench::AddQueries(const QueryRun& run, Json* line) {
  const auto percentile = [&](double p) { return eval::Percentile(run.milliseconds, p); };
  (*line)["seconds"] = run.seconds;
  (*line)["queries"] = run.scheduled;
  (*line)["answered"] = run.milliseconds.size();
  if (!run.milliseconds.empty()) {
    (*line)["p50_ms"] = percentile(50);
    (*line)["p90_ms"] = percentile(90);
    (*line)["p99_ms"] = percentile(99);
    (*line)["max_ms"] = percentile(100);
    (*line)["queue_p99_ms"] = eval::Percentile(run.queue_milliseconds, 99);
    (*line)["compute_p50_ms"] = eval::Percentile(run.compute_milliseconds, 50);
  }
  (*line)["late"] = run.late;
  (*line)["failures"] = run.failures;
  (*line)["wrong"] = run.wrong;
  (*line)["query_tokens_per_second"] = static_cast<double>(run.tokens) / run.seconds;
  wrong_ += run.wrong;
}

absl::Status ServeBench::RunPhase(const Phase& phase, double rate, Json* result) {
  std::optional<DocumentLoad> stream;
  if (phase.documents) {
    stream.emplace(options_.server, documents_, dimensions_, DocumentLoad::Options{});
  }
  if (phase.queries) {
    wrong_ += queries_->RunOpenLoop(rate, options_.warm_up_seconds, 1, kAnswerLimit).wrong;
  } else {
    Sleep(options_.warm_up_seconds);
  }
  const auto begin = ServeClock::now();
  const DocumentLoad::Count before = stream ? stream->count() : DocumentLoad::Count{};
  *result = server_;
  (*result)["run"] = phase.name;
  if (phase.queries) {
    (*result)["rate"] = rate;
    if (capacity_ > 0) (*result)["capacity"] = capacity_;
    AddQueries(queries_->RunOpenLoop(rate, options_.seconds, options_.least_queries, kAnswerLimit),
               result);
  } else {
    Sleep(options_.seconds);
  }
  if (stream) {
    const DocumentLoad::Count after = stream->count();
    const double seconds = std::chrono::duration<double>(ServeClock::now() - begin).count();
    (*result)["documents_per_second"] =
        static_cast<double>(after.documents - before.documents) / seconds;
    (*result)["document_tokens_per_second"] =
        static_cast<double>(after.tokens - before.tokens) / seconds;
    (*result)["wrong_documents"] = after.wrong;
    wrong_ += after.wrong;
    if (absl::Status status = stream->status(); !status.ok()) return status;
  }
  *options_.output << result->dump() << std::endl;
  return absl::OkStatus();
}

// "25" or "10%": {value, is a share}.
absl::StatusOr<std::pair<double, bool>> ParseRate(const std::string& rate) {
  const bool share = !rate.empty() && rate.back() == '%';
  double value = 0;
  if (!absl::SimpleAtod(share ? rate.substr(0, rate.size() - 1) : rate, &value) || !(value > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("rate \"", rate, "\" is neither queries a second nor a share such as 10%"));
  }
  return std::pair<double, bool>(share ? value / 100 : value, share);
}

absl::StatusOr<std::vector<Phase>> ParsePhases(const std::string& documents) {
  const Phase alone{"queries", true, false};
  const Phase both{"queries beside documents", true, true};
  if (documents == "off") return std::vector<Phase>{alone};
  if (documents == "on") return std::vector<Phase>{both};
  if (documents == "compare") {
    return std::vector<Phase>{alone, both, Phase{"documents", false, true}};
  }
  return absl::InvalidArgumentError("documents is off, on or compare");
}

absl::Status ServeBench::Run() {
  auto rate = ParseRate(options_.rate);
  if (!rate.ok()) return rate.status();
  auto phases = ParsePhases(options_.documents);
  if (!phases.ok()) return phases.status();
  if (absl::Status status = Load(); !status.ok()) return status;

  if (options_.find_capacity || rate->second) {
    auto capacity = FindCapacity();
    if (!capacity.ok()) return capacity.status();
    capacity_ = *capacity;
    Json line = server_;
    line["run"] = "capacity";
    line["queries_per_second"] = capacity_;
    line["p99_ms"] = probe_p99_ms_;
    line["p99_limit_ms"] = options_.capacity_p99_ms;
    *options_.output << line.dump() << std::endl;
  }
  if (!options_.find_capacity) {
    const double per_second = rate->second ? rate->first * capacity_ : rate->first;
    std::vector<Json> results(phases->size());
    for (size_t i = 0; i < phases->size(); ++i) {
      const absl::Status status = RunPhase((*phases)[i], per_second, &results[i]);
      if (!status.ok()) return status;
    }
    if (results.size() == 3 && results[0].contains("p99_ms") && results[1].contains("p99_ms")) {
      Json line = server_;
      line["run"] = "difference";
      line["p50_ms_added"] =
          results[1]["p50_ms"].get<double>() - results[0]["p50_ms"].get<double>();
      line["p99_ms_added"] =
          results[1]["p99_ms"].get<double>() - results[0]["p99_ms"].get<double>();
      line["documents_per_second_with_queries"] = results[1]["documents_per_second"];
      line["documents_per_second_without"] = results[2]["documents_per_second"];
      *options_.output << line.dump() << std::endl;
    }
  }
  if (wrong_ == 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(wrong_, " answers were wrong"));
}

absl::Status ServeBench::Work(std::istream& commands) {
  if (absl::Status status = Load(); !status.ok()) return status;
  *options_.output << server_.dump() << std::endl;
  for (std::string line; std::getline(commands, line) && line != "quit";) {
    Json answer;
    if (line == "queries") {
      const QueryRun run = queries_->RunOneByOne(kWorkerQueries, kWorkerWarmUp);
      answer = {{"queries", run.scheduled},
                {"p50_ms", eval::Percentile(run.milliseconds, 50)},
                {"p99_ms", eval::Percentile(run.milliseconds, 99)},
                {"failures", run.failures},
                {"wrong", run.wrong},
                {"ms", run.milliseconds}};
    } else {
      answer = {{"error", absl::StrCat("unknown command \"", line, "\": queries or quit")}};
    }
    *options_.output << answer.dump() << std::endl;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunServeWorker(const ServeBenchOptions& options, std::istream& commands) {
  return ServeBench(options).Work(commands);
}

absl::Status RunServeBench(const ServeBenchOptions& options) { return ServeBench(options).Run(); }

}  // namespace octavo::bench
