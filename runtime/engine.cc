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
  absl::StatusOr<std::unique_ptr<Stream>> urgent = engine->stream_->OpenUrgent();
  if (!urgent.ok()) return urgent.status();
  engine->urgent_ = *std::move(urgent);
  for (Lane l : kAllLanes) {
    LaneState& lane = engine->lane(l);
    const int index = static_cast<int>(l);
    lane.lane = l;
    lane.forward = lanes[index];
    const bool urgent_lane = l == Lane::kQuery && engine->urgent_ != nullptr;
    lane.stream = urgent_lane ? engine->urgent_.get() : engine->stream_.get();
    // A batch takes at least one input, however long: the workspace holds that too.
    const int64_t tokens =
        std::max<int64_t>(max_batch_tokens[index], lane.forward->spec().max_tokens);
    absl::StatusOr<std::unique_ptr<ForwardPass>> pass =
        ForwardPass::Create(*lane.forward, l, *lane.stream, tokens);
    if (!pass.ok()) return pass.status();
    if (l == Lane::kQuery) {
      if (absl::Status status = (*pass)->Record(); !status.ok()) return status;
    }
    // A document batch can begin while the last unit of the one before runs.
    if (l == Lane::kDocument) lane.runs.push_back({.pass = (*pass)->Alternate()});
    lane.runs.push_back({.pass = *std::move(pass)});
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

absl::Status Engine::Start() {
  stream_->Bind();
  if (absl::Status status = Calibrate(); !status.ok()) return status;
  thread_ = std::thread([this] {
    Loop();
    if (!lost_.ok() && options_.lost) options_.lost(lost_);
  });
  return absl::OkStatus();
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

absl::Status Engine::Calibrate() {
  LaneState& documents = lane(Lane::kDocument);
  ForwardPass& pass = *documents.runs.front().pass;
  const int64_t rows = std::max(kCalibrationRows, documents.forward->backend().document_unit.least);
  const RaggedBatch batch =
      CalibrationBatch(documents.forward->spec(), 2 * rows * stream_->slots());
  // The first pass touches memory and caches; the second is measured.
  for (int round = 0; round < 2; ++round) {
    if (absl::Status status = pass.Begin(batch, rows); !status.ok()) return status;
    const uint64_t begin = stream_->Mark();
    while (pass.running()) pass.RunUnit();
    const uint64_t end = stream_->Mark();
    if (absl::Status status = stream_->Finish(); !status.ok()) return status;
    document_flops_per_second_ = documents.forward->BatchFlops(batch) /
                                 std::max(Seconds(stream_->Between(begin, end)), 1e-9);
  }
  return absl::OkStatus();
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
  for (const LaneState& lane : lanes_) bytes += lane.runs.front().pass->workspace_bytes();
  return bytes;
}

void Engine::Loop() {
  stream_->Bind();
  LaneState& queries = lane(Lane::kQuery);
  LaneState& documents = lane(Lane::kDocument);
  for (;;) {
    for (LaneState& lane : lanes_) Reap(lane);
    if (!lost_.ok()) return;
    const Time now = Clock::now();
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
      for (LaneState& lane : lanes_) {
        FailAll(lane, absl::UnavailableError("the server is shutting down"), now);
        (void)lane.stream->Finish();  // nothing is written once the thread has ended
      }
      return;
    }
    Decision decision;
    if (MayFindWork()) {
      decision = scheduler_->Next(documents.running != nullptr, now,
                                  static_cast<int>(documents.units.size()));
      Complete(std::move(decision.dropped));
    }
    switch (decision.step) {
      case Decision::Step::kBegin:
        Begin(std::move(decision.batch), now);
        break;
      case Decision::Step::kContinue:
        Submit(documents);
        break;
      case Decision::Step::kIdle:
        if (!queries.units.empty() || !documents.units.empty()) {
          // The device is done within microseconds: a sleep would be longer.
          std::this_thread::yield();
        } else if (finish) {
          return;
        } else {
          WaitForWork(seen);
        }
        break;
    }
  }
}

// Spares the scheduler's lock while the device is busy.
bool Engine::MayFindWork() const {
  const LaneState& queries = lanes_[static_cast<int>(Lane::kQuery)];
  const LaneState& documents = lanes_[static_cast<int>(Lane::kDocument)];
  if (!queries.units.empty()) return false;
  return documents.units.size() < Scheduler::kDocumentUnits || scheduler_->QueryWaiting();
}

void Engine::WaitForWork(uint64_t seen) {
  std::unique_lock<std::mutex> lock(mutex_);
  wake_.wait(lock, [&] { return wakes_ != seen || finish_; });
}

void Engine::Reap(LaneState& lane) {
  while (!lane.units.empty() && lane.stream->Reached(lane.units.front().end)) {
    const Unit unit = lane.units.front();
    const Time now = Clock::now();
    const Duration busy = lane.stream->Between(unit.begin, unit.end);
    if (absl::Status status = lane.stream->status(); !status.ok()) {
      return LoseDevice(status, now);
    }
    lane.units.pop_front();
    unit.run->compute += busy;
    if (lane.lane == Lane::kDocument) {
      const double rate = unit.flops / std::max(Seconds(busy), 1e-9);
      document_flops_per_second_ += kRateWeight * (rate - document_flops_per_second_);
    }
    scheduler_->Charge(lane.lane, busy, now);
    if (unit.last) Finish(lane, *unit.run, now);
  }
}

void Engine::Begin(Batch batch, Time now) {
  LaneState& lane = this->lane(batch.lane);
  Run& run = *std::find_if(lane.runs.begin(), lane.runs.end(),
                           [](const Run& run) { return run.batch.items.empty(); });
  run.batch = std::move(batch);
  run.compute = Duration{0};
  run.ragged.Clear();
  for (const Batch::Item& item : run.batch.items) {
    run.ragged.Add(item.job->inputs[item.input]);
  }
  run.batch.format = &lane.forward->format();
  run.batch.device = options_.device;
  const int64_t rows = lane.lane == Lane::kDocument ? UnitRows(run.ragged)
                                                    : lane.forward->backend().document_unit.most;
  if (absl::Status status = run.pass->Begin(run.ragged, rows); !status.ok()) {
    if (const absl::Status lost = lane.stream->status(); !lost.ok()) return LoseDevice(lost, now);
    if (observer_ != nullptr) observer_->OnDeviceError(options_.device, status);
    Fail(lane, run, status, now);
  } else {
    lane.running = &run;
    Submit(lane);
  }
}

// The next unit of documents, or a whole batch of queries.
void Engine::Submit(LaneState& lane) {
  Run& run = *lane.running;
  Unit unit;
  unit.run = &run;
  // A unit begins when the one before it ends.
  unit.begin = lane.units.empty() ? lane.stream->Mark() : lane.units.back().end;
  if (lane.lane == Lane::kDocument) {
    unit.flops = run.pass->NextUnitFlops();
    run.pass->RunUnit();
  } else {
    while (run.pass->running()) run.pass->RunUnit();
  }
  unit.end = lane.stream->Mark();
  unit.last = !run.pass->running();
  lane.units.push_back(unit);
  if (unit.last) lane.running = nullptr;
}

void Engine::Finish(LaneState& lane, Run& run, Time now) {
  const int64_t hidden = lane.forward->spec().hidden;
  const float* pooled = run.pass->pooled();
  BatchReport report;
  for (size_t i = 0; i < run.batch.items.size(); ++i) {
    const Batch::Item& item = run.batch.items[i];
    const float* row = pooled + static_cast<int64_t>(i) * hidden;
    if (!Finite(row, hidden)) {
      ++report.nonfinite_outputs;
      run.batch.statuses.resize(run.batch.items.size());
      run.batch.statuses[i] = absl::InternalError(
          absl::StrCat("the model's output for inputs[", item.input, "] is not finite"));
    }
    std::copy(row, row + hidden,
              item.job->vectors.begin() + static_cast<int64_t>(item.input) * hidden);
  }
  report.lane = run.batch.lane;
  report.format = &lane.forward->format();
  report.device = options_.device;
  report.inputs = run.ragged.sequences();
  report.tokens = run.ragged.tokens();
  report.compute_seconds = Seconds(run.compute);
  report.flops = lane.forward->BatchFlops(run.ragged);
  if (observer_ != nullptr) observer_->OnBatch(report);

  std::vector<std::shared_ptr<Job>> jobs =
      scheduler_->Finish(run.batch, absl::OkStatus(), run.compute, now);
  run.batch = Batch();
  if (IsQueryAlone(jobs)) {
    CallDone(std::move(jobs.front()));
  } else {
    Complete(std::move(jobs));
  }
}

bool Engine::IsQueryAlone(const std::vector<std::shared_ptr<Job>>& jobs) const {
  return jobs.size() == 1 && jobs.front()->lane == Lane::kQuery &&
         jobs.front()->inputs.size() == 1 && !scheduler_->QueryWaiting() &&
         lanes_[static_cast<int>(Lane::kDocument)].units.empty();
}

void Engine::Fail(LaneState& lane, Run& run, const absl::Status& status, Time now) {
  if (lane.running == &run) lane.running = nullptr;
  run.pass->Abandon();
  Complete(scheduler_->Finish(run.batch, status, run.compute, now));
  run.batch = Batch();
}

void Engine::FailAll(LaneState& lane, const absl::Status& status, Time now) {
  lane.units.clear();
  for (Run& run : lane.runs) {
    if (!run.batch.items.empty()) Fail(lane, run, status, now);
  }
}

void Engine::LoseDevice(const absl::Status& status, Time now) {
  lost_ = status;
  if (observer_ != nullptr) observer_->OnDeviceError(options_.device, status);
  for (LaneState& lane : lanes_) FailAll(lane, status, now);
}

void Engine::Complete(std::vector<std::shared_ptr<Job>> jobs) {
  for (std::shared_ptr<Job>& job : jobs) {
    const bool dropped = absl::IsCancelled(job->status) || absl::IsDeadlineExceeded(job->status);
    if (dropped && observer_ != nullptr) observer_->OnDropped(job->lane, job->status);
    completion_->Complete(std::move(job));
  }
}

}  // namespace octavo
