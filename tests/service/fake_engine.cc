#include "tests/service/fake_engine.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

class FakeTokenizer : public Tokenizer {
 public:
  absl::StatusOr<TokenizedText> Encode(std::string_view text, int max_tokens,
                                       Truncation truncation) const override {
    TokenizedText out;
    std::vector<int32_t> ids;
    EncodeOrdinary(text, &ids);
    const size_t room = static_cast<size_t>(max_tokens - special_tokens());
    if (ids.size() > room) {
      if (truncation == Truncation::kNone) {
        return absl::InvalidArgumentError(
            absl::StrCat(ids.size() + 2, " tokens, at most ", max_tokens));
      }
      out.truncated = true;
      if (truncation == Truncation::kEnd) {
        ids.resize(room);
      } else {
        ids.erase(ids.begin(), ids.end() - static_cast<int64_t>(room));
      }
    }
    out.ids.push_back(kFakeFirst);
    out.ids.insert(out.ids.end(), ids.begin(), ids.end());
    out.ids.push_back(kFakeLast);
    return out;
  }

  void EncodeOrdinary(std::string_view text, std::vector<int32_t>* ids) const override {
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = std::min(text.find(' ', begin), text.size());
      if (end > begin) ids->push_back(FakeId(text.substr(begin, end - begin)));
      begin = end + 1;
    }
  }

  int vocabulary_size() const override { return kFakeVocabulary; }
  int special_tokens() const override { return 2; }
};

}  // namespace

ModelInfo FakeModelInfo() {
  ModelInfo info;
  info.name = "fake";
  info.revision = "abc123";
  info.spec.architecture = "FakeModel";
  info.spec.hidden = kFakeHidden;
  info.spec.vocabulary = kFakeVocabulary;
  info.spec.max_tokens = kFakeMaxTokens;
  info.spec.normalize = true;
  info.spec.prompts = {{"query", "query: "}, {"code", "code: "}};
  info.spec.default_query_prompt = "query";
  info.devices = {{.name = "cpu", .memory_bytes = 4096}};
  LaneDescription& query = info.lanes[static_cast<int>(Lane::kQuery)];
  query = {*FindFormat("f32"), "rtn", {"fake_f32"}, {1000, 64}};
  LaneDescription& document = info.lanes[static_cast<int>(Lane::kDocument)];
  document = {*FindFormat("a8w8_int8"), "rtn", {"fake_a8w8_int8"}, {4000, 256}};
  return info;
}

int32_t FakeId(std::string_view word) {
  uint32_t hash = 2166136261u;
  for (char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 16777619u;
  return static_cast<int32_t>(10 + hash % (kFakeVocabulary - 10));
}

std::vector<int32_t> FakeIds(std::string_view text) {
  return FakeTokenizer().Encode(text, 1 << 30, Truncation::kNone)->ids;
}

std::vector<float> FakePooled(const std::vector<int32_t>& ids) {
  uint32_t hash = 2166136261u;
  for (int32_t id : ids) hash = (hash ^ static_cast<uint32_t>(id)) * 16777619u;
  std::vector<float> row(kFakeHidden);
  for (float& x : row) {
    hash = hash * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<int32_t>(hash >> 8) - (1 << 23)) / (1 << 22);
  }
  return row;
}

std::vector<float> FakeVector(std::string_view prompted_text) {
  std::vector<float> row = FakePooled(FakeIds(prompted_text));
  double squares = 0;
  for (float x : row) squares += static_cast<double>(x) * x;
  for (float& x : row) x = static_cast<float>(x / std::sqrt(squares));
  return row;
}

FakeEngine::FakeEngine(const ModelInfo& info, Observer* observer)
    : info_(info),
      observer_(observer),
      scheduler_(
          [&] {
            SchedulerOptions options;
            for (int lane = 0; lane < kLanes; ++lane) options.lanes[lane] = info.lanes[lane].limits;
            return options;
          }(),
          [this] {
            std::lock_guard<std::mutex> lock(mutex_);
            ++wakes_;
            changed_.notify_all();
          }) {
  thread_ = std::thread([this] { Loop(); });
}

