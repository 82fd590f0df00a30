#include "tests/bench/forward_bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoint.h"
#include "runtime/forward.h"
#include "runtime/forward_pass.h"
#include "tests/bench/evicting.h"
#include "tests/bench/loaded_device.h"

namespace octavo::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int kCheckedSequences = 4;
constexpr size_t kDistinctIds = 8;
// Once the mean of the reference is taken from both. With random weights the vectors of any two
// sequences have a cosine of 0.99; centred, another sequence's has about 0.
constexpr double kLeastCentredCosine = 0.5;
constexpr int kLeastQueries = 10;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// What a format's vectors are held against. Random weights lose too much to 4 bits to be told from
// a mistake, so these have the CPU's vectors in the same format.
std::string ReferenceFormat(const std::string& name) {
  const auto format = FindFormat(name);
  return format.ok() && (*format)->weight.element == Element::kInt4 ? name : "f32";
}

Lane LaneOf(int tokens) { return tokens == 0 ? Lane::kQuery : Lane::kDocument; }

RaggedBatch MakeBatch(const TokenIds& ids) {
  RaggedBatch batch;
  for (const std::vector<int32_t>& sequence : ids) batch.Add(sequence);
  return batch;
}

std::vector<float> MeanRow(const eval::Matrix& matrix) {
  std::vector<float> mean(matrix.columns);
  for (int64_t r = 0; r < matrix.rows; ++r) {
    for (int64_t c = 0; c < matrix.columns; ++c) {
      mean[c] += matrix.row(r)[c] / static_cast<float>(matrix.rows);
    }
  }
  return mean;
}

eval::Matrix Centred(eval::Matrix matrix, const std::vector<float>& centre) {
  for (size_t i = 0; i < matrix.values.size(); ++i) matrix.values[i] -= centre[i % centre.size()];
  return matrix;
}

// Of each query: from ids to vector, and of that the device's.
struct QueryTimes {
  std::vector<double> host_us, device_us;

  void Add(const QueryTimes& more) {
    host_us.insert(host_us.end(), more.host_us.begin(), more.host_us.end());
    device_us.insert(device_us.end(), more.device_us.begin(), more.device_us.end());
  }
};

// A format, loaded, and what it took.
struct Contender {
  const Format* format = nullptr;
  std::unique_ptr<Forward> forward;
  // Of documents: the second is prepared by the host while the device computes the first.
  std::unique_ptr<ForwardPass> documents[2];
  std::unique_ptr<ForwardPass> query;
  std::map<int, double> least_cosine;          // by tokens of a document; 0: of queries
  std::map<int, double> centred_cosine;        // mean
  std::map<int, std::vector<double>> seconds;  // a batch of documents, one entry a turn
  QueryTimes queries[2];                       // warm and cold
};

class ForwardBench {
 public:
  explicit ForwardBench(const ForwardBenchOptions& options) : options_(options) {}

  // Loads and validates.
  absl::Status Load();
  absl::Status Run();
  absl::Status Obey(std::istream& commands);

 private:
  absl::Status LoadFormat(const std::string& name);
  void MakeInputs();
  // The passes of a lane, for batches of any of the sizes.
  absl::Status MakePasses(Contender& contender, Lane lane);
  // Gives the device all of a batch.
  absl::Status Submit(ForwardPass& pass, const RaggedBatch& batch);
  // Pooled vectors of a whole batch.
  absl::StatusOr<eval::Matrix> Embed(Contender& contender, Lane lane, const RaggedBatch& batch);
  // Of the first sequences: documents of `tokens` in one batch, or queries (0) one by one.
  absl::StatusOr<eval::Matrix> EmbedChecked(Contender& contender, int tokens);
  absl::Status Validate(Contender& contender, const std::map<int, eval::Matrix>& reference);
  // Seconds of a batch, batches following each other.
  absl::StatusOr<double> TimeDocuments(Contender& contender, const RaggedBatch& batch,
                                       double seconds);
  absl::StatusOr<QueryTimes> TimeQueries(Contender& contender, bool cold, double seconds);
  absl::StatusOr<Json> Answer(const std::string& line);
  absl::StatusOr<Contender*> Find(const std::string& format);

  int64_t UnitRows() const {
    return options_.unit_rows > 0 ? options_.unit_rows : device_->backend().document_unit.most;
  }
  Json Head(const Contender& contender, Lane lane) const;
  Json DocumentLine(const Contender& contender, int tokens, const std::vector<double>& seconds);
  Json QueryLine(const Contender& contender, bool cold, const QueryTimes& times);

