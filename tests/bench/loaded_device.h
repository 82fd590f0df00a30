// A device with a model's shared weights on it, for benches that run Forwards themselves.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/forward.h"
#include "tests/bench/workload.h"

namespace octavo::bench {

// Of a model directory, or random.
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const ModelSource& source);

// Where Forwards of one checkpoint run. Outlives them; one thread at a time.
class LoadedDevice {
 public:
  // `device` as --device says it; threads and forced rows as `source` has them. `wrap` gives the
  // backend that computes in place of the device's own.
  static absl::StatusOr<std::unique_ptr<LoadedDevice>> Open(
      const std::string& device, const ModelSource& source, const Checkpoint& checkpoint,
      const Backend& (*wrap)(const Backend&) = nullptr);

  const Backend& backend() const { return backend_; }
  Stream& stream() const { return *stream_; }

  // The linear layers in a format. FAILED_PRECONDITION: the backend has no kernels for it.
  absl::StatusOr<std::unique_ptr<Forward>> Load(const Checkpoint& checkpoint,
                                                const std::string& format);

 private:
  LoadedDevice(const ModelSource& source, const Backend& backend, std::unique_ptr<Stream> stream,
               std::shared_ptr<const SharedWeights> shared);

  const Backend& backend_;
  std::unique_ptr<Stream> stream_;
  std::shared_ptr<const SharedWeights> shared_;
  LinearPlanner planner_;
};

}  // namespace octavo::bench