FakeEngine::~FakeEngine() { Stop(); }

std::unique_ptr<const ServedModel> FakeEngine::Serve() {
  auto model = std::make_unique<ServedModel>();
  model->info = info_;
  model->tokenizer = std::make_shared<FakeTokenizer>();
  model->scheduler = &scheduler_;
  model->submit = [this](std::shared_ptr<Job> job) {
    if (!scheduler_.Submit(job, Clock::now())) completion_.Complete(std::move(job));
  };
  model->healthy = [this] { return healthy_.load(); };
  return model;
}

void FakeEngine::SetHang(bool hang) {
  std::lock_guard<std::mutex> lock(mutex_);
  hang_ = hang;
  changed_.notify_all();
}

bool FakeEngine::WaitUntilHung() {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, std::chrono::seconds(30), [&] { return hung_; });
}

std::vector<std::vector<int32_t>> FakeEngine::computed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return computed_;
}

void FakeEngine::Stop() {
  scheduler_.Stop();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    hang_ = false;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  completion_.Stop();
}

void FakeEngine::Complete(std::vector<std::shared_ptr<Job>> jobs) {
  for (std::shared_ptr<Job>& job : jobs) {
    if (absl::IsCancelled(job->status) || absl::IsDeadlineExceeded(job->status)) {
      ++dropped_jobs_;
      if (observer_ != nullptr) observer_->OnDropped(job->lane, job->status);
    }
    completion_.Complete(std::move(job));
  }
}

void FakeEngine::Loop() {
  while (true) {
    int64_t seen;
    bool stopping;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      seen = wakes_;
      stopping = stopping_;
    }
    Decision decision = scheduler_.Next(false, Clock::now());
    Complete(std::move(decision.dropped));
    if (decision.step == Decision::Step::kBegin) {
      Compute(decision.batch);
      continue;
    }
    if (stopping) break;
    std::unique_lock<std::mutex> lock(mutex_);
    // Also looks at times: jobs are dropped only when the engine asks.
    changed_.wait_for(lock, std::chrono::milliseconds(5),
                      [&] { return stopping_ || wakes_ != seen; });
  }
}

void FakeEngine::Compute(const Batch& batch) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    hung_ = hang_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return !hang_; });
    hung_ = false;
  }
  const Time begin = Clock::now();
  if (delay_ns_ > 0) std::this_thread::sleep_for(std::chrono::nanoseconds(delay_ns_));
  BatchReport report;
  report.lane = batch.lane;
  report.format = info_.lanes[static_cast<int>(batch.lane)].format;
  report.device = "cpu";
  for (const Batch::Item& item : batch.items) {
    Job& job = *item.job;
    if (job.vectors.empty()) job.vectors.resize(job.inputs.size() * kFakeHidden);
    const std::vector<float> row = FakePooled(job.inputs[item.input]);
    std::copy(row.begin(), row.end(),
              job.vectors.begin() + static_cast<int64_t>(item.input) * kFakeHidden);
    job.format = report.format;
    job.device = "cpu";
    if (nonfinite_) {
      job.status = absl::InternalError("the output is not finite");
      ++report.nonfinite_outputs;
    }
    ++report.inputs;
    report.tokens += static_cast<int64_t>(job.inputs[item.input].size());
    std::lock_guard<std::mutex> lock(mutex_);
    computed_.push_back(job.inputs[item.input]);
  }
  computed_inputs_ += report.inputs;
  const Time end = Clock::now();
  report.compute_seconds = std::chrono::duration<double>(end - begin).count();
  report.flops = 100.0 * static_cast<double>(report.tokens);
  const absl::Status status =
      failing_ ? absl::UnavailableError("the device was lost") : absl::OkStatus();
  if (observer_ != nullptr) observer_->OnBatch(report);
  if (observer_ != nullptr && !status.ok()) observer_->OnDeviceError("cpu", status);
  for (const Batch::Item& item : batch.items) item.job->compute_time += end - begin;
  scheduler_.Charge(batch.lane, end - begin, end);
  Complete(scheduler_.Finish(batch, status, end - begin, end));
}

}  // namespace octavo