  const ForwardBenchOptions& options_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<LoadedDevice> device_;
  std::unique_ptr<Evicting> evicting_;
  std::map<int, TokenIds> ids_;  // by tokens of a document; 0: the query
  std::map<int, RaggedBatch> batches_;
  // Of the first sequences: by the format they were computed in on the CPU, and by tokens.
  std::map<std::string, std::map<int, eval::Matrix>> references_;
  std::vector<Contender> contenders_;
  std::vector<Json> skipped_;
  std::string wrong_;  // formats whose vectors are
};

void ForwardBench::MakeInputs() {
  const ModelSpec& spec = checkpoint_->spec();
  const int query_tokens = std::min(options_.query_tokens, spec.max_tokens);
  ids_[0] = RandomIds(std::vector<int>(kCheckedSequences, query_tokens), spec.vocabulary, 2);
  for (int tokens : options_.tokens) {
    ids_[tokens] = RandomIds(std::vector<int>(options_.batch, tokens), spec.vocabulary, 1);
  }
  // Those that are checked repeat a few ids: the mean of many random tokens is the same whatever
  // the sequence, up to less than 8 bits lose.
  for (auto& [tokens, ids] : ids_) {
    for (size_t i = 0; i < std::min<size_t>(ids.size(), kCheckedSequences); ++i) {
      for (size_t t = kDistinctIds; t < ids[i].size(); ++t) ids[i][t] = ids[i][t - kDistinctIds];
    }
    batches_[tokens] = MakeBatch(tokens == 0 ? TokenIds{ids.front()} : ids);
  }
}

