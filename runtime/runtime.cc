#include "runtime/runtime.h"

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/completion.h"
#include "runtime/engine.h"
#include "runtime/forward.h"

namespace octavo {
namespace {

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::StatusOr<Method> ChooseMethod(const Format& format, const std::string& name) {
  if (!name.empty()) return FindMethod(name);
  const bool float_zero = format.weight.zero == Zero::kF16 || format.weight.zero == Zero::kF32;
  return float_zero ? Method::kHqq : Method::kRoundToNearest;
}

// Reads --kernel_plan if it exists. A plan of another machine is not used, and is replaced.
absl::Status ReadPlan(const std::string& file, LinearPlanner* planner) {
  std::ifstream stream(file);
  if (file.empty() || !stream) return absl::OkStatus();
  const std::string json{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  const absl::Status status = planner->LoadJson(json);
  if (status.ok()) return status;
  if (!absl::IsFailedPrecondition(status)) {
    return absl::Status(status.code(),
                        absl::StrCat("--kernel_plan=", file, ": ", status.message()));
  }
  std::cerr << "kernel plan " << file << " is made anew: " << status.message() << "\n";
  return absl::OkStatus();
}

absl::Status WritePlan(const std::string& file, const LinearPlanner& planner) {
  if (file.empty()) return absl::OkStatus();
  const std::string temporary = file + ".new";
  std::ofstream stream(temporary, std::ios::trunc);
  stream << planner.ToJson() << "\n";
  stream.close();
  if (!stream || std::rename(temporary.c_str(), file.c_str()) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kernel_plan=", file, " can't be written: ", std::strerror(errno),
        "; name a file in a folder that exists and is writable, or leave the flag out"));
  }
  return absl::OkStatus();
}

std::vector<int32_t> WarmUpTokens(const ModelSpec& spec) {
  return std::vector<int32_t>(std::min(8, spec.max_tokens), spec.vocabulary / 2);
}

}  // namespace

RuntimeOptions DefaultRuntimeOptions() {
  RuntimeOptions options;
  options.lanes[static_cast<int>(Lane::kQuery)] = {"a16w4_int4", "", 256, 16384};
  options.lanes[static_cast<int>(Lane::kDocument)] = {"a8w8_int8", "", 2048, 262144};
  return options;
}

struct Runtime::State {
  ModelInfo info;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const SharedWeights> shared;
  std::vector<std::unique_ptr<Forward>> forwards;  // one a distinct (format, method)
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<CompletionThread> completion;
  std::unique_ptr<Engine> engine;
  Observer* observer = nullptr;
  std::atomic<bool> running{false};
  std::mutex stop_mutex;
};

namespace {

struct LanePlan {
  const Format* format = nullptr;
  Method method = Method::kRoundToNearest;
  const Forward* forward = nullptr;
};

absl::StatusOr<LanePlan> PlanLane(const LaneOptions& options) {
  LanePlan plan;
  absl::StatusOr<const Format*> format = FindFormat(options.format);
  if (!format.ok()) return format.status();
  plan.format = *format;
  absl::StatusOr<Method> method = ChooseMethod(**format, options.method);
  if (!method.ok()) return method.status();
  plan.method = *method;
  if (options.max_batch_tokens <= 0 || options.max_queue_tokens <= 0) {
    return absl::InvalidArgumentError("a lane's batch and queue limits must be above 0 tokens");
  }
  return plan;
}

}  // namespace

Runtime::Runtime(std::unique_ptr<State> state) : state_(std::move(state)) {}

