#include "tests/bench/profile_bench.h"

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tests/bench/timed_backend.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPartNames[kParts] = {
    "embed", "query_key_value", "attention", "attention_output", "up", "down",
    "norm",  "encode",          "pool"};
// Rows between two parts lie in a second-level cache, pooled ones a little farther off.
constexpr int64_t kCachedBytes = 512 << 10;  // a thread
constexpr int64_t kPooledBytes = 4 << 20;

// One pass over a lane's texts, in seconds of the machine: of all its threads at once.
struct Pass {
  double whole = 0;  // of the timed runtime, tokenizing included
  double plain = 0;  // of the plain one
  double tokenizer = 0;
  double without_gelu = 0;  // of up
  double rpc = 0;           // through the server, less `plain`
  PartTimes parts = {};
};

struct Bound {
  const char* what = nullptr;  // null: none
  double seconds = 0;
};

class ProfileBench {
 public:
  explicit ProfileBench(const ProfileBenchOptions& options)
      : options_(options), threads_(Threads(options.source)) {}

  absl::Status Run() {
    if (absl::Status status = Load(); !status.ok()) return status;
    for (int round = 0; round < std::max(1, options_.rounds); ++round) {
      ProfileBenchOptions::Served served;
      if (options_.served) {
        auto measured = options_.served(load_);
        if (!measured.ok()) return measured.status();
        served = *measured;
      }
      for (Lane lane : {Lane::kDocument, Lane::kQuery}) {
        auto pass = Measure(lane);
        if (!pass.ok()) return pass.status();
        const double through_server =
            lane == Lane::kQuery
                ? served.query_seconds * static_cast<double>(load_.query_count() - load_.warm_up())
                : served.document_seconds * static_cast<double>(load_.documents.size());
        pass->rpc = options_.served ? std::max(0.0, through_server - pass->plain) : 0;
        passes_[static_cast<int>(lane)].push_back(*pass);
      }
    }
    for (Lane lane : {Lane::kDocument, Lane::kQuery}) Report(lane);
    return absl::OkStatus();
  }

 private:
  absl::Status Load() {
    RuntimeOptions base = MakeRuntimeOptions(options_.source, options_.formats);
    {
      auto f32 = StartRuntime(options_.source, MakeRuntimeOptions(options_.source, {"f32", "f32"}));
      if (!f32.ok()) return f32.status();
      auto load = MakeWorkload(options_.load, **f32);
      if (!load.ok()) return load.status();
      load_ = *std::move(load);
      auto reference = MakeReference(**f32, load_);
      if (!reference.ok()) return reference.status();
      reference_ = *std::move(reference);
    }
    absl::StatusOr<const Backend*> backend = FindBackend(base.device);
    if (!backend.ok()) return backend.status();
    RuntimeOptions timed = base;
    timed.backend = &TimedBackend(**backend);
    for (auto [runtime_options, to] : {std::pair(&base, &plain_), std::pair(&timed, &timed_)}) {
      auto runtime = StartRuntime(options_.source, *runtime_options);
      if (!runtime.ok()) return runtime.status();
      *to = *std::move(runtime);
      auto agreement = Validate(**to, load_, reference_);
      if (!agreement.ok()) return agreement.status();
    }
    return absl::OkStatus();
  }

  // Seconds to tokenize the texts of a lane, on the calling thread.
  absl::StatusOr<double> Tokenize(const std::vector<std::string>& texts, Lane lane) {
    const auto start = std::chrono::steady_clock::now();
    auto ids = eval::TokenizeTexts(*plain_, lane, texts);
    if (!ids.ok()) return ids.status();
    return SecondsSince(start);
  }

