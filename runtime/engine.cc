#include "runtime/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

constexpr int64_t kCalibrationRows = 64;
// Weight of a new measurement in the moving average of the document rate.
constexpr double kRateWeight = 0.05;

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

// Sequences of typical length, to measure with before there is traffic.
RaggedBatch CalibrationBatch(const ModelSpec& spec, int64_t tokens) {
  RaggedBatch batch;
  const int64_t length = std::min<int64_t>(spec.max_tokens, 128);
  uint32_t state = 1;
  while (batch.tokens() < tokens) {
    std::vector<int32_t> ids(std::min(length, tokens - batch.tokens()));
    for (int32_t& id : ids) {
      state = state * 1664525u + 1013904223u;
      id = static_cast<int32_t>(state % static_cast<uint32_t>(spec.vocabulary));
    }
    batch.Add(ids);
  }
  return batch;
}

bool Finite(const float* row, int64_t columns) {
  return std::all_of(row, row + columns, [](float x) { return std::isfinite(x); });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(
    Options options, const Forward* const (&lanes)[kLanes],
    const int64_t (&max_batch_tokens)[kLanes], std::unique_ptr<Stream> stream, Scheduler* scheduler,
    CompletionThread* completion, Observer* observer) {
  std::unique_ptr<Engine> engine(
      new Engine(std::move(options), std::move(stream), scheduler, completion, observer));
  for (int l = 0; l < kLanes; ++l) {
    LaneState& lane = engine->lanes_[l];
    lane.forward = lanes[l];
    // A batch takes at least one input, however long: the workspace holds that too.
    const int64_t tokens = std::max<int64_t>(max_batch_tokens[l], lane.forward->spec().max_tokens);
    absl::StatusOr<std::unique_ptr<ForwardPass>> pass =
        ForwardPass::Create(*lane.forward, kAllLanes[l], *engine->stream_, tokens);
    if (!pass.ok()) return pass.status();
    lane.pass = *std::move(pass);
  }
  return engine;
}

Engine::Engine(Options options, std::unique_ptr<Stream> stream, Scheduler* scheduler,
               CompletionThread* completion, Observer* observer)
    : options_(std::move(options)),
      stream_(std::move(stream)),
      scheduler_(scheduler),
      completion_(completion),
      observer_(observer) {}

Engine::~Engine() { FinishAndJoin(Clock::now()); }

void Engine::Start() {
  Calibrate();
  thread_ = std::thread([this] { Loop(); });
}

void Engine::Wake() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++wakes_;
  }
  wake_.notify_one();
}

void Engine::FinishAndJoin(Time deadline) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    finish_ = true;
    finish_deadline_ = deadline;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void Engine::Calibrate() {
  LaneState& lane = lanes_[static_cast<int>(Lane::kDocument)];
  const RaggedBatch batch =
      CalibrationBatch(lane.forward->spec(), 2 * kCalibrationRows * stream_->slots());
  // The first pass touches memory and caches; the second is measured.
  for (int round = 0; round < 2; ++round) {
    if (!lane.pass->Begin(batch, kCalibrationRows).ok()) return;
    const Time begin = Clock::now();
    while (lane.pass->running()) lane.pass->RunUnit();
    if (!stream_->Finish().ok()) return;
    document_flops_per_second_ = lane.forward->BatchFlops(batch) / Seconds(Clock::now() - begin);
  }
}

int64_t Engine::UnitRows(const RaggedBatch& batch) const {
  const Forward& forward = *lanes_[static_cast<int>(Lane::kDocument)].forward;
  const double stages = static_cast<double>(forward.spec().layers.size());
  const double row_flops = forward.BatchFlops(batch) / stages /
                           static_cast<double>(std::max<int64_t>(batch.tokens(), 1));
  const double unit_flops =
      document_flops_per_second_ * std::chrono::duration<double>(options_.step).count();
  const double rows = unit_flops / row_flops / stream_->slots();
  const octavo::UnitRows limits = forward.backend().document_unit;
  return std::clamp(static_cast<int64_t>(rows), limits.least, limits.most);
}

int64_t Engine::workspace_bytes() const {
  int64_t bytes = 0;
  for (const LaneState& lane : lanes_) bytes += lane.pass->bytes();
  return bytes;
}

void Engine::Loop() {
  stream_->Bind();
  for (;;) {
    const Time now = Clock::now();
    LaneState& documents = lanes_[static_cast<int>(Lane::kDocument)];
    uint64_t seen;
    bool finish;
    bool abandon;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      seen = wakes_;
      finish = finish_;
      abandon = finish_ && now >= finish_deadline_;
    }
    if (abandon) {
      if (documents.pass->running()) {
        Fail(documents, absl::UnavailableError("the server is shutting down"), now);
      }
      return;
    }
    Decision decision = scheduler_->Next(documents.pass->running(), now);
    Complete(std::move(decision.dropped));
    switch (decision.step) {
      case Decision::Step::kBegin:
        Begin(std::move(decision.batch), now);
        break;
      case Decision::Step::kContinue:
        RunDocumentUnit();
        break;
      case Decision::Step::kIdle:
        if (finish) return;
        WaitForWork(seen);
        break;
    }
  }
}

