// The whole of inference behind one object: a model loaded in each lane's format, the scheduler,
// an engine a device, and the completion thread. What the service, octavo-eval and octavo-bench
// build on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/job.h"
#include "runtime/model_spec.h"
#include "runtime/observer.h"
#include "runtime/scheduler.h"
#include "runtime/tokenizer.h"

namespace octavo {

struct LaneOptions {
  std::string format;  // a name or an alias; queries, "auto": the device's default
  std::string method;  // "rtn", "hqq", or "" for the format's default (hqq where it has a float
                       // zero point, else rtn)
  int64_t max_batch_tokens = 0;  // documents, 0: the device's default
  int64_t max_queue_tokens = 0;
};

struct RuntimeOptions {
  std::string model_directory;
  LaneOptions lanes[kLanes];  // defaults: see DefaultRuntimeOptions
  double document_min_share = 0.2;
  // "auto", "cpu", "cuda:0", "cuda:0,cuda:1": an engine for each name, on one scheduler.
  std::string device = "auto";
  // Computes instead of the backend that `device` names, and outlives the runtime: a copy whose
  // functions a bench or a test has wrapped. `device` then gives the names in reports.
  const Backend* backend = nullptr;
  int threads = 0;               // CPU threads of an engine; 0: every available processor
  int document_step_us = 0;      // 0: the device's default (CPU 1000)
  std::string kernel_plan;       // file: read if it exists and fits, else written
  std::string kernel;            // force linear kernel rows by name, comma-separated
  std::string attention_kernel;  // force an attention row by name
};
// document: a8w8_int8, query: auto, sane limits.
RuntimeOptions DefaultRuntimeOptions();

struct LaneDescription {
  const Format* format = nullptr;
  std::string method;
  std::vector<std::string> kernels;  // names of the rows the plan uses
  LaneLimits limits;
  // Up to how many tokens the lane's format takes no more time than the other lane's, for each
  // shape of a linear layer, by timings at load. Empty where both lanes have one format.
  std::vector<LinearPlanner::Crossover> crossovers;
  std::string format_reason;  // why the device's default was taken; empty: the format was named
};

// A device that computes, once however many engines it has.
struct DeviceDescription {
  std::string name;                // "cpu", "cuda:0"
  std::string processor;           // its model: "NVIDIA H200"
  int64_t memory_bytes = 0;        // held there by weights and workspaces
  double peak_flops[kLanes] = {};  // in the arithmetic of each lane's format; 0: not known
  // Its sensors now; thread-safe, takes milliseconds.
  std::function<DeviceCounters()> read_counters;

  // "cuda:0 (NVIDIA H200)"
  std::string FullName() const { return processor.empty() ? name : name + " (" + processor + ")"; }
};

// What GetInfo and the logs show. Immutable.
struct ModelInfo {
  std::string name;
  std::string revision;
  ModelSpec spec;
  std::vector<DeviceDescription> devices;
  std::string passed_over;  // --device=auto: faster devices and why each was not taken, a line each
  LaneDescription lanes[kLanes];
};

class Runtime {
 public:
  // Reads, checks, quantizes and packs the model, and unmaps it. `observer` may be null and must
  // outlive the runtime. Engines do not run yet.
  static absl::StatusOr<std::unique_ptr<Runtime>> Load(const RuntimeOptions& options,
                                                       Observer* observer);
  // The same from an open checkpoint (Checkpoint::Random has no tokenizer); `model_directory` is
  // not read.
  static absl::StatusOr<std::unique_ptr<Runtime>> Load(std::unique_ptr<Checkpoint> checkpoint,
                                                       const RuntimeOptions& options,
                                                       Observer* observer);
  // Stops: see Stop.
  ~Runtime();

  const ModelInfo& info() const;
  std::shared_ptr<const Tokenizer> tokenizer() const;
  Scheduler& scheduler();
  // Bytes held by weights, embeddings and workspaces of all devices.
  int64_t memory_bytes() const;

  // Starts the engines and the completion thread, and runs one batch in each lane.
  absl::Status Start();

  // Queues an admitted job; `done` runs exactly once whatever happens (Job::done says where).
  void Submit(std::shared_ptr<Job> job);

  // False once no device is left that makes progress: what was queued has ended UNAVAILABLE, and so
  // does what is submitted.
  bool healthy() const;

  // What each engine that lost its device saw, "cuda:0: ...", since the last call. Any thread.
  std::vector<std::string> TakeLosses();

  // No more jobs; what is queued is computed, or ends UNAVAILABLE once `deadline` has passed; every
  // `done` has run when this returns. Idempotent.
  void Stop(Time deadline);

 private:
  struct State;
  explicit Runtime(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace octavo
