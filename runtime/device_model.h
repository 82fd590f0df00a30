// The model as one device holds it, for every engine on that device.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/forward.h"
#include "runtime/job.h"

namespace octavo {

// What a lane's linear layers are quantized to, and how.
struct LaneFormat {
  const Format* format = nullptr;
  Method method = Method::kRoundToNearest;
  bool operator==(const LaneFormat&) const = default;
};

// Immutable once loaded.
struct DeviceModel {
  Device device;
  std::string processor;                           // "NVIDIA H200"
  std::shared_ptr<const SharedWeights> shared;     // embeddings and norms
  std::vector<std::unique_ptr<Forward>> forwards;  // one a distinct LaneFormat
  const Forward* lanes[kLanes] = {};               // point into `forwards`

  int64_t bytes() const;

  // Bytes of the weights as their formats store them, roughly what loading takes.
  static int64_t EstimateBytes(const ModelSpec& spec, const LaneFormat (&formats)[kLanes]);

  // Loads the weights through `stream`, which is on the device; linear rows are those that
  // `planner` chooses. `attention_kernel`: as ChooseAttention's `forced`. RESOURCE_EXHAUSTED if
  // the device has not the memory.
  static absl::StatusOr<std::unique_ptr<DeviceModel>> Load(const Checkpoint& checkpoint,
                                                           const Device& device,
                                                           const LaneFormat (&formats)[kLanes],
                                                           const std::string& attention_kernel,
                                                           LinearPlanner& planner, Stream& stream);
};

}  // namespace octavo