  // Seconds to embed the ids of a lane: documents all at once, queries one by one.
  absl::StatusOr<double> Embed(Runtime& runtime, Lane lane) {
    if (lane == Lane::kDocument) return TimeDocuments(runtime, load_.documents);
    for (size_t i = 0; i < load_.warm_up(); ++i) {
      auto row = eval::EmbedTokens(runtime, lane, {load_.queries[i]}, 1);
      if (!row.ok()) return row.status();
    }
    TakePartTimes();
    const auto start = std::chrono::steady_clock::now();
    for (size_t i = load_.warm_up(); i < load_.query_count(); ++i) {
      auto row = eval::EmbedTokens(runtime, lane, {load_.queries[i]}, 1);
      if (!row.ok()) return row.status();
    }
    return SecondsSince(start);
  }

  absl::StatusOr<Pass> Measure(Lane lane) {
    Pass pass;
    std::vector<std::string> texts = load_.document_texts;
    if (lane == Lane::kQuery && !load_.query_texts.empty()) {
      texts.assign(load_.query_texts.begin() + static_cast<int64_t>(load_.warm_up()),
                   load_.query_texts.end());
    }
    if (!texts.empty()) {
      auto seconds = Tokenize(texts, lane);
      if (!seconds.ok()) return seconds.status();
      pass.tokenizer = lane == Lane::kQuery ? *seconds : *seconds / threads_;
    }
    auto plain = Embed(*plain_, lane);
    if (!plain.ok()) return plain.status();
    pass.plain = *plain + pass.tokenizer;
    LeaveOutGelu(true);
    TakePartTimes();
    auto without = Embed(*timed_, lane);
    LeaveOutGelu(false);
    if (!without.ok()) return without.status();
    pass.without_gelu = TakePartTimes()[static_cast<int>(Part::kUp)].core_seconds / threads_;
    auto timed = Embed(*timed_, lane);
    if (!timed.ok()) return timed.status();
    pass.parts = TakePartTimes();
    pass.whole = *timed + pass.tokenizer;
    return pass;
  }

  // What `part` of a pass over the lane takes at the least.
  Bound BoundOf(Part part, const PartTime& time, Lane lane) {
    const ModelSpec& spec = plain_->info().spec;
    const LaneDescription& description = plain_->info().lanes[static_cast<int>(lane)];
    const double rows = static_cast<double>(Tokens(lane)) * spec.hidden * sizeof(float);
    const double layers = static_cast<double>(spec.layers.size());
    const auto read = [&](double bytes, int64_t set) {
      return Bound{"reading rows", bytes / options_.read_rate(set, threads_)};
    };
    switch (part) {
      case Part::kEmbed:
        return read(2 * rows, static_cast<int64_t>(spec.vocabulary) * spec.hidden * sizeof(float));
      case Part::kNorm:
        return read(2 * rows * 2 * layers, kCachedBytes * threads_);
      case Part::kEncode:
        return {};  // which rows are encoded here, and which elsewhere, is up to the rows
      case Part::kPool:
        return read(rows, kPooledBytes);
      default:
        break;
    }
    double arithmetic = 0;
    for (int e = 0; e < kElements; ++e) {
      if (time.flops[e] == 0) continue;
      arithmetic += time.flops[e] / options_.peak_flops(static_cast<Element>(e), threads_);
    }
    const double weights = LinearWeightBytes(spec, *description.format);
    const double reading =
        time.weight_bytes / options_.read_rate(static_cast<int64_t>(weights), threads_);
    return reading > arithmetic ? Bound{"reading weights", reading}
                                : Bound{"arithmetic", arithmetic};
  }

  int64_t Tokens(Lane lane) const {
    if (lane == Lane::kDocument) return load_.document_tokens;
    int64_t tokens = 0;
    for (size_t i = load_.warm_up(); i < load_.query_count(); ++i) {
      tokens += static_cast<int64_t>(load_.queries[i].size());
    }
    return tokens;
  }

  // The median over a lane's passes.
  template <typename F>
  double Of(Lane lane, const F& value) {
    std::vector<double> values;
    for (const Pass& pass : passes_[static_cast<int>(lane)]) values.push_back(value(pass));
    return Median(values);
  }

