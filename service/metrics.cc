#include "service/metrics.h"

#include <prometheus/family.h>
#include <prometheus/text_serializer.h>

#include <sstream>
#include <utility>

#include "service/process_metrics.h"

namespace octavo {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using prometheus::MetricFamily;

constexpr int kLaneValues = kLanes + 1;  // each lane, and "none"
constexpr std::string_view kNoLane = "none";
constexpr int kCodes = static_cast<int>(absl::StatusCode::kUnauthenticated) + 1;
// The codes our handlers can answer with.
constexpr absl::StatusCode kAnswered[] = {
    absl::StatusCode::kOk,
    absl::StatusCode::kCancelled,
    absl::StatusCode::kInvalidArgument,
    absl::StatusCode::kDeadlineExceeded,
    absl::StatusCode::kNotFound,
    absl::StatusCode::kResourceExhausted,
    absl::StatusCode::kFailedPrecondition,
    absl::StatusCode::kInternal,
    absl::StatusCode::kUnavailable,
};
constexpr Reason kRejections[] = {Reason::kLaneFull, Reason::kDeadlineUnreachable,
                                  Reason::kDraining, Reason::kLoading, Reason::kNoDevice};
// Of an error a device reported: it is gone, or it had no memory for a batch.
constexpr std::string_view kDeviceReasons[] = {"lost", "out_of_memory"};

int LaneIndex(std::optional<Lane> lane) {
  return lane.has_value() ? static_cast<int>(*lane) : kLanes;
}

std::string LaneLabel(int index) {
  return std::string(index < kLanes ? LaneName(static_cast<Lane>(index)) : kNoLane);
}

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

const Histogram::BucketBoundaries& InputBuckets() {
  static const Histogram::BucketBoundaries buckets = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024};
  return buckets;
}

const Histogram::BucketBoundaries& TokenBuckets() {
  static const Histogram::BucketBoundaries buckets = {4,   8,    16,   32,   64,   128,  256,
                                                      512, 1024, 2048, 4096, 8192, 16384};
  return buckets;
}

MetricFamily SampledFamily(const char* name, const char* help, prometheus::MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

MetricFamily LaneGauge(const char* name, const char* help) {
  return SampledFamily(name, help, prometheus::MetricType::Gauge);
}

void AddSample(MetricFamily* family, Lane lane, double value) {
  prometheus::ClientMetric metric;
  metric.label.push_back({"lane", std::string(LaneName(lane))});
  metric.gauge.value = value;
  family->metric.push_back(std::move(metric));
}

std::vector<MetricFamily> CollectQueues(const Scheduler* scheduler) {
  std::vector<MetricFamily> families = {
      LaneGauge("octavo_queue_requests", "Requests waiting for a batch."),
      LaneGauge("octavo_queue_tokens", "Tokens admitted and not yet in a batch."),
      LaneGauge("octavo_queue_limit_tokens", "Tokens a lane admits at most."),
      LaneGauge("octavo_queue_oldest_seconds", "Age of the oldest request waiting."),
  };
  const Time now = Clock::now();
  for (Lane lane : kAllLanes) {
    const LaneSnapshot queue = scheduler ? scheduler->Snapshot(lane, now) : LaneSnapshot{};
    AddSample(&families[0], lane, static_cast<double>(queue.queue_requests));
    AddSample(&families[1], lane, static_cast<double>(queue.queue_tokens));
    AddSample(&families[2], lane, static_cast<double>(queue.limit_tokens));
    AddSample(&families[3], lane, Seconds(queue.oldest));
  }
  return families;
}

// A device without a sensor has no sample, and a family without samples is left out.
std::vector<MetricFamily> CollectSensors(const std::vector<DeviceDescription>& devices) {
  MetricFamily energy = SampledFamily("octavo_energy_joules_total", "Energy the device has used.",
                                      prometheus::MetricType::Counter);
  MetricFamily power = SampledFamily("octavo_device_power_watts", "Power the device draws.",
                                     prometheus::MetricType::Gauge);
  for (const DeviceDescription& device : devices) {
    if (device.read_counters == nullptr) continue;
    const DeviceCounters counters = device.read_counters();
    prometheus::ClientMetric metric;
    metric.label.push_back({"device", device.name});
    if (counters.energy_joules.has_value()) {
      energy.metric.push_back(metric);
      energy.metric.back().counter.value = *counters.energy_joules;
    }
    if (counters.power_watts.has_value()) {
      power.metric.push_back(metric);
      power.metric.back().gauge.value = *counters.power_watts;
    }
  }
  std::vector<MetricFamily> families;
  for (MetricFamily* family : {&energy, &power}) {
    if (!family->metric.empty()) families.push_back(std::move(*family));
  }
  return families;
}

}  // namespace