absl::Status ForwardBench::Load() {
  auto opened_checkpoint = OpenCheckpoint(options_.source);
  if (!opened_checkpoint.ok()) return opened_checkpoint.status();
  checkpoint_ = *std::move(opened_checkpoint);
  for (int tokens : options_.tokens) {
    if (tokens < 1 || tokens > checkpoint_->spec().max_tokens) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a document has 1 to ", checkpoint_->spec().max_tokens, " tokens, not ", tokens));
    }
  }
  MakeInputs();

  const Clock::time_point start = Clock::now();
  auto cpu = LoadedDevice::Open("cpu", options_.source, *checkpoint_);
  if (!cpu.ok()) return cpu.status();
  device_ = *std::move(cpu);
  for (const std::string& format : options_.formats) {
    const std::string name = ReferenceFormat(format);
    if (references_.contains(name)) continue;
    auto forward = device_->Load(*checkpoint_, name);
    if (!forward.ok()) return forward.status();
    Contender truth = {.format = &(*forward)->format(), .forward = *std::move(forward)};
    for (const auto& [tokens, ids] : ids_) {
      auto vectors = EmbedChecked(truth, tokens);
      if (!vectors.ok()) return vectors.status();
      references_[name][tokens] = *std::move(vectors);
    }
  }
  *options_.log << "on the CPU: " << SecondsSince(start) << " s" << std::endl;

  auto opened = LoadedDevice::Open(options_.source.device, options_.source, *checkpoint_);
  if (!opened.ok()) return opened.status();
  device_ = *std::move(opened);
  auto evicting = Evicting::Create(device_->backend());
  if (!evicting.ok()) return evicting.status();
  evicting_ = std::make_unique<Evicting>(*std::move(evicting));
  for (const std::string& format : options_.formats) {
    if (absl::Status status = LoadFormat(format); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status ForwardBench::LoadFormat(const std::string& name) {
  const Clock::time_point start = Clock::now();
  auto forward = device_->Load(*checkpoint_, name);
  if (absl::IsFailedPrecondition(forward.status())) {
    skipped_.push_back({{"bench", "model"},
                        {"device", options_.source.device},
                        {"model", checkpoint_->name()},
                        {"format", name},
                        {"skipped", std::string(forward.status().message())}});
    return absl::OkStatus();
  }
  if (!forward.ok()) return forward.status();
  contenders_.push_back({.format = &(*forward)->format(), .forward = *std::move(forward)});
  const double loaded = SecondsSince(start);
  const absl::Status valid = Validate(contenders_.back(), references_[ReferenceFormat(name)]);
  *options_.log << name << ": loaded in " << loaded << " s, validated in "
                << SecondsSince(start) - loaded << " s: " << valid.ToString() << std::endl;
  if (absl::IsInternal(valid)) {  // not timed; the others are
    contenders_.pop_back();
    wrong_ += absl::StrCat(wrong_.empty() ? "" : "; ", valid.message());
    return absl::OkStatus();
  }
  return valid;
}

absl::Status ForwardBench::MakePasses(Contender& contender, Lane lane) {
  std::unique_ptr<ForwardPass>& made =
      lane == Lane::kQuery ? contender.query : contender.documents[0];
  if (made != nullptr) return absl::OkStatus();
  int64_t tokens = 0;
  for (const auto& [length, batch] : batches_) {
    if (LaneOf(length) == lane) tokens = std::max(tokens, batch.tokens());
  }
  auto pass = ForwardPass::Create(*contender.forward, lane, device_->stream(), tokens);
  if (!pass.ok()) return pass.status();
  made = *std::move(pass);
  if (lane == Lane::kQuery) return made->Record();
  contender.documents[1] = made->Alternate();
  return absl::OkStatus();
}

absl::Status ForwardBench::Submit(ForwardPass& pass, const RaggedBatch& batch) {
  if (absl::Status status = pass.Begin(batch, UnitRows()); !status.ok()) return status;
  while (pass.running()) pass.RunUnit();
  return absl::OkStatus();
}

absl::StatusOr<eval::Matrix> ForwardBench::Embed(Contender& contender, Lane lane,
                                                 const RaggedBatch& batch) {
  if (absl::Status status = MakePasses(contender, lane); !status.ok()) return status;
  ForwardPass& pass = lane == Lane::kQuery ? *contender.query : *contender.documents[0];
  if (absl::Status status = Submit(pass, batch); !status.ok()) return status;
  if (absl::Status status = device_->stream().Finish(); !status.ok()) return status;
  eval::Matrix vectors = {batch.sequences(), checkpoint_->spec().hidden, {}};
  vectors.values.assign(pass.pooled(), pass.pooled() + vectors.rows * vectors.columns);
  return vectors;
}

absl::StatusOr<eval::Matrix> ForwardBench::EmbedChecked(Contender& contender, int tokens) {
  const TokenIds& ids = ids_[tokens];
  const size_t count = std::min<size_t>(ids.size(), kCheckedSequences);
  if (tokens > 0) {
    return Embed(contender, Lane::kDocument, MakeBatch({ids.begin(), ids.begin() + count}));
  }
  eval::Matrix vectors;
  for (size_t i = 0; i < count; ++i) {
    auto vector = Embed(contender, Lane::kQuery, MakeBatch({ids[i]}));
    if (!vector.ok()) return vector.status();
    vectors.rows += 1;
    vectors.columns = vector->columns;
    vectors.values.insert(vectors.values.end(), vector->values.begin(), vector->values.end());
  }
  return vectors;
}

absl::Status ForwardBench::Validate(Contender& contender,
                                    const std::map<int, eval::Matrix>& references) {
  for (const auto& [tokens, batch] : batches_) {
    const std::string what =
        absl::StrCat(View(contender.format->name), ", sequences of ", tokens, " tokens");
    auto whole = Embed(contender, LaneOf(tokens), batch);
    if (!whole.ok()) return whole.status();
    if (!std::all_of(whole->values.begin(), whole->values.end(),
                     [](float value) { return std::isfinite(value); })) {
      return absl::InternalError(absl::StrCat("vectors of ", what, " are not finite"));
    }
    auto vectors = EmbedChecked(contender, tokens);
    if (!vectors.ok()) return vectors.status();
    // In a batch as alone or among few.
    std::copy(whole->values.begin(), whole->values.begin() + vectors->columns,
              vectors->values.begin());
    const eval::Matrix& reference = references.at(tokens);
    if (auto mean = CheckCosines(*vectors, reference, what); !mean.ok()) return mean.status();
    const std::vector<double> cosines = eval::RowCosines(*vectors, reference);
    contender.least_cosine[tokens] = *std::min_element(cosines.begin(), cosines.end());
    const std::vector<float> centre = MeanRow(reference);
    const double centred =
        eval::Mean(eval::RowCosines(Centred(*vectors, centre), Centred(reference, centre)));
    if (reference.rows > 1 && !(centred >= kLeastCentredCosine)) {
      return absl::InternalError(
          absl::StrCat("the vectors of ", what, " are wrong: mean centred cosine ", centred));
    }
    contender.centred_cosine[tokens] = centred;
  }
  return absl::OkStatus();
}

absl::StatusOr<double> ForwardBench::TimeDocuments(Contender& contender, const RaggedBatch& batch,
                                                   double seconds) {
  Stream& stream = device_->stream();
  uint64_t marks[2] = {0, 0};
  int64_t batches = -2;  // those that warm up
  Clock::time_point start;
  do {
    if (batches == 0) {
      if (absl::Status status = stream.Finish(); !status.ok()) return status;
      start = Clock::now();
    }
    const size_t turn = batches & 1;
    while (marks[turn] != 0 && !stream.Reached(marks[turn])) {
    }
    if (absl::Status status = Submit(*contender.documents[turn], batch); !status.ok()) {
      return status;
    }
    marks[turn] = stream.Mark();
    ++batches;
  } while (batches < 1 || SecondsSince(start) < seconds);
  if (absl::Status status = stream.Finish(); !status.ok()) return status;
  return SecondsSince(start) / static_cast<double>(batches);
}

absl::StatusOr<QueryTimes> ForwardBench::TimeQueries(Contender& contender, bool cold,
                                                     double seconds) {
  Stream& stream = device_->stream();
  const RaggedBatch& query = batches_[0];
  QueryTimes times;
  const Clock::time_point begin = Clock::now();
  for (int i = -kLeastQueries; i < kLeastQueries || SecondsSince(begin) < seconds; ++i) {
    if (cold) evicting_->Touch(stream);
    if (absl::Status status = stream.Finish(); !status.ok()) return status;
    const Clock::time_point start = Clock::now();
    const uint64_t first = stream.Mark();
    if (absl::Status status = Submit(*contender.query, query); !status.ok()) return status;
    const uint64_t last = stream.Mark();
    if (absl::Status status = stream.Finish(); !status.ok()) return status;
    if (i < 0) continue;
    times.host_us.push_back(1e6 * SecondsSince(start));
    times.device_us.push_back(
        std::chrono::duration<double, std::micro>(stream.Between(first, last)).count());
  }
  return times;
}

Json ForwardBench::Head(const Contender& contender, Lane lane) const {
  return {{"bench", "model"},
          {"what", lane == Lane::kQuery ? "query" : "documents"},
          {"device", options_.source.device},
          {"model", checkpoint_->name()},
          {"format", std::string(contender.format->name)},
          {"kernels", contender.forward->kernel_names(lane)}};
}

Json ForwardBench::DocumentLine(const Contender& contender, int tokens,
                                const std::vector<double>& seconds) {
  const double all_tokens = static_cast<double>(batches_[tokens].tokens());
  const double median = Median(seconds);
  const double flops = Flops(checkpoint_->spec(), ids_[tokens]);
  Json line = Head(contender, Lane::kDocument);
  line.update(
      {{"batch", options_.batch},
       {"tokens", tokens},
       {"cosine_min", contender.least_cosine.at(tokens)},
       {"centred_cosine_mean", contender.centred_cosine.at(tokens)},
       {"rounds", seconds.size()},
       {"us", median * 1e6},
       {"tokens_per_second", all_tokens / median},
       {"best_tokens_per_second", all_tokens / *std::min_element(seconds.begin(), seconds.end())},
       {"tflops", flops / median * 1e-12}});
  if (options_.peak_flops) {
    const Element arithmetic = contender.format->activation.element;
    if (const double peak = options_.peak_flops(arithmetic); peak > 0) {
      line["share_of_peak"] = flops / median / peak;
    }
  }
  return line;
}

Json ForwardBench::QueryLine(const Contender& contender, bool cold, const QueryTimes& times) {
  Json line = Head(contender, Lane::kQuery);
  line.update({{"tokens", batches_[0].tokens()},
               {"cache", cold ? "cold" : "warm"},
               {"cosine_min", contender.least_cosine.at(0)},
               {"centred_cosine_mean", contender.centred_cosine.at(0)},
               {"queries", times.host_us.size()},
               {"p50_us", Median(times.host_us)},
               {"p99_us", eval::Percentile(times.host_us, 99)},
               {"device_us", Median(times.device_us)}});
  return line;
}

absl::Status ForwardBench::Run() {
  for (const Json& line : skipped_) *options_.output << line.dump() << std::endl;
  for (int round = 0; round < std::max(1, options_.rounds); ++round) {
    for (size_t turn = 0; turn < contenders_.size(); ++turn) {
      // Everyone goes first once in a while.
      Contender& contender = contenders_[(turn + round) % contenders_.size()];
      for (int tokens : options_.tokens) {
        auto seconds = TimeDocuments(contender, batches_[tokens], options_.seconds);
        if (!seconds.ok()) return seconds.status();
        contender.seconds[tokens].push_back(*seconds);
      }
      for (bool cold : {false, true}) {
        auto times = TimeQueries(contender, cold, options_.seconds / 4);
        if (!times.ok()) return times.status();
        contender.queries[cold].Add(*times);
      }
    }
  }
  for (const Contender& contender : contenders_) {
    for (int tokens : options_.tokens) {
      *options_.output << DocumentLine(contender, tokens, contender.seconds.at(tokens)).dump()
                       << std::endl;
    }
    for (bool cold : {false, true}) {
      *options_.output << QueryLine(contender, cold, contender.queries[cold]).dump() << std::endl;
    }
  }
  return wrong_.empty() ? absl::OkStatus() : absl::InternalError(wrong_);
}

absl::StatusOr<Contender*> ForwardBench::Find(const std::string& format) {
  auto found = FindFormat(format);
  if (!found.ok()) return found.status();
  for (Contender& contender : contenders_) {
    if (contender.format == *found) return &contender;
  }
  return absl::InvalidArgumentError(absl::StrCat(format, " is not loaded"));
}

absl::StatusOr<Json> ForwardBench::Answer(const std::string& line) {
  std::istringstream words(line);
  std::string command, format, temperature, path;
  int tokens = 0;
  words >> command;
  if (command == "ids") {
    words >> tokens >> path;
    if (!batches_.contains(tokens)) return absl::InvalidArgumentError("no such TOKENS");
    const RaggedBatch& batch = batches_[tokens];
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(batch.ids.data()),
               static_cast<std::streamsize>(batch.ids.size() * sizeof(int32_t)));
    if (!file.flush()) return absl::InvalidArgumentError(absl::StrCat("cannot write ", path));
    return Json{{"rows", batch.sequences()}, {"columns", batch.tokens() / batch.sequences()}};
  }
  words >> format;
  auto contender = Find(format);
  if (!contender.ok()) return contender.status();
  if (command == "query") {
    words >> temperature;
    auto times = TimeQueries(**contender, temperature == "cold", options_.seconds);
    if (!times.ok()) return times.status();
    return QueryLine(**contender, temperature == "cold", *times);
  }
  words >> tokens >> path;
  if (!batches_.contains(tokens)) return absl::InvalidArgumentError("no such TOKENS");
  if (command == "documents") {
    double turn = 0;
    if (!absl::SimpleAtod(path, &turn)) turn = options_.seconds;
    auto seconds = TimeDocuments(**contender, batches_[tokens], turn);
    if (!seconds.ok()) return seconds.status();
    return DocumentLine(**contender, tokens, {*seconds});
  }
  if (command == "vectors") {
    auto vectors = Embed(**contender, LaneOf(tokens), batches_[tokens]);
    if (!vectors.ok()) return vectors.status();
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(vectors->values.data()),
               static_cast<std::streamsize>(vectors->values.size() * sizeof(float)));
    if (!file.flush()) return absl::InvalidArgumentError(absl::StrCat("cannot write ", path));
    return Json{{"rows", vectors->rows}, {"columns", vectors->columns}};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown command \"", command, "\": documents, query, vectors, ids or quit"));
}

