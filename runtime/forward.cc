#include "runtime/forward.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

absl::StatusOr<Buffer> Copy(const Backend& backend, const std::vector<float>& values,
                            Stream& stream) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
  absl::StatusOr<Buffer> buffer = backend.allocate(bytes);
  if (buffer.ok()) stream.Upload(buffer->as<void>(), values.data(), bytes);
  return buffer;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

absl::StatusOr<const AttentionKernel*> ChooseAttention(const Backend& backend, const Format& format,
                                                       int head_size, std::string_view forced,
                                                       Lane lane) {
  const uint32_t have = backend.instruction_sets();
  std::string refused;
  for (const AttentionKernel& row : backend.attention_kernels()) {
    const uint32_t missing = row.instruction_sets & ~have;
    std::string why;
    if (!forced.empty() && row.name != forced) {
      why = absl::StrCat("--attention_kernel=", View(forced));
    } else if (missing != 0) {
      why = absl::StrCat("needs ", backend.instruction_set_names(missing));
    } else if (!row.fits(head_size)) {
      why = absl::StrCat("does not fit head size ", head_size);
    } else if (forced.empty() && format.weight.element == Element::kF32 &&
               row.input != Element::kF32) {
      why = "format f32 keeps f32 attention";
    } else if (forced.empty() && row.input == Element::kF16 &&
               backend.hidden(format) == Element::kBf16) {
      why = absl::StrCat("format ", View(format.name), " keeps the range of bf16");
    } else if (forced.empty() && format.activation.element != Element::kInt8 &&
               row.score_levels > 0 && row.score_levels < 256) {
      why = absl::StrCat("format ", View(format.name), " keeps scores of 16 bits");
    } else if (forced.empty() && row.for_short_sequences && lane == Lane::kDocument) {
      why = "is for short sequences";
    } else {
      return &row;
    }
    absl::StrAppend(&refused, "\n  ", View(row.name), ": ", why);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("no attention kernel of ", View(backend.name), " fits:", refused));
}

}  // namespace

absl::StatusOr<AttentionRows> ChooseAttention(const Backend& backend, const Format& format,
                                              int head_size, std::string_view forced) {
  AttentionRows rows;
  for (Lane lane : kAllLanes) {
    absl::StatusOr<const AttentionKernel*> row =
        ChooseAttention(backend, format, head_size, forced, lane);
    if (!row.ok()) return row.status();
    rows.lanes[static_cast<int>(lane)] = *row;
  }
  return rows;
}

void RaggedBatch::Add(const std::vector<int32_t>& sequence) {
  ids.insert(ids.end(), sequence.begin(), sequence.end());
  positions.resize(ids.size());
  std::iota(positions.end() - std::ssize(sequence), positions.end(), 0);
  offsets.push_back(static_cast<int32_t>(ids.size()));
}

void RaggedBatch::Clear() {
  ids.clear();
  positions.clear();
  offsets.assign(1, 0);
}

