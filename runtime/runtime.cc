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
#include "absl/strings/str_split.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/completion.h"
#include "runtime/device_model.h"
#include "runtime/engine.h"

namespace octavo {
namespace {

// As a format of queries: the backend's default.
constexpr std::string_view kAuto = "auto";

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
  options.lanes[static_cast<int>(Lane::kQuery)] = {std::string(kAuto), "", 256, 16384};
  options.lanes[static_cast<int>(Lane::kDocument)] = {"a8w8_int8", "", 0, 262144};
  return options;
}

struct Runtime::State {
  ModelInfo info;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<std::unique_ptr<DeviceModel>> models;  // in the order of info.devices
  std::unique_ptr<Scheduler> scheduler;
  std::unique_ptr<CompletionThread> completion;
  std::vector<std::unique_ptr<Engine>> engines;
  std::atomic<bool> running{false};
  std::mutex stop_mutex;

  std::mutex loss_mutex;
  std::vector<std::string> losses;  // guarded by loss_mutex
  std::atomic<int> engines_left{0};

  absl::Status AddDevice(const Checkpoint& checkpoint, const Device& device, int engines_there,
                         const LaneFormat (&formats)[kLanes], const RuntimeOptions& options,
                         Observer* observer, std::string* plan);
  void OnLost(const std::string& device, const absl::Status& status);
};

namespace {

bool IsAuto(Lane lane, const LaneOptions& options) {
  return lane == Lane::kQuery && options.format == kAuto;
}

absl::StatusOr<LaneFormat> ReadLane(Lane lane, const LaneOptions& options, const Backend& backend) {
  absl::StatusOr<const Format*> format =
      FindFormat(IsAuto(lane, options) ? backend.query_format : options.format);
  if (!format.ok()) return format.status();
  absl::StatusOr<Method> method = ChooseMethod(**format, options.method);
  if (!method.ok()) return method.status();
  // Only documents leave their batches to the device.
  const int64_t least_batch = lane == Lane::kDocument ? 0 : 1;
  if (options.max_batch_tokens < least_batch || options.max_queue_tokens <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", View(LaneName(lane)),
                     " lane's queue limit must be above 0 tokens, its batch limit at least ",
                     least_batch, lane == Lane::kDocument ? " (0: the device's default)" : ""));
  }
  return LaneFormat{*format, *method};
}

// The devices named, with `options.backend` for theirs if it is set.
absl::StatusOr<std::vector<Device>> ReadDevices(const RuntimeOptions& options,
                                                std::string* passed_over) {
  if (options.backend == nullptr) {
    std::vector<const Format*> named;
    for (Lane lane : kAllLanes) {
      const LaneOptions& lane_options = options.lanes[static_cast<int>(lane)];
      if (IsAuto(lane, lane_options)) continue;  // whichever the device has
      absl::StatusOr<const Format*> format = FindFormat(lane_options.format);
      if (!format.ok()) return format.status();
      named.push_back(*format);
    }
    return FindDevices(options.device, named, passed_over);
  }
  std::vector<Device> devices;
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(options.device, ','))) {
    absl::StatusOr<int> index = DeviceIndex(name);
    if (!index.ok()) return index.status();
    devices.push_back(
        {options.backend, *index, name == "auto" ? std::string(options.backend->name) : name});
  }
  return devices;
}

// `status`, and what there should have been room for.
absl::Status OutOfMemory(const absl::Status& status, const std::string& device,
                         const ModelInfo& info, int64_t weight_bytes) {
  const LaneDescription(&lanes)[kLanes] = info.lanes;
  return absl::ResourceExhaustedError(
      absl::StrCat(device, ": ", status.message(), "; ", info.name, " needs about ",
                   (weight_bytes + (1 << 20) - 1) >> 20, " MiB there for its weights in ",
                   View(lanes[0].format->name), " and ", View(lanes[1].format->name),
                   ", and workspaces for batches of ", lanes[0].limits.max_batch_tokens, " and ",
                   lanes[1].limits.max_batch_tokens, " tokens"));
}

}  // namespace