  void Report(Lane lane) {
    const bool queries = lane == Lane::kQuery;
    const double texts = static_cast<double>(queries ? load_.query_count() - load_.warm_up()
                                                     : load_.documents.size());
    const double rpc = Of(lane, [](const Pass& pass) { return pass.rpc; });
    const double whole = Of(lane, [](const Pass& pass) { return pass.whole; }) + rpc;
    const LaneDescription& description = plain_->info().lanes[static_cast<int>(lane)];
    const Json head = {{"bench", "profile"},
                       {"what", queries ? "queries" : "documents"},
                       {"model", plain_->info().name},
                       {"format", std::string(description.format->name)},
                       {"threads", threads_}};
    if (options_.table != nullptr) {
      *options_.table << absl::StrFormat("\n%s, %s\n%-18s%12s%8s%12s%10s  %s\n",
                                         head["what"].get<std::string>(),
                                         head["format"].get<std::string>(), "part", "us a text",
                                         "share", "bound us", "of bound", "bound");
    }
    const auto print = [&](const char* name, double seconds, const Bound& bound) {
      Json line = head;
      line["part"] = name;
      line["us"] = seconds / texts * 1e6;
      line["share"] = seconds / whole;
      if (bound.what != nullptr) {
        line["bound"] = bound.what;
        line["bound_us"] = bound.seconds / texts * 1e6;
        line["share_of_bound"] = bound.seconds / seconds;
      }
      *options_.output << line.dump() << std::endl;
      if (options_.table == nullptr) return;
      *options_.table << absl::StrFormat("%-18s%12.2f%7.1f%%", name, seconds / texts * 1e6,
                                         100 * seconds / whole);
      if (bound.what != nullptr) {
        *options_.table << absl::StrFormat("%12.2f%9.0f%%  %s", bound.seconds / texts * 1e6,
                                           100 * bound.seconds / seconds, bound.what);
      }
      *options_.table << "\n";
    };

    const double tokenizer = Of(lane, [](const Pass& pass) { return pass.tokenizer; });
    double left = whole - rpc - tokenizer;
    print("tokenizer", tokenizer, {});
    for (int p = 0; p < kParts; ++p) {
      const Part part = static_cast<Part>(p);
      const PartTime& last = passes_[static_cast<int>(lane)].back().parts[p];
      if (last.calls == 0) continue;
      const double seconds =
          Of(lane, [&](const Pass& pass) { return pass.parts[p].core_seconds / threads_; });
      const Bound bound = BoundOf(part, last, lane);
      left -= seconds;
      if (part != Part::kUp) {
        print(kPartNames[p], seconds, bound);
        continue;
      }
      const double product =
          std::min(seconds, Of(lane, [](const Pass& pass) { return pass.without_gelu; }));
      print(kPartNames[p], product, bound);
      print("gelu_and_encode", seconds - product, {});
    }
    print("hand_offs", left, {});
    if (options_.served) print("rpc", rpc, {});
    Json line = head;
    line["part"] = "whole";
    line["us"] = whole / texts * 1e6;
    line["texts"] = texts;
    line["mean_tokens"] = static_cast<double>(Tokens(lane)) / texts;
    line["rounds"] = passes_[static_cast<int>(lane)].size();
    line["timing_overhead"] =
        Of(lane, [](const Pass& pass) { return pass.whole / pass.plain - 1; });
    *options_.output << line.dump() << std::endl;
    if (options_.table != nullptr) {
      *options_.table << absl::StrFormat("%-18s%12.2f\n", "whole", whole / texts * 1e6);
    }
  }

  const ProfileBenchOptions& options_;
  const int threads_;
  Workload load_;
  Reference reference_;
  std::unique_ptr<Runtime> plain_, timed_;
  std::vector<Pass> passes_[kLanes];
};

}  // namespace

absl::Status RunProfileBench(const ProfileBenchOptions& options) {
  if (absl::Status status = CheckSource(options.source); !status.ok()) return status;
  return ProfileBench(options).Run();
}

}  // namespace octavo::bench