absl::StatusOr<std::shared_ptr<const SharedWeights>> SharedWeights::Load(
    const Checkpoint& checkpoint, const Backend& backend, Stream& stream) {
  auto shared = std::make_shared<SharedWeights>();
  shared->spec = checkpoint.spec();
  const ModelSpec& spec = shared->spec;
  absl::Status status;
  const auto read = [&](const std::string& name, const std::vector<int64_t>& shape,
                        int64_t elements, Buffer* to) {
    if (!status.ok() || name.empty()) return;
    absl::StatusOr<std::vector<float>> values = checkpoint.Read(name, shape);
    if (!values.ok()) {
      status = values.status();
      return;
    }
    values->resize(elements);
    absl::StatusOr<Buffer> buffer = Copy(backend, *values, stream);
    if (!buffer.ok()) {
      status = buffer.status();
      return;
    }
    *to = *std::move(buffer);
    shared->bytes += to->bytes();
  };
  const auto read_norm = [&](const NormSpec& norm, NormWeights* to) {
    read(norm.gain, {spec.hidden}, spec.hidden, &to->gain);
    read(norm.bias, {spec.hidden}, spec.hidden, &to->bias);
  };

  const int64_t hidden = spec.hidden;
  read(spec.word_embedding, {spec.vocabulary, hidden}, spec.vocabulary * hidden, &shared->word);
  // Only the positions a sequence can reach are kept.
  read(spec.position_embedding, {spec.max_positions, hidden},
       std::min<int64_t>(spec.max_tokens, spec.max_positions) * hidden, &shared->position);
  if (!spec.token_type_embedding.empty()) {
    read(spec.token_type_embedding, {spec.token_types, hidden}, hidden, &shared->token_type);
  }
  read_norm(spec.embedding_norm, &shared->embedding_norm);
  shared->layers.resize(spec.layers.size());
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    read_norm(spec.layers[l].attention_norm, &shared->layers[l].attention);
    read_norm(spec.layers[l].output_norm, &shared->layers[l].output);
  }
  if (status.ok()) status = stream.Finish();
  if (!status.ok()) return status;
  return shared;
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Load(const Checkpoint& checkpoint,
                                                       std::shared_ptr<const SharedWeights> shared,
                                                       const Backend& backend, const Format& format,
                                                       Method method,
                                                       const AttentionRows& attention,
                                                       LinearPlanner& planner, Stream& stream) {
  std::unique_ptr<Forward> forward(new Forward(std::move(shared), backend, format, attention));
  const ModelSpec& spec = forward->spec();
  forward->layers_.resize(spec.layers.size());

  struct Task {
    const LinearSpec* spec;
    Linear* linear;
    LinearChoice choice;
    std::vector<float> bias;
  };
  std::vector<Task> tasks;
  for (size_t l = 0; l < spec.layers.size(); ++l) {
    const LayerSpec& from = spec.layers[l];
    Layer& to = forward->layers_[l];
    to.mask = from.mask;
    to.window = from.window;
    for (auto [linear_spec, linear] :
         {std::pair(&from.query_key_value, &to.query_key_value),
          std::pair(&from.attention_output, &to.attention_output), std::pair(&from.up, &to.up),
          std::pair(&from.down, &to.down)}) {
      absl::StatusOr<LinearChoice> choice = planner.Plan(format, linear_spec->shape);
      if (!choice.ok()) return choice.status();
      tasks.push_back({linear_spec, linear, *std::move(choice), {}});
    }
  }

  std::vector<absl::Status> results(tasks.size());
  const auto load = [&](Task& task) -> absl::Status {
    absl::StatusOr<std::vector<float>> weight = checkpoint.ReadWeight(*task.spec);
    if (!weight.ok()) return weight.status();
    absl::StatusOr<EncodedMatrix> encoded =
        EncodeMatrix(format, method, *weight, task.spec->shape.n, task.spec->shape.k);
    if (!encoded.ok()) {
      return absl::Status(encoded.status().code(), absl::StrCat(task.spec->weights.front(), ": ",
                                                                encoded.status().message()));
    }
    *weight = std::vector<float>();
    absl::StatusOr<PackedLinear> packed = task.choice.Pack(format, *encoded);
    if (!packed.ok()) return packed.status();
    task.linear->packed = *std::move(packed);
    if (!task.spec->biases.empty()) {
      absl::StatusOr<std::vector<float>> bias = checkpoint.ReadBias(*task.spec);
      if (!bias.ok()) return bias.status();
      task.bias = *std::move(bias);
    }
    return absl::OkStatus();
  };
  stream.ForEachTask(tasks.size(), [&](int64_t i) { results[i] = load(tasks[i]); });
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (!results[i].ok()) return results[i];
    if (!tasks[i].bias.empty()) {
      absl::StatusOr<Buffer> bias = Copy(backend, tasks[i].bias, stream);
      if (!bias.ok()) return bias.status();
      tasks[i].linear->bias = *std::move(bias);
    }
    forward->bytes_ += tasks[i].linear->packed.bytes() + tasks[i].linear->bias.bytes();
  }
  if (absl::Status status = stream.Finish(); !status.ok()) return status;
  return forward;
}

std::vector<std::string> Forward::kernel_names(Lane lane) const {
  std::vector<std::string> names;
  const auto add = [&](std::string_view name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.emplace_back(name);
  };
  for (const Layer& layer : layers_) {
    for (const Linear* linear :
         {&layer.query_key_value, &layer.attention_output, &layer.up, &layer.down}) {
      for (std::string_view name : linear->packed.kernel_names()) add(name);
    }
  }
  add(attention_[lane].name);
  return names;
}

double Forward::BatchFlops(const RaggedBatch& batch) const {
  double flops = spec().linear_flops_per_token() * static_cast<double>(batch.tokens());
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    const double length = batch.offsets[s + 1] - batch.offsets[s];
    flops += length * spec().attention_flops_per_token(length);
  }
  return flops;
}

}  // namespace octavo