Runtime::Runtime(std::unique_ptr<State> state) : state_(std::move(state)) {}

Runtime::~Runtime() {
  Stop(Clock::now());
  // The engines' threads and the completion thread end before what they use.
  state_->engines.clear();
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
  auto state = std::make_unique<State>();
  ModelInfo& info = state->info;
  LaneFormat formats[kLanes];
  SchedulerOptions scheduling;
  scheduling.document_min_share = options.document_min_share;
  absl::StatusOr<std::vector<Device>> devices = ReadDevices(options, &info.passed_over);
  if (!devices.ok()) return devices.status();
  const Backend& backend = *devices->front().backend;
  for (int l = 0; l < kLanes; ++l) {
    absl::StatusOr<LaneFormat> format = ReadLane(kAllLanes[l], options.lanes[l], backend);
    if (!format.ok()) return format.status();
    formats[l] = *format;
    info.lanes[l].format = format->format;
    if (IsAuto(kAllLanes[l], options.lanes[l])) {
      info.lanes[l].format_reason = std::string(backend.query_format_reason);
    }
    info.lanes[l].method = std::string(MethodName(format->method));
    const int64_t batch = options.lanes[l].max_batch_tokens;
    scheduling.lanes[l] = {options.lanes[l].max_queue_tokens,
                           batch > 0 ? batch : backend.document_batch_tokens};
    info.lanes[l].limits = scheduling.lanes[l];
  }
  scheduling.engines = static_cast<int>(devices->size());
  info.name = checkpoint->name();
  info.revision = checkpoint->revision();
  info.spec = checkpoint->spec();
  state->tokenizer = checkpoint->tokenizer();
  state->scheduler = std::make_unique<Scheduler>(scheduling, [raw = state.get()] {
    for (const auto& engine : raw->engines) engine->Wake();
  });
  state->completion = std::make_unique<CompletionThread>();

  std::string plan;
  for (auto device = devices->begin(); device != devices->end(); ++device) {
    const auto is_it = [&](const Device& other) { return other.name == device->name; };
    if (std::any_of(devices->begin(), device, is_it)) continue;
    const auto engines = std::count_if(device, devices->end(), is_it);
    if (absl::Status status = state->AddDevice(*checkpoint, *device, static_cast<int>(engines),
                                               formats, options, observer, &plan);
        !status.ok()) {
      return absl::IsResourceExhausted(status)
                 ? OutOfMemory(status, device->name, info,
                               DeviceModel::EstimateBytes(info.spec, formats))
                 : status;
    }
  }
  if (absl::Status status = checkpoint->CheckUnchanged(); !status.ok()) return status;
  checkpoint.reset();  // unmaps the weights
  malloc_trim(0);      // what loading used and freed goes back to the system
  return std::unique_ptr<Runtime>(new Runtime(std::move(state)));
}