void Engine::WaitForWork(uint64_t seen) {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [&] { return wakes_ != seen || finish_; });
}

void Engine::Begin(Batch batch, Time now) {
  LaneState& lane = lanes_[static_cast<int>(batch.lane)];
  lane.batch = std::move(batch);
  lane.compute = Duration{0};
  lane.ragged.Clear();
  for (const Batch::Item& item : lane.batch.items) {
    lane.ragged.Add(item.job->inputs[item.input]);
  }
  lane.batch.format = &lane.forward->format();
  lane.batch.device = options_.device;
  const bool documents = lane.batch.lane == Lane::kDocument;
  const int64_t rows =
      documents ? UnitRows(lane.ragged) : lane.forward->backend().document_unit.most;
  if (absl::Status status = lane.pass->Begin(lane.ragged, rows); !status.ok()) {
    if (observer_ != nullptr) observer_->OnDeviceError(options_.device, status);
    Fail(lane, status, now);
  } else if (documents) {
    RunDocumentUnit();
  } else {
    RunQueries();
  }
}

void Engine::RunDocumentUnit() {
  LaneState& lane = lanes_[static_cast<int>(Lane::kDocument)];
  const double flops = lane.pass->NextUnitFlops();
  const Time begin = Clock::now();
  lane.pass->RunUnit();
  const absl::Status status = stream_->Finish();
  const Time end = Clock::now();
  lane.compute += end - begin;
  const double rate = flops / std::max(Seconds(end - begin), 1e-9);
  document_flops_per_second_ += kRateWeight * (rate - document_flops_per_second_);
  scheduler_->Charge(Lane::kDocument, end - begin, end);
  if (!status.ok()) {
    LoseDevice(lane, status, end);
  } else if (!lane.pass->running()) {
    Finish(lane, end);
  }
}

void Engine::RunQueries() {
  LaneState& lane = lanes_[static_cast<int>(Lane::kQuery)];
  const Time begin = Clock::now();
  while (lane.pass->running()) lane.pass->RunUnit();
  const absl::Status status = stream_->Finish();
  const Time end = Clock::now();
  lane.compute = end - begin;
  scheduler_->Charge(Lane::kQuery, end - begin, end);
  if (!status.ok()) return LoseDevice(lane, status, end);
  Finish(lane, end);
}

void Engine::Finish(LaneState& lane, Time now) {
  const int64_t hidden = lane.forward->spec().hidden;
  const float* pooled = lane.pass->pooled();
  BatchReport report;
  for (size_t i = 0; i < lane.batch.items.size(); ++i) {
    const Batch::Item& item = lane.batch.items[i];
    const float* row = pooled + static_cast<int64_t>(i) * hidden;
    if (!Finite(row, hidden)) {
      ++report.nonfinite_outputs;
      lane.batch.statuses.resize(lane.batch.items.size());
      lane.batch.statuses[i] = absl::InternalError(
          absl::StrCat("the model's output for inputs[", item.input, "] is not finite"));
    }
    std::copy(row, row + hidden,
              item.job->vectors.begin() + static_cast<int64_t>(item.input) * hidden);
  }
  report.lane = lane.batch.lane;
  report.format = &lane.forward->format();
  report.device = options_.device;
  report.inputs = lane.ragged.sequences();
  report.tokens = lane.ragged.tokens();
  report.compute_seconds = Seconds(lane.compute);
  report.flops = lane.forward->BatchFlops(lane.ragged);
  if (observer_ != nullptr) observer_->OnBatch(report);

  Complete(scheduler_->Finish(lane.batch, absl::OkStatus(), lane.compute, now));
  lane.batch = Batch();
}

void Engine::Fail(LaneState& lane, const absl::Status& status, Time now) {
  Complete(scheduler_->Finish(lane.batch, status, lane.compute, now));
  lane.batch = Batch();
}

void Engine::LoseDevice(LaneState& lane, const absl::Status& status, Time now) {
  if (observer_ != nullptr) observer_->OnDeviceError(options_.device, status);
  lane.pass->Abandon();
  Fail(lane, status, now);
}

void Engine::Complete(std::vector<std::shared_ptr<Job>> jobs) {
  for (std::shared_ptr<Job>& job : jobs) {
    const bool dropped = absl::IsCancelled(job->status) || absl::IsDeadlineExceeded(job->status);
    if (dropped && observer_ != nullptr) observer_->OnDropped(job->lane, job->status);
    completion_->Complete(std::move(job));
  }
}

}  // namespace octavo