std::string_view RpcName(Rpc rpc) {
  constexpr std::string_view kNames[] = {"octavo.v1.EmbeddingService/Embed",
                                         "octavo.v1.EmbeddingService/EmbedStream",
                                         "octavo.v1.EmbeddingService/GetInfo"};
  return kNames[static_cast<int>(rpc)];
}

std::string_view StageName(Stage stage) {
  constexpr std::string_view kNames[] = {"tokenize", "queue", "compute", "respond"};
  return kNames[static_cast<int>(stage)];
}

const Histogram::BucketBoundaries& DurationBuckets() {
  static const Histogram::BucketBoundaries buckets = {
      .0001, .00025, .0005, .001, .002, .003, .005, .0075, .01, .015, .02,
      .03,   .05,    .075,  .1,   .15,  .25,  .5,   1,     2.5, 5,    10};
  return buckets;
}

// Families whose children appear when the model is known.
struct Metrics::Families {
  Family<Counter>& inputs;
  Family<Counter>& tokens;
  Family<Histogram>& batch_inputs;
  Family<Histogram>& batch_tokens;
  Family<Counter>& compute_seconds;
  Family<Counter>& flops;
  Family<Gauge>& device_memory;
  Family<Gauge>& device_peak_flops;
  Family<Counter>& device_errors;
  Family<Counter>& nonfinite;
  Family<Gauge>& model_info;
};

struct Metrics::Children {
  Counter* requests[kRpcs][kLaneValues][kCodes] = {};
  Histogram* request_duration[kRpcs][kLaneValues] = {};
  Gauge* requests_in_flight[kRpcs] = {};
  Gauge* streams_active = nullptr;
  Histogram* stream_duration = nullptr;
  Gauge* stream_tokens[kLanes] = {};
  Histogram* stage_duration[kStages][kLanes] = {};
  Counter* rejected[kLaneValues][kReasons] = {};
  Counter* cancelled[kLanes][kStages] = {};
  Counter* truncated[kLanes] = {};
  Gauge* ready = nullptr;

  // Known with the model. A lane's format is fixed at start.
  struct LaneChildren {
    const Format* format = nullptr;
    Counter* inputs = nullptr;
    Counter* tokens = nullptr;
    Histogram* batch_inputs = nullptr;
    Histogram* batch_tokens = nullptr;
    Counter* nonfinite = nullptr;
    std::vector<Counter*> compute_seconds;  // a device each
    std::vector<Counter*> flops;
  } lanes[kLanes];
  std::vector<DeviceDescription> devices;
  std::vector<Counter*> device_errors[std::size(kDeviceReasons)];

  size_t DeviceIndex(std::string_view device) const {
    for (size_t i = 0; i < devices.size(); ++i) {
      if (devices[i].name == device) return i;
    }
    return devices.size();
  }
};

namespace {

Family<Counter>& AddCounter(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}
Family<Gauge>& AddGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}
Family<Histogram>& AddHistogram(prometheus::Registry& registry, const char* name,
                                const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

}  // namespace

Metrics::Metrics(std::string_view version)
    : registry_(std::make_shared<prometheus::Registry>()), children_(std::make_unique<Children>()) {
  prometheus::Registry& r = *registry_;
  AddRequestMetrics();
  AddLaneMetrics();
  children_->ready = &AddGauge(r, "octavo_ready", "1 while the server is SERVING.").Add(Labels());
  AddGauge(r, "octavo_build_info", "1; the version is a label.")
      .Add({{"version", std::string(version)}})
      .Set(1);
  families_.reset(new Families{
      AddCounter(r, "octavo_inputs_total", "Inputs embedded."),
      AddCounter(r, "octavo_tokens_total", "Tokens embedded, special tokens included."),
      AddHistogram(r, "octavo_batch_inputs", "Inputs in a batch."),
      AddHistogram(r, "octavo_batch_tokens", "Tokens in a batch."),
      AddCounter(r, "octavo_compute_seconds_total", "Device time spent on batches."),
      AddCounter(r, "octavo_flops_total", "Floating-point operations of batches, by the model."),
      AddGauge(r, "octavo_device_memory_bytes", "Memory of weights and workspaces."),
      AddGauge(r, "octavo_device_peak_flops",
               "Operations a second the device does at most in a format's arithmetic, as stated."),
      AddCounter(r, "octavo_device_errors_total", "Errors a device reported."),
      AddCounter(r, "octavo_nonfinite_outputs_total", "Vectors with a NaN or an infinity."),
      AddGauge(r, "octavo_model_info", "1; name and revision are labels."),
  });
}