// Loads the model on `device` and makes its engines. `plan` is the first device's plan, which holds
// for others of its model too; the first device fills it in.
absl::Status Runtime::State::AddDevice(const Checkpoint& checkpoint, const Device& device,
                                       int engines_there, const LaneFormat (&formats)[kLanes],
                                       const RuntimeOptions& options, Observer* observer,
                                       std::string* plan) {
  const Backend& backend = *device.backend;
  const DeviceOptions device_options = {.threads = options.threads};
  absl::StatusOr<std::unique_ptr<Stream>> stream =
      backend.open_stream(device.index, device_options);
  if (!stream.ok()) return stream.status();
  const bool first = models.empty();
  LinearPlanner planner(backend, **stream, {.forced_kernels = options.kernel});
  if (first) {
    if (absl::Status status = ReadPlan(options.kernel_plan, &planner); !status.ok()) return status;
  } else if (absl::Status status = planner.LoadJson(*plan);
             !status.ok() && !absl::IsFailedPrecondition(status)) {
    return status;
  }
  absl::StatusOr<std::unique_ptr<DeviceModel>> model =
      DeviceModel::Load(checkpoint, device, formats, options.attention_kernel, planner, **stream);
  if (!model.ok()) return model.status();
  const Forward* const(&lanes)[kLanes] = (*model)->lanes;
  DeviceDescription& description = info.devices.emplace_back();
  description.name = device.name;
  description.processor = (*model)->processor;
  description.memory_bytes = (*model)->bytes();
  description.read_counters = [read = backend.read_counters, index = device.index] {
    return read(index);
  };
  for (int l = 0; l < kLanes; ++l) {
    description.peak_flops[l] = backend.peak_flops(device.index, *formats[l].format);
  }
  if (first) {
    if (absl::Status status = WritePlan(options.kernel_plan, planner); !status.ok()) return status;
    *plan = planner.ToJson();
    for (int l = 0; l < kLanes; ++l) {
      info.lanes[l].kernels = lanes[l]->kernel_names(kAllLanes[l]);
    }
    const Format& queries = *formats[static_cast<int>(Lane::kQuery)].format;
    const Format& documents = *formats[static_cast<int>(Lane::kDocument)].format;
    if (&queries != &documents) {
      auto crossovers = planner.Crossovers(queries, documents);
      if (!crossovers.ok()) return crossovers.status();
      info.lanes[static_cast<int>(Lane::kQuery)].crossovers = *std::move(crossovers);
    }
  }
  models.push_back(*std::move(model));

  const int64_t step =
      options.document_step_us > 0 ? options.document_step_us : backend.default_document_step_us;
  for (int i = 0; i < engines_there; ++i) {
    if (i > 0) stream = backend.open_stream(device.index, device_options);
    if (!stream.ok()) return stream.status();
    absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(
        {.device = device.name,
         .step = std::chrono::microseconds(step),
         .lost = [this, name = device.name](const absl::Status& status) { OnLost(name, status); }},
        lanes, {info.lanes[0].limits.max_batch_tokens, info.lanes[1].limits.max_batch_tokens},
        *std::move(stream), scheduler.get(), completion.get(), observer);
    if (!engine.ok()) return engine.status();
    description.memory_bytes += (*engine)->workspace_bytes();
    engines.push_back(*std::move(engine));
    ++engines_left;
  }
  return absl::OkStatus();
}

// On the thread of the engine, whose own batches have ended.
void Runtime::State::OnLost(const std::string& device, const absl::Status& status) {
  {
    std::lock_guard<std::mutex> lock(loss_mutex);
    losses.push_back(absl::StrCat(device, ": ", status.message()));
  }
  const int left = engines_left.fetch_sub(1) - 1;
  if (left > 0) {
    scheduler->SetEngines(left);
    return;
  }
  // From here on nothing enters the queue, and nobody would take what is in it.
  scheduler->Stop();
  completion->Complete(scheduler->Drain(status));
}

const ModelInfo& Runtime::info() const { return state_->info; }

std::shared_ptr<const Tokenizer> Runtime::tokenizer() const { return state_->tokenizer; }

Scheduler& Runtime::scheduler() { return *state_->scheduler; }

int64_t Runtime::memory_bytes() const {
  int64_t bytes = 0;
  for (const DeviceDescription& device : state_->info.devices) bytes += device.memory_bytes;
  return bytes;
}

absl::Status Runtime::Start() {
  state_->running = true;
  for (const auto& engine : state_->engines) {
    if (absl::Status status = engine->Start(); !status.ok()) return status;
  }
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

bool Runtime::healthy() const { return state_->running && state_->engines_left > 0; }

std::vector<std::string> Runtime::TakeLosses() {
  std::lock_guard<std::mutex> lock(state_->loss_mutex);
  return std::exchange(state_->losses, {});
}

void Runtime::Stop(Time deadline) {
  std::lock_guard<std::mutex> lock(state_->stop_mutex);
  if (!state_->running) return;
  state_->scheduler->Stop();
  for (const auto& engine : state_->engines) engine->FinishAndJoin(deadline);
  state_->completion->Complete(
      state_->scheduler->Drain(absl::UnavailableError("the server is shutting down")));
  state_->completion->Stop();
  state_->running = false;
}

}  // namespace octavo
