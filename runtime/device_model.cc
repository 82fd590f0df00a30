#include "runtime/device_model.h"

#include <algorithm>
#include <utility>

namespace octavo {

int64_t DeviceModel::bytes() const {
  int64_t bytes = shared->bytes;
  for (const auto& forward : forwards) bytes += forward->bytes();
  return bytes;
}

int64_t DeviceModel::EstimateBytes(const ModelSpec& spec, const LaneFormat (&formats)[kLanes]) {
  const int64_t embeddings = int64_t{spec.vocabulary} + spec.max_tokens + 1;  // one token type
  constexpr int64_t kFloat = sizeof(float);  // of embeddings, scales, zero points and biases
  int64_t bytes = embeddings * spec.hidden * kFloat;
  for (int l = 0; l < kLanes; ++l) {
    if (std::find(formats, formats + l, formats[l]) != formats + l) continue;
    const Encoding& encoding = formats[l].format->weight;
    const int64_t floats_a_group =
        (encoding.scale != ScaleElement::kNone) + (encoding.zero != Zero::kNone);
    for (const LayerSpec& layer : spec.layers) {
      for (const LinearSpec* linear :
           {&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down}) {
        const EncodedMatrix weight = {
            .encoding = encoding, .rows = linear->shape.n, .columns = linear->shape.k};
        bytes +=
            weight.rows * (weight.row_bytes() + weight.groups() * floats_a_group * kFloat + kFloat);
      }
    }
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<DeviceModel>> DeviceModel::Load(
    const Checkpoint& checkpoint, const Device& device, const LaneFormat (&formats)[kLanes],
    const std::string& attention_kernel, LinearPlanner& planner, Stream& stream) {
  auto model = std::make_unique<DeviceModel>();
  model->device = device;
  model->processor = stream.processor();
  const Backend& backend = *device.backend;
  absl::StatusOr<std::shared_ptr<const SharedWeights>> shared =
      SharedWeights::Load(checkpoint, backend, stream);
  if (!shared.ok()) return shared.status();
  model->shared = *std::move(shared);
  for (int l = 0; l < kLanes; ++l) {
    for (int earlier = 0; earlier < l; ++earlier) {
      if (formats[earlier] == formats[l]) model->lanes[l] = model->lanes[earlier];
    }
    if (model->lanes[l] != nullptr) continue;
    absl::StatusOr<AttentionRows> attention =
        ChooseAttention(backend, *formats[l].format, checkpoint.spec().head_size, attention_kernel);
    if (!attention.ok()) return attention.status();
    absl::StatusOr<std::unique_ptr<Forward>> forward =
        Forward::Load(checkpoint, model->shared, backend, *formats[l].format, formats[l].method,
                      *attention, planner, stream);
    if (!forward.ok()) return forward.status();
    model->lanes[l] = forward->get();
    model->forwards.push_back(*std::move(forward));
  }
  return model;
}

}  // namespace octavo