void Metrics::AddRequestMetrics() {
  prometheus::Registry& r = *registry_;
  Children& c = *children_;
  auto& requests = AddCounter(r, "octavo_requests_total", "Unary calls and stream messages.");
  auto& durations = AddHistogram(r, "octavo_request_duration_seconds",
                                 "From receipt to answer, of unary calls and stream messages.");
  auto& in_flight =
      AddGauge(r, "octavo_requests_in_flight", "Unary calls and stream messages not yet answered.");
  for (int rpc = 0; rpc < kRpcs; ++rpc) {
    const std::string method(RpcName(static_cast<Rpc>(rpc)));
    c.requests_in_flight[rpc] = &in_flight.Add({{"method", method}});
    for (int lane = 0; lane < kLaneValues; ++lane) {
      if (static_cast<Rpc>(rpc) == Rpc::kGetInfo && lane != kLanes) continue;
      const Labels labels = {{"method", method}, {"lane", LaneLabel(lane)}};
      c.request_duration[rpc][lane] = &durations.Add(labels, DurationBuckets());
      for (absl::StatusCode code : kAnswered) {
        Labels with_code = labels;
        with_code.emplace("code", std::string(CodeName(code)));
        c.requests[rpc][lane][static_cast<int>(code)] = &requests.Add(with_code);
      }
    }
  }

  const Labels stream = {{"method", std::string(RpcName(Rpc::kEmbedStream))}};
  c.streams_active = &AddGauge(r, "octavo_streams_active", "Open streams.").Add(stream);
  c.stream_duration = &AddHistogram(r, "octavo_stream_duration_seconds", "Life of a stream.")
                           .Add(stream, DurationBuckets());
}

void Metrics::AddLaneMetrics() {
  prometheus::Registry& r = *registry_;
  Children& c = *children_;
  auto& stream_tokens = AddGauge(r, "octavo_stream_tokens_in_flight",
                                 "Tokens streams sent whose answers are not yet written.");
  auto& stages = AddHistogram(r, "octavo_stage_duration_seconds",
                              "Time a request spends in a stage; compute: of a batch.");
  auto& rejected = AddCounter(r, "octavo_rejected_total",
                              "Requests refused for want of room, time or a ready server.");
  auto& cancelled = AddCounter(r, "octavo_cancelled_total",
                               "Requests whose caller had gone, by where that was noticed.");
  auto& truncated = AddCounter(r, "octavo_truncated_inputs_total", "Inputs cut to the limit.");
  for (int lane = 0; lane < kLaneValues; ++lane) {
    const std::string name = LaneLabel(lane);
    for (Reason reason : kRejections) {
      c.rejected[lane][static_cast<int>(reason)] =
          &rejected.Add({{"lane", name}, {"reason", std::string(ReasonName(reason))}});
    }
    if (lane == kLanes) continue;
    c.stream_tokens[lane] = &stream_tokens.Add({{"lane", name}});
    c.truncated[lane] = &truncated.Add({{"lane", name}});
    for (int stage = 0; stage < kStages; ++stage) {
      const Labels labels = {{"lane", name},
                             {"stage", std::string(StageName(static_cast<Stage>(stage)))}};
      c.stage_duration[stage][lane] = &stages.Add(labels, DurationBuckets());
      c.cancelled[lane][stage] = &cancelled.Add(labels);
    }
  }
}

Metrics::~Metrics() = default;

void Metrics::SetModel(const ModelInfo& info) {
  Children& c = *children_;
  Families& f = *families_;
  c.devices = info.devices;
  for (Lane lane : kAllLanes) {
    const Format* format = info.lanes[static_cast<int>(lane)].format;
    const std::string format_name(format->name);
    const Labels labels = {{"lane", std::string(LaneName(lane))}, {"format", format_name}};
    Children::LaneChildren& children = c.lanes[static_cast<int>(lane)];
    children.format = format;
    children.inputs = &f.inputs.Add(labels);
    children.tokens = &f.tokens.Add(labels);
    children.batch_inputs = &f.batch_inputs.Add(labels, InputBuckets());
    children.batch_tokens = &f.batch_tokens.Add(labels, TokenBuckets());
    children.nonfinite = &f.nonfinite.Add({{"format", format_name}});
    for (const DeviceDescription& device : c.devices) {
      Labels with_device = labels;
      with_device.emplace("device", device.name);
      children.compute_seconds.push_back(&f.compute_seconds.Add(with_device));
      children.flops.push_back(&f.flops.Add(with_device));
    }
  }
  for (const DeviceDescription& device : c.devices) {
    for (size_t i = 0; i < std::size(kDeviceReasons); ++i) {
      c.device_errors[i].push_back(&f.device_errors.Add(
          {{"device", device.name}, {"reason", std::string(kDeviceReasons[i])}}));
    }
    f.device_memory.Add({{"device", device.name}}).Set(static_cast<double>(device.memory_bytes));
    for (int l = 0; l < kLanes; ++l) {
      if (device.peak_flops[l] == 0) continue;  // not known
      f.device_peak_flops
          .Add({{"device", device.name}, {"format", std::string(info.lanes[l].format->name)}})
          .Set(device.peak_flops[l]);
    }
  }
  f.model_info.Add({{"model", info.name}, {"revision", info.revision}}).Set(1);
  model_known_.store(true, std::memory_order_release);
}

