// Times linear rows on random weights: what plans and crossovers are made from.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/linear.h"
#include "kernels/stream.h"

namespace octavo {

// Of the steady clock.
double SteadySeconds();

// For one shape, as Backend::timing says. Not thread-safe.
class RowTimer {
 public:
  // `backend` and `stream` outlive the timer; rows run on the stream. `now` returns seconds.
  // RESOURCE_EXHAUSTED if the device lacks the memory.
  static absl::StatusOr<RowTimer> Create(const LinearShape& shape, const Backend& backend,
                                         Stream& stream, double (*now)());

  // A weight of random codes for `kernel`.
  absl::StatusOr<PackedWeight> Pack(const LinearKernel& kernel, const Format& format) const;

  // Seconds a call takes: the best of three timings, with weights cold at small counts. A row that
  // takes far more than `seconds_to_beat` is not timed again.
  double Time(const LinearKernel& kernel, const PackedWeight& weight, int64_t tokens,
              double seconds_to_beat);

 private:
  RowTimer(const LinearShape& shape, const Backend& backend, Stream& stream, double (*now)());
  absl::Status Allocate();
  void EvictCaches();

  LinearShape shape_;
  const Backend* backend_;
  Stream* stream_;
  double (*now_)();
  std::vector<uint64_t> evicting_;
  Buffer input_, output_, bias_, scales_, sums_;
};

}  // namespace octavo
