// What the runtime reports while it works. The service turns it into metrics; tests record it.
#pragma once

#include <cstdint>
#include <string_view>

#include "quant/format.h"
#include "runtime/job.h"

namespace octavo {

struct BatchReport {
  Lane lane = Lane::kQuery;
  const Format* format = nullptr;
  std::string_view device;
  int64_t inputs = 0;
  int64_t tokens = 0;
  double compute_seconds = 0;
  double flops = 0;               // multiply-adds times two: linear layers and attention
  int64_t nonfinite_outputs = 0;  // rows with a NaN or infinity; their jobs fail INTERNAL
};

// Called on engine threads; implementations are thread-safe and fast.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnBatch(const BatchReport& report) = 0;
  // A job dropped before or between its batches: status is CANCELLED or DEADLINE_EXCEEDED.
  virtual void OnDropped(Lane lane, const absl::Status& status) = 0;
  virtual void OnDeviceError(std::string_view device, const absl::Status& status) = 0;
};

}  // namespace octavo