void Metrics::SetReady(bool ready) { children_->ready->Set(ready ? 1 : 0); }

void Metrics::SampleQueues(const Scheduler* scheduler) { scheduler_.store(scheduler); }

void Metrics::RequestBegan(Rpc rpc) {
  children_->requests_in_flight[static_cast<int>(rpc)]->Increment();
}

void Metrics::RequestEnded(Rpc rpc, std::optional<Lane> lane, absl::StatusCode code,
                           Duration duration) {
  const int method = static_cast<int>(rpc);
  const int index = LaneIndex(lane);
  Counter* count = children_->requests[method][index][static_cast<int>(code)];
  if (count == nullptr) {
    count = children_->requests[method][index][static_cast<int>(absl::StatusCode::kInternal)];
  }
  count->Increment();
  children_->request_duration[method][index]->Observe(Seconds(duration));
  children_->requests_in_flight[method]->Decrement();
}

void Metrics::StageTook(Stage stage, Lane lane, Duration duration) {
  children_->stage_duration[static_cast<int>(stage)][static_cast<int>(lane)]->Observe(
      Seconds(duration));
}

void Metrics::StreamBegan() { children_->streams_active->Increment(); }

void Metrics::StreamEnded(Duration duration) {
  children_->streams_active->Decrement();
  children_->stream_duration->Observe(Seconds(duration));
}

void Metrics::StreamTokens(Lane lane, int64_t change) {
  children_->stream_tokens[static_cast<int>(lane)]->Increment(static_cast<double>(change));
}

void Metrics::Rejected(std::optional<Lane> lane, Reason reason) {
  Counter* count = children_->rejected[LaneIndex(lane)][static_cast<int>(reason)];
  if (count != nullptr) count->Increment();
}

void Metrics::Cancelled(Lane lane, Stage stage) {
  children_->cancelled[static_cast<int>(lane)][static_cast<int>(stage)]->Increment();
}

void Metrics::TruncatedInputs(Lane lane, int64_t inputs) {
  if (inputs > 0) {
    children_->truncated[static_cast<int>(lane)]->Increment(static_cast<double>(inputs));
  }
}

void Metrics::OnBatch(const BatchReport& report) {
  if (!model_known_.load(std::memory_order_acquire)) return;
  Children::LaneChildren& lane = children_->lanes[static_cast<int>(report.lane)];
  lane.inputs->Increment(static_cast<double>(report.inputs));
  lane.tokens->Increment(static_cast<double>(report.tokens));
  lane.batch_inputs->Observe(static_cast<double>(report.inputs));
  lane.batch_tokens->Observe(static_cast<double>(report.tokens));
  if (report.nonfinite_outputs > 0) {
    lane.nonfinite->Increment(static_cast<double>(report.nonfinite_outputs));
  }
  const size_t device = children_->DeviceIndex(report.device);
  if (device < lane.flops.size()) {
    lane.compute_seconds[device]->Increment(report.compute_seconds);
    lane.flops[device]->Increment(report.flops);
  }
  children_->stage_duration[static_cast<int>(Stage::kCompute)][static_cast<int>(report.lane)]
      ->Observe(report.compute_seconds);
}

void Metrics::OnDropped(Lane lane, const absl::Status& status) {
  if (status.code() == absl::StatusCode::kCancelled) Cancelled(lane, Stage::kQueue);
}

void Metrics::OnDeviceError(std::string_view device, const absl::Status& status) {
  if (!model_known_.load(std::memory_order_acquire)) return;
  const size_t index = children_->DeviceIndex(device);
  const size_t reason = absl::IsResourceExhausted(status) ? 1 : 0;
  if (index < children_->devices.size()) children_->device_errors[reason][index]->Increment();
}

std::string Metrics::Text() const {
  std::vector<MetricFamily> families = registry_->Collect();
  const bool model_known = model_known_.load(std::memory_order_acquire);
  for (auto& collected :
       {CollectQueues(scheduler_.load()), CollectProcessMetrics(),
        model_known ? CollectSensors(children_->devices) : std::vector<MetricFamily>()}) {
    families.insert(families.end(), collected.begin(), collected.end());
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace octavo
