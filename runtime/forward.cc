#include "runtime/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace octavo {
namespace {

// Below this many rows a slot, a batch runs as one block whose products the whole stream shares:
// a block of its own would read every weight for too few rows.
constexpr int64_t kLeastBlockRows = 32;

int64_t ElementBytes(Element element) {
  switch (element) {
    case Element::kF32:
      return 4;
    case Element::kF16:
    case Element::kBf16:
      return 2;
    default:
      return 1;
  }
}

template <typename T>
T* At(const Buffer& buffer, int64_t index) {
  return buffer.as<T>() + index;
}

absl::StatusOr<Buffer> Copy(const Backend& backend, const std::vector<float>& values) {
  absl::StatusOr<Buffer> buffer = backend.allocate(values.size() * sizeof(float));
  if (buffer.ok()) std::memcpy(buffer->as<float>(), values.data(), values.size() * sizeof(float));
  return buffer;
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

absl::StatusOr<const AttentionKernel*> ChooseAttention(const Backend& backend, const Format& format,
                                                       int head_size, std::string_view forced) {
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
    } else {
      return &row;
    }
    absl::StrAppend(&refused, "\n  ", View(row.name), ": ", why);
  }
  return absl::FailedPreconditionError(
      absl::StrCat("no attention kernel of ", View(backend.name), " fits:", refused));
}

void RaggedBatch::Add(const std::vector<int32_t>& sequence) {
  ids.insert(ids.end(), sequence.begin(), sequence.end());
  for (size_t i = 0; i < sequence.size(); ++i) positions.push_back(static_cast<int32_t>(i));
  offsets.push_back(static_cast<int32_t>(ids.size()));
}

void RaggedBatch::Clear() {
  ids.clear();
  positions.clear();
  offsets.assign(1, 0);
}

absl::StatusOr<std::shared_ptr<const SharedWeights>> SharedWeights::Load(
    const Checkpoint& checkpoint, const Backend& backend) {
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
    absl::StatusOr<Buffer> buffer = Copy(backend, *values);
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
  if (!status.ok()) return status;
  return shared;
}

absl::StatusOr<std::unique_ptr<Forward>> Forward::Load(const Checkpoint& checkpoint,
                                                       std::shared_ptr<const SharedWeights> shared,
                                                       const Backend& backend, const Format& format,
                                                       Method method,
                                                       const AttentionKernel& attention,
                                                       LinearPlanner& planner, Stream& stream) {
  std::unique_ptr<Forward> forward(new Forward(std::move(shared), backend, format, attention));
  const ModelSpec& spec = forward->spec();
  forward->layers_.resize(spec.layers.size());

  struct Task {
    const LinearSpec* spec;
    Linear* linear;
    LinearChoice choice;
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
      tasks.push_back({linear_spec, linear, *std::move(choice)});
    }
  }

  std::vector<absl::Status> results(tasks.size());
  const auto load = [&](const Task& task) -> absl::Status {
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
      absl::StatusOr<Buffer> buffer = Copy(backend, *bias);
      if (!buffer.ok()) return buffer.status();
      task.linear->bias = *std::move(buffer);
    }
    return absl::OkStatus();
  };
  stream.ForEachBlock(tasks.size(), [&](int64_t i, int, Stream&) { results[i] = load(tasks[i]); });
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (!results[i].ok()) return results[i];
    forward->bytes_ += tasks[i].linear->packed.bytes() + tasks[i].linear->bias.bytes();
  }
  return forward;
}