absl::Status ForwardBench::Obey(std::istream& commands) {
  Json ready = {{"device", options_.source.device}, {"formats", Json::array()}};
  for (const Contender& contender : contenders_) {
    ready["formats"].push_back(std::string(contender.format->name));
  }
  ready["skipped"] = skipped_;
  ready["wrong"] = wrong_;
  *options_.output << ready.dump() << std::endl;
  for (std::string line; std::getline(commands, line) && line != "quit";) {
    auto answer = Answer(line);
    const Json json = answer.ok() ? *answer : Json{{"error", answer.status().ToString()}};
    *options_.output << json.dump() << std::endl;
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const ForwardBenchOptions& options) {
  if (options.formats.empty()) return absl::InvalidArgumentError("no format to measure");
  if (options.batch < 1 || options.tokens.empty()) {
    return absl::InvalidArgumentError("a batch has at least one sequence and one token");
  }
  return CheckSource(options.source);
}

}  // namespace

absl::Status RunForwardBench(const ForwardBenchOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  ForwardBench bench(options);
  if (absl::Status status = bench.Load(); !status.ok()) return status;
  return bench.Run();
}

absl::Status RunForwardWorker(const ForwardBenchOptions& options, std::istream& commands) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  ForwardBench bench(options);
  if (absl::Status status = bench.Load(); !status.ok()) return status;
  return bench.Obey(commands);
}

}  // namespace octavo::bench
