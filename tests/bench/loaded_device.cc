#include "tests/bench/loaded_device.h"

#include <utility>

#include "runtime/models/models.h"

namespace octavo::bench {
absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(const ModelSource& source) {
  if (!source.model.empty()) return Checkpoint::Open(source.model);
  auto spec = NamedShape(source.shape);
  if (!spec.ok()) return spec.status();
  return Checkpoint::Random(*spec, 1);
}

absl::StatusOr<std::unique_ptr<LoadedDevice>> LoadedDevice::Open(
    const std::string& device, const ModelSource& source, const Checkpoint& checkpoint,
    const Backend& (*wrap)(const Backend&)) {
  auto found = FindBackend(device);
  if (!found.ok()) return found.status();
  const Backend& backend = wrap == nullptr ? **found : wrap(**found);
  auto index = DeviceIndex(device);
  if (!index.ok()) return index.status();
  auto stream = backend.open_stream(*index, {.threads = source.threads});
  if (!stream.ok()) return stream.status();
  auto shared = SharedWeights::Load(checkpoint, backend, **stream);
  if (!shared.ok()) return shared.status();
  return std::unique_ptr<LoadedDevice>(
      new LoadedDevice(source, backend, *std::move(stream), *std::move(shared)));
}

LoadedDevice::LoadedDevice(const ModelSource& source, const Backend& backend,
                           std::unique_ptr<Stream> stream,
                           std::shared_ptr<const SharedWeights> shared)
    : backend_(backend),
      stream_(std::move(stream)),
      shared_(std::move(shared)),
      planner_(backend_, *stream_, {.forced_kernels = source.kernel}) {}

absl::StatusOr<std::unique_ptr<Forward>> LoadedDevice::Load(const Checkpoint& checkpoint,
                                                            const std::string& name) {
  auto format = FindFormat(name);
  if (!format.ok()) return format.status();
  auto attention = ChooseAttention(backend_, **format, checkpoint.spec().head_size, "");
  if (!attention.ok()) return attention.status();
  return Forward::Load(checkpoint, shared_, backend_, **format, Method::kRoundToNearest, *attention,
                       planner_, *stream_);
}

}  // namespace octavo::bench