std::vector<std::string> Forward::kernel_names() const {
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
  add(attention_.name);
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

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(const Forward& forward,
                                                                 Stream& stream,
                                                                 int64_t max_tokens) {
  std::unique_ptr<ForwardPass> pass(new ForwardPass(forward, stream));
  pass->slots_.resize(stream.slots());
  if (absl::Status status = pass->Reserve(max_tokens, kLeastBlockRows); !status.ok()) return status;
  return pass;
}

absl::Status ForwardPass::Reserve(int64_t tokens, int64_t block_rows) {
  const ModelSpec& spec = forward_.spec();
  const Backend& backend = forward_.backend();
  absl::Status status;
  const auto allocate = [&](Buffer* buffer, int64_t bytes) {
    if (!status.ok()) return;
    absl::StatusOr<Buffer> allocated = backend.allocate(bytes);
    if (allocated.ok()) {
      *buffer = *std::move(allocated);
    } else {
      status = allocated.status();
    }
  };
  if (tokens > capacity_) {
    allocate(&hidden_, tokens * spec.hidden * sizeof(float));
    if (!spec.layers.empty()) {
      const int64_t n = spec.layers.front().query_key_value.shape.n;
      for (Buffer& buffer : query_key_value_) {
        allocate(&buffer, tokens * n * ElementBytes(forward_.attention_.input));
      }
    }
    capacity_ = status.ok() ? tokens : 0;
  }
  const int64_t widest = std::max(spec.hidden, spec.intermediate);
  for (Slot& slot : slots_) {
    if (slot.rows >= block_rows) continue;
    // Widest element each may hold: the row a plan picks decides at run time.
    allocate(&slot.input, block_rows * widest * sizeof(float));
    allocate(&slot.input_scales, block_rows * sizeof(float));
    allocate(&slot.input_sums, block_rows * sizeof(int32_t));
    allocate(&slot.context, block_rows * spec.heads * spec.head_size * sizeof(float));
    allocate(&slot.up, block_rows * spec.intermediate * sizeof(float));
    allocate(&slot.up_scales, block_rows * sizeof(float));
    allocate(&slot.up_sums, block_rows * sizeof(int32_t));
    slot.rows = status.ok() ? block_rows : 0;
  }
  return status;
}

absl::Status ForwardPass::Begin(const RaggedBatch& batch, int64_t unit_rows) {
  const int64_t tokens = batch.tokens();
  const int64_t slots = static_cast<int64_t>(slots_.size());
  if (tokens < kLeastBlockRows * slots || slots == 1) {
    block_rows_ = slots == 1 ? std::min(std::max(unit_rows, kLeastBlockRows), tokens) : tokens;
    blocks_a_unit_ = 1;
  } else {
    // Equal blocks, a whole number of units: no slot waits for a last odd block.
    const int64_t most = std::max(unit_rows, kLeastBlockRows);
    const int64_t units = (tokens + most * slots - 1) / (most * slots);
    block_rows_ = (tokens + units * slots - 1) / (units * slots);
    blocks_a_unit_ = slots;
  }
  if (absl::Status status = Reserve(tokens, block_rows_); !status.ok()) return status;
  batch_ = &batch;
  stage_ = 0;
  next_row_ = 0;
  running_ = tokens > 0;
  return absl::OkStatus();
}

double ForwardPass::NextUnitFlops() const {
  const int64_t rows = std::min(block_rows_ * blocks_a_unit_, batch_->tokens() - next_row_);
  const double stages = static_cast<double>(forward_.layers_.size());
  return forward_.BatchFlops(*batch_) / stages * static_cast<double>(rows) /
         static_cast<double>(batch_->tokens());
}

void ForwardPass::RunUnit() {
  const int64_t tokens = batch_->tokens();
  const int64_t blocks =
      std::min(blocks_a_unit_, (tokens - next_row_ + block_rows_ - 1) / block_rows_);
  stream_.ForEachBlock(blocks, [&](int64_t block, int slot, Stream& inner) {
    const int64_t begin = next_row_ + block * block_rows_;
    RunBlock(stage_, begin, std::min(begin + block_rows_, tokens), slots_[slot], inner);
  });
  next_row_ = std::min(tokens, next_row_ + blocks * block_rows_);
  if (next_row_ == tokens) {
    next_row_ = 0;
    ++stage_;
    running_ = stage_ <= static_cast<int>(forward_.layers_.size());
  }
}

void ForwardPass::RunBlock(int stage, int64_t begin, int64_t end, Slot& slot, Stream& stream) {
  if (stage == 0) {
    Embed(begin, end, stream);
  } else {
    RunAttention(stage - 1, begin, end, slot, stream);
    RunFeedForward(stage - 1, begin, end, slot, stream);
  }
  if (stage < static_cast<int>(forward_.layers_.size())) {
    MakeQueryKeyValue(stage, begin, end, slot, stream);
  }
}

void ForwardPass::Embed(int64_t begin, int64_t end, Stream& stream) {
  const SharedWeights& shared = *forward_.shared_;
  const int64_t hidden = shared.spec.hidden;
  const EmbeddingTables tables = {shared.word.as<float>(), shared.position.as<float>(),
                                  shared.token_type.as<float>()};
  forward_.backend_.rows.embed(tables, batch_->ids.data() + begin, batch_->positions.data() + begin,
                               end - begin, hidden, At<float>(hidden_, begin * hidden), stream);
  Norm(shared.embedding_norm, begin, end, stream);
}

void ForwardPass::Norm(const SharedWeights::NormWeights& weights, int64_t begin, int64_t end,
                       Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  forward_.backend_.rows.layer_norm(At<float>(hidden_, begin * spec.hidden), end - begin,
                                    spec.hidden, weights.gain.as<float>(), weights.bias.as<float>(),
                                    spec.norm_epsilon, stream);
}

Matrix ForwardPass::Encode(const PackedLinear& linear, const float* input, int64_t rows,
                           int64_t columns, Slot& slot, Stream& stream) {
  const Element element = linear.input(rows);
  if (element == Element::kF32) {
    return {const_cast<float*>(input), columns, Element::kF32};
  }
  const Matrix encoded = {slot.input.as<void>(), columns, element, slot.input_scales.as<float>(),
                          slot.input_sums.as<int32_t>()};
  forward_.backend_.rows.encode(input, rows, columns, encoded, stream);
  return encoded;
}

void ForwardPass::MakeQueryKeyValue(int layer, int64_t begin, int64_t end, Slot& slot,
                                    Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  const Forward::Linear& linear = forward_.layers_[layer].query_key_value;
  const Element element = forward_.attention_.input;
  const int64_t n = spec.layers[layer].query_key_value.shape.n;
  LinearArgs args;
  args.rows = end - begin;
  args.input = Encode(linear.packed, At<float>(hidden_, begin * spec.hidden), args.rows,
                      spec.hidden, slot, stream);
  args.output = {At<uint8_t>(query_key_value_[layer % 2], begin * n * ElementBytes(element)), n,
                 element};
  args.epilogue.bias = linear.bias.as<float>();
  linear.packed.Run(args, stream);
}

void ForwardPass::RunAttention(int layer, int64_t begin, int64_t end, Slot& slot, Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  const Forward::Layer& weights = forward_.layers_[layer];
  const int64_t rows = end - begin;
  const int64_t width = static_cast<int64_t>(spec.heads) * spec.head_size;
  const int64_t key_width = static_cast<int64_t>(spec.key_value_heads) * spec.head_size;
  const int64_t element_bytes = ElementBytes(forward_.attention_.input);
  const Element wanted = weights.attention_output.packed.input(rows);
  const Element produced = wanted == Element::kBf16 ? Element::kBf16 : Element::kF32;

  AttentionArgs attention;
  uint8_t* base = query_key_value_[layer % 2].as<uint8_t>();
  attention.q = base;
  attention.k = base + width * element_bytes;
  attention.v = base + (width + key_width) * element_bytes;
  attention.stride = width + 2 * key_width;
  attention.heads = spec.heads;
  attention.key_value_heads = spec.key_value_heads;
  attention.head_size = spec.head_size;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_size));
  attention.offsets = batch_->offsets.data();
  attention.sequences = batch_->sequences();
  attention.row_begin = begin;
  attention.row_end = end;
  attention.mask = weights.mask;
  attention.window = weights.window;
  // Output rows count from the batch's first row; the slot holds only this block's.
  attention.output = {slot.context.as<uint8_t>() - begin * width * ElementBytes(produced), width,
                      produced};
  forward_.attention_.run(attention, stream);

  const Forward::Linear& linear = weights.attention_output;
  LinearArgs args;
  args.rows = rows;
  args.input = produced == wanted
                   ? Matrix{slot.context.as<void>(), width, produced}
                   : Encode(linear.packed, slot.context.as<float>(), rows, width, slot, stream);
  float* hidden = At<float>(hidden_, begin * spec.hidden);
  args.output = {hidden, spec.hidden, Element::kF32};
  args.epilogue.bias = linear.bias.as<float>();
  args.epilogue.residual = hidden;
  args.epilogue.residual_stride = spec.hidden;
  linear.packed.Run(args, stream);
  Norm(forward_.shared_->layers[layer].attention, begin, end, stream);
}