Runtime::~Runtime() {
  Stop(Clock::now());
  // The engine's thread and the completion thread end before what they use.
  state_->engine.reset();
  state_->completion.reset();
}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Load(const RuntimeOptions& options,
                                                       Observer* observer) {
  absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
      Checkpoint::Open(options.model_directory);
  if (!checkpoint.ok()) return checkpoint.status();
  return Load(*std::move(checkpoint), options, observer);
}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Load(std::unique_ptr<Checkpoint> checkpoint,
                                                       const RuntimeOptions& options,
                                                       Observer* observer) {
  LanePlan lanes[kLanes];
  std::vector<const Format*> formats;
  for (int l = 0; l < kLanes; ++l) {
    absl::StatusOr<LanePlan> lane = PlanLane(options.lanes[l]);
    if (!lane.ok()) return lane.status();
    lanes[l] = *lane;
    formats.push_back(lane->format);
  }
  absl::StatusOr<std::vector<Device>> devices = FindDevices(options.device, formats, nullptr);
  if (!devices.ok()) return devices.status();
  if (devices->size() > 1)
    return absl::UnimplementedError("several devices are not served yet; name one");
  const Device& device = devices->front();
  const Backend* backend = options.backend != nullptr ? options.backend : device.backend;
  absl::StatusOr<std::unique_ptr<Stream>> stream =
      backend->open_stream(device.index, DeviceOptions{.threads = options.threads});
  if (!stream.ok()) return stream.status();
  auto state = std::make_unique<State>();
  state->observer = observer;
  state->tokenizer = checkpoint->tokenizer();
  state->info.name = checkpoint->name();
  state->info.revision = checkpoint->revision();
  state->info.spec = checkpoint->spec();
  state->info.devices = {device.name};

  absl::StatusOr<std::shared_ptr<const SharedWeights>> shared =
      SharedWeights::Load(*checkpoint, *backend, **stream);
  if (!shared.ok()) return shared.status();
  state->shared = *shared;
  LinearPlanner planner(*backend, **stream, {.forced_kernels = options.kernel});
  if (absl::Status status = ReadPlan(options.kernel_plan, &planner); !status.ok()) return status;

  for (int l = 0; l < kLanes; ++l) {
    LanePlan& lane = lanes[l];
    for (int earlier = 0; earlier < l; ++earlier) {
      if (lanes[earlier].format == lane.format && lanes[earlier].method == lane.method) {
        lane.forward = lanes[earlier].forward;
      }
    }
    if (lane.forward == nullptr) {
      absl::StatusOr<AttentionRows> attention = ChooseAttention(
          *backend, *lane.format, state->info.spec.head_size, options.attention_kernel);
      if (!attention.ok()) return attention.status();
      absl::StatusOr<std::unique_ptr<Forward>> forward =
          Forward::Load(*checkpoint, state->shared, *backend, *lane.format, lane.method, *attention,
                        planner, **stream);
      if (!forward.ok()) return forward.status();
      lane.forward = forward->get();
      state->forwards.push_back(*std::move(forward));
    }
    LaneDescription& description = state->info.lanes[l];
    description.format = lane.format;
    description.method = std::string(MethodName(lane.method));
    description.kernels = lane.forward->kernel_names(kAllLanes[l]);
    description.limits = {options.lanes[l].max_queue_tokens, options.lanes[l].max_batch_tokens};
  }
  if (absl::Status status = WritePlan(options.kernel_plan, planner); !status.ok()) return status;
  LaneDescription& queries = state->info.lanes[static_cast<int>(Lane::kQuery)];
  const LaneDescription& documents = state->info.lanes[static_cast<int>(Lane::kDocument)];
  if (queries.format != documents.format) {
    auto crossovers = planner.Crossovers(*queries.format, *documents.format);
    if (!crossovers.ok()) return crossovers.status();
    queries.crossovers = *std::move(crossovers);
  }
  if (absl::Status status = checkpoint->CheckUnchanged(); !status.ok()) return status;
  checkpoint.reset();  // unmaps the weights

  SchedulerOptions scheduling;
  scheduling.document_min_share = options.document_min_share;
  for (int l = 0; l < kLanes; ++l) scheduling.lanes[l] = state->info.lanes[l].limits;
  State* raw = state.get();
  state->scheduler = std::make_unique<Scheduler>(scheduling, [raw] {
    if (raw->engine != nullptr) raw->engine->Wake();
  });
  state->completion = std::make_unique<CompletionThread>();
  const int step = options.document_step_us > 0
                       ? options.document_step_us
                       : static_cast<int>(backend->default_document_step_us);
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create({.device = device.name, .step = std::chrono::microseconds(step)},
                     {lanes[0].forward, lanes[1].forward},
                     {options.lanes[0].max_batch_tokens, options.lanes[1].max_batch_tokens},
                     *std::move(stream), state->scheduler.get(), state->completion.get(), observer);
  if (!engine.ok()) return engine.status();
  state->engine = *std::move(engine);
  malloc_trim(0);  // what loading used and freed goes back to the system
  return std::unique_ptr<Runtime>(new Runtime(std::move(state)));
}

const ModelInfo& Runtime::info() const { return state_->info; }

std::shared_ptr<const Tokenizer> Runtime::tokenizer() const { return state_->tokenizer; }

Scheduler& Runtime::scheduler() { return *state_->scheduler; }

int64_t Runtime::memory_bytes() const {
  int64_t bytes = state_->shared->bytes + state_->engine->workspace_bytes();
  for (const auto& forward : state_->forwards) bytes += forward->bytes();
  return bytes;
}

absl::Status Runtime::Start() {
  state_->engine->Start();
  state_->running = true;
  for (Lane lane : kAllLanes) {
    auto job = std::make_shared<Job>();
    job->lane = lane;
    job->inputs = {WarmUpTokens(state_->info.spec)};
    std::mutex mutex;
    std::condition_variable done;
    bool finished = false;
    absl::Status status;
    job->done = [&](Job& finished_job) {
      // Notified under the lock: the waiter may destroy these as soon as it sees `finished`.
      std::lock_guard<std::mutex> lock(mutex);
      status = finished_job.status;
      finished = true;
      done.notify_one();
    };
    const int64_t tokens = static_cast<int64_t>(job->inputs.front().size());
    if (state_->scheduler->Admit(lane, tokens, Time::max(), Clock::now()).verdict !=
        Verdict::kAdmitted) {
      return absl::InternalError("the warm-up batch was not admitted");
    }
    job->admitted_tokens = tokens;
    Submit(std::move(job));
    std::unique_lock<std::mutex> lock(mutex);
    done.wait(lock, [&] { return finished; });
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("warm-up of the ", View(LaneName(lane)),
                                                      " lane: ", status.message()));
    }
  }
  return absl::OkStatus();
}

void Runtime::Submit(std::shared_ptr<Job> job) {
  job->vectors.assign(job->inputs.size() * state_->info.spec.hidden, 0.0f);
  if (!state_->scheduler->Submit(job, Clock::now())) state_->completion->Complete(std::move(job));
}

bool Runtime::healthy() const { return state_->running; }

void Runtime::Stop(Time deadline) {
  std::lock_guard<std::mutex> lock(state_->stop_mutex);
  if (!state_->running) return;
  state_->scheduler->Stop();
  state_->engine->FinishAndJoin(deadline);
  state_->completion->Complete(
      state_->scheduler->Drain(absl::UnavailableError("the server is shutting down")));
  state_->completion->Stop();
  state_->running = false;
}

}  // namespace octavo