void ForwardPass::RunFeedForward(int layer, int64_t begin, int64_t end, Slot& slot,
                                 Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  const Forward::Layer& weights = forward_.layers_[layer];
  const int64_t rows = end - begin;
  float* hidden = At<float>(hidden_, begin * spec.hidden);

  LinearArgs up;
  up.rows = rows;
  up.input = Encode(weights.up.packed, hidden, rows, spec.hidden, slot, stream);
  // The next product's activation encoding is made in this one's epilogue.
  up.output = {slot.up.as<void>(), spec.intermediate, weights.down.packed.input(rows),
               slot.up_scales.as<float>(), slot.up_sums.as<int32_t>()};
  up.epilogue.bias = weights.up.bias.as<float>();
  up.epilogue.activation = spec.activation;
  weights.up.packed.Run(up, stream);

  LinearArgs down;
  down.rows = rows;
  down.input = up.output;
  down.output = {hidden, spec.hidden, Element::kF32};
  down.epilogue.bias = weights.down.bias.as<float>();
  down.epilogue.residual = hidden;
  down.epilogue.residual_stride = spec.hidden;
  weights.down.packed.Run(down, stream);
  Norm(forward_.shared_->layers[layer].output, begin, end, stream);
}

void ForwardPass::Pool(float* output) {
  const ModelSpec& spec = forward_.spec();
  const RowOperations& rows = forward_.backend_.rows;
  const auto pool = spec.pooling == Pooling::kMean ? rows.mean_pool : rows.first_pool;
  pool(hidden_.as<float>(), batch_->offsets.data(), batch_->sequences(), spec.hidden, output,
       stream_);
}

int64_t ForwardPass::bytes() const {
  int64_t bytes = hidden_.bytes() + query_key_value_[0].bytes() + query_key_value_[1].bytes();
  for (const Slot& slot : slots_) {
    for (const Buffer* buffer : {&slot.input, &slot.input_scales, &slot.input_sums, &slot.context,
                                 &slot.up, &slot.up_scales, &slot.up_sums}) {
      bytes += buffer->bytes();
    }
  }
  return bytes;
}

}  // namespace octavo
