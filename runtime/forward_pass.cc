#include "runtime/forward_pass.h"

#include <algorithm>
#include <cmath>

#include "kernels/element_bytes.h"

namespace octavo {
namespace {

// Below this many rows a slot, a batch runs as one block whose products the whole stream shares:
// a block of its own would read every weight for too few rows.
constexpr int64_t kLeastBlockRows = 32;
// Slots hold a multiple of this many rows: a column of scales begins on a boundary of 128 bytes.
constexpr int64_t kSlotRows = 32;
// A block of many rows is cut where a GPU's tiles end.
constexpr int64_t kManyRows = 1024;
constexpr int64_t kTileRows = 128;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Batches whose passes are recorded: up to so many tokens. Every power of two, where plans change
// rows, and between them what keeps the blocks without work few.
constexpr int64_t kRecordedTokens[] = {8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};
// A query is rarely shorter; batches of more sequences take the next recording.
constexpr int64_t kTokensOfASequence = 4;

// Values that share a scale of an encoding with scales along a row.
constexpr int64_t kScaleColumns = 128;

void* At(const Buffer& buffer, int64_t elements, Element element) {
  return buffer.as<uint8_t>() + elements * ElementBytes(element);
}

}  // namespace

ForwardPass::ForwardPass(const Forward& forward, const AttentionKernel& attention, Stream& stream,
                         std::shared_ptr<Workspace> workspace)
    : forward_(forward),
      attention_(attention),
      stream_(stream),
      element_(forward.backend().hidden(forward.format())),
      workspace_(std::move(workspace)),
      device_batch_(forward.backend()) {}

absl::StatusOr<std::unique_ptr<ForwardPass>> ForwardPass::Create(const Forward& forward, Lane lane,
                                                                 Stream& stream,
                                                                 int64_t max_tokens) {
  std::unique_ptr<ForwardPass> pass(
      new ForwardPass(forward, forward.attention_[lane], stream, std::make_shared<Workspace>()));
  pass->workspace_->slots.resize(stream.slots());
  if (absl::Status status = pass->Reserve(max_tokens, kLeastBlockRows); !status.ok()) return status;
  return pass;
}

std::unique_ptr<ForwardPass> ForwardPass::Alternate() const {
  return std::unique_ptr<ForwardPass>(new ForwardPass(forward_, attention_, stream_, workspace_));
}

absl::Status ForwardPass::Reserve(int64_t tokens, int64_t block_rows) {
  Workspace& workspace = *workspace_;
  if (tokens <= workspace.tokens && block_rows <= workspace.slots.back().rows) {
    return absl::OkStatus();
  }
  // The work before may still use what is given back, and what was recorded always will.
  absl::Status status = stream_.Finish();
  recordings_.clear();
  const ModelSpec& spec = forward_.spec();
  const Backend& backend = forward_.backend();
  const auto allocate = [&](Buffer* buffer, int64_t bytes) {
    if (!status.ok()) return;
    absl::StatusOr<Buffer> allocated = backend.allocate(bytes);
    if (allocated.ok()) {
      *buffer = *std::move(allocated);
    } else {
      status = allocated.status();
    }
  };
  if (tokens > workspace.tokens) {
    allocate(&workspace.hidden, tokens * spec.hidden * ElementBytes(element_));
    if (!spec.layers.empty()) {
      const int64_t n = spec.layers.front().query_key_value.shape.n;
      for (Buffer& buffer : workspace.query_key_value) {
        allocate(&buffer, tokens * n * ElementBytes(attention_.input));
      }
    }
    workspace.tokens = status.ok() ? tokens : 0;
  }
  const int64_t widest = std::max(spec.hidden, spec.intermediate);
  const int64_t scale_groups = (widest + kScaleColumns - 1) / kScaleColumns;
  // By half at least: as a device's rate is learned its units grow step by step.
  const int64_t held = workspace.slots.back().rows;
  if (block_rows > held) block_rows = std::max(block_rows, std::min(held / 2 * 3, tokens));
  block_rows = RoundUp(block_rows, kSlotRows);
  for (Slot& slot : workspace.slots) {
    if (slot.rows >= block_rows) continue;
    // Widest element each may hold: the row a plan picks decides at run time.
    allocate(&slot.input, block_rows * widest * sizeof(float));
    allocate(&slot.input_scales, block_rows * scale_groups * sizeof(float));
    allocate(&slot.input_sums, block_rows * sizeof(int32_t));
    allocate(&slot.context, block_rows * spec.heads * spec.head_size * sizeof(float));
    if (!backend.product_adds_residual) {
      allocate(&slot.product, block_rows * spec.hidden * ElementBytes(element_));
    }
    allocate(&slot.up, block_rows * spec.intermediate * sizeof(float));
    allocate(&slot.up_scales, block_rows * scale_groups * sizeof(float));
    allocate(&slot.up_sums, block_rows * sizeof(int32_t));
    slot.rows = status.ok() ? block_rows : 0;
  }
  return status;
}

absl::Status ForwardPass::ReservePooled(int64_t sequences) {
  const int64_t bytes = sequences * forward_.spec().hidden * static_cast<int64_t>(sizeof(float));
  if (bytes <= pooled_.bytes()) return absl::OkStatus();
  absl::StatusOr<Buffer> pooled = forward_.backend().allocate_host(bytes);
  if (!pooled.ok()) return pooled.status();
  pooled_ = *std::move(pooled);
  return absl::OkStatus();
}

absl::Status ForwardPass::Record() {
  if (!stream_.captures()) return absl::OkStatus();
  // Nothing that a recording uses may move later.
  const int64_t capacity = workspace_->tokens;
  if (absl::Status status = Reserve(capacity, capacity); !status.ok()) return status;
  if (absl::Status status = ReservePooled(capacity); !status.ok()) return status;
  const int tile = attention_.query_tile;
  if (absl::Status status = device_batch_.Stage({}, {capacity, capacity}, tile); !status.ok()) {
    return status;
  }
  for (const int64_t tokens : kRecordedTokens) {
    if (tokens > capacity) break;
    bounds_ = {tokens, tokens / kTokensOfASequence};
    RaggedBatch batch;
    while (batch.tokens() < tokens) {
      const int64_t most = forward_.spec().max_tokens;
      batch.Add(std::vector<int32_t>(std::min(most, tokens - batch.tokens())));
    }
    if (absl::Status status = device_batch_.Stage(batch, bounds_, tile); !status.ok()) {
      return status;
    }
    device_rows_ = device_batch_.tokens();
    const auto pass = [&] {
      device_batch_.Upload(stream_);
      for (int stage = 0; stage <= std::ssize(forward_.layers_); ++stage) {
        RunBlock(stage, {0, bounds_.tokens}, workspace_->slots.front(), stream_);
      }
      Pool();
    };
    // Once for real: kernels are loaded, scratch grows.
    pass();
    if (absl::Status status = stream_.Finish(); !status.ok()) return status;
    absl::StatusOr<std::unique_ptr<Stream::Graph>> graph = stream_.Capture(pass);
    if (!graph.ok()) return graph.status();
    recordings_.push_back({bounds_, *std::move(graph)});
  }
  device_rows_ = nullptr;
  return absl::OkStatus();
}

const ForwardPass::Recording* ForwardPass::FindRecording(const RaggedBatch& batch) const {
  for (const Recording& recording : recordings_) {
    if (batch.tokens() <= recording.bounds.tokens &&
        batch.sequences() <= recording.bounds.sequences) {
      return &recording;
    }
  }
  return nullptr;
}

absl::Status ForwardPass::Begin(const RaggedBatch& batch, int64_t unit_rows) {
  batch_ = &batch;
  recording_ = FindRecording(batch);
  if (recording_ != nullptr) {
    const absl::Status status =
        device_batch_.Stage(batch, recording_->bounds, attention_.query_tile);
    running_ = status.ok();
    return status;
  }
  const int64_t tokens = batch.tokens();
  const int64_t slots = std::ssize(workspace_->slots);
  block_rows_ = tokens;
  blocks_a_unit_ = 1;
  if (tokens >= kLeastBlockRows * slots) {
    // Equal blocks, a whole number of units: no slot waits for a last odd block, and no unit is too
    // small for the device.
    const int64_t most = std::max(unit_rows, kLeastBlockRows);
    const int64_t units = (tokens + most * slots - 1) / (most * slots);
    block_rows_ = (tokens + units * slots - 1) / (units * slots);
    if (block_rows_ >= kManyRows) block_rows_ = RoundUp(block_rows_, kTileRows);
    blocks_a_unit_ = slots;
  }
  if (absl::Status status = Reserve(tokens, block_rows_); !status.ok()) return status;
  if (absl::Status status = ReservePooled(batch.sequences()); !status.ok()) return status;
  if (absl::Status status = device_batch_.Load(batch, block_rows_, attention_.query_tile, stream_);
      !status.ok()) {
    return status;
  }
  bounds_ = {tokens, batch.sequences()};
  stage_ = 0;
  next_row_ = 0;
  running_ = tokens > 0;
  return absl::OkStatus();
}

double ForwardPass::QueryKeyValueFlops(int layer) const {
  const LinearShape shape = forward_.layers_[layer].query_key_value.packed.shape();
  return 2.0 * static_cast<double>(shape.n * shape.k);
}

double ForwardPass::NextUnitFlops() const {
  if (recording_ != nullptr) return forward_.BatchFlops(*batch_);
  const double tokens = static_cast<double>(batch_->tokens());
  const int64_t rows = std::min(block_rows_ * blocks_a_unit_, batch_->tokens() - next_row_);
  const double layers = static_cast<double>(forward_.layers_.size());
  double flops = 0;  // of the stage, for all rows
  if (stage_ < layers) flops += QueryKeyValueFlops(stage_) * tokens;
  if (stage_ > 0) {
    flops += forward_.BatchFlops(*batch_) / layers - QueryKeyValueFlops(stage_ - 1) * tokens;
  }
  return flops * static_cast<double>(rows) / tokens;
}

void ForwardPass::RunUnit() {
  if (recording_ != nullptr) {
    stream_.Replay(*recording_->graph);
    running_ = false;
    return;
  }
  const int64_t tokens = batch_->tokens();
  const int64_t blocks =
      std::min(blocks_a_unit_, (tokens - next_row_ + block_rows_ - 1) / block_rows_);
  stream_.ForEachBlock(blocks, [&](int64_t block, int slot, Stream& inner) {
    const int64_t begin = next_row_ + block * block_rows_;
    RunBlock(stage_, {begin, std::min(begin + block_rows_, tokens)}, workspace_->slots[slot],
             inner);
  });
  next_row_ = std::min(tokens, next_row_ + blocks * block_rows_);
  if (next_row_ == tokens) {
    next_row_ = 0;
    ++stage_;
    running_ = stage_ <= static_cast<int>(forward_.layers_.size());
    if (!running_) Pool();
  }
}

void ForwardPass::RunBlock(int stage, Rows rows, Slot& slot, Stream& stream) {
  const bool last = stage == static_cast<int>(forward_.layers_.size());
  const PackedLinear* next = last ? nullptr : &forward_.layers_[stage].query_key_value.packed;
  Matrix input;
  if (stage == 0) {
    input = Embed(rows, *next, slot, stream);
  } else {
    input = RunAttention(stage - 1, rows, slot, stream);
    input = RunFeedForward(stage - 1, input, rows, next, slot, stream);
  }
  if (!last) MakeQueryKeyValue(stage, input, rows, stream);
}

Matrix ForwardPass::Hidden(int64_t row) const {
  const int64_t hidden = forward_.spec().hidden;
  return {At(workspace_->hidden, row * hidden, element_), hidden, element_};
}

Matrix ForwardPass::EncodedInput(Element element, int64_t columns, const Slot& slot) const {
  return {slot.input.as<void>(),         columns,  element, slot.input_scales.as<float>(),
          slot.input_sums.as<int32_t>(), slot.rows};
}

NormArgs ForwardPass::MakeNorm(const SharedWeights::NormWeights& weights, Rows rows,
                               const PackedLinear* next, Slot& slot) {
  const ModelSpec& spec = forward_.spec();
  NormArgs norm;
  norm.rows = rows.count();
  norm.device_rows = device_rows_;
  norm.columns = spec.hidden;
  norm.gain = weights.gain.as<float>();
  norm.bias = weights.bias.as<float>();
  norm.epsilon = spec.norm_epsilon;
  norm.hidden = Hidden(rows.begin);
  if (next != nullptr && next->input(rows.count()) != element_) {
    norm.encoded = EncodedInput(next->input(rows.count()), spec.hidden, slot);
  }
  return norm;
}

Matrix ForwardPass::Embed(Rows rows, const PackedLinear& next, Slot& slot, Stream& stream) {
  const SharedWeights& shared = *forward_.shared_;
  const EmbeddingTables tables = {shared.word.as<float>(), shared.position.as<float>(),
                                  shared.token_type.as<float>()};
  const NormArgs norm = MakeNorm(shared.embedding_norm, rows, &next, slot);
  forward_.backend_.rows.embed(tables, device_batch_.ids() + rows.begin,
                               device_batch_.positions() + rows.begin, norm, stream);
  return norm.encoded.values != nullptr ? norm.encoded : norm.hidden;
}

Matrix ForwardPass::AddAndNorm(const Forward::Linear& linear, const Matrix& input,
                               const SharedWeights::NormWeights& weights, Rows rows,
                               const PackedLinear* next, Slot& slot, Stream& stream) {
  NormArgs norm = MakeNorm(weights, rows, next, slot);
  LinearArgs args;
  args.rows = rows.count();
  args.device_rows = device_rows_;
  args.input = input;
  args.epilogue.bias = linear.bias.as<float>();
  if (forward_.backend_.product_adds_residual) {
    args.output = norm.hidden;
    args.epilogue.residual = static_cast<const float*>(norm.hidden.values);
    args.epilogue.residual_stride = norm.hidden.stride;
  } else {
    args.output = {slot.product.as<void>(), norm.columns, element_};
    norm.residual = norm.hidden;
  }
  linear.packed.Run(args, stream);
  norm.input = args.output;
  forward_.backend_.rows.norm(norm, stream);
  return norm.encoded.values != nullptr ? norm.encoded : norm.hidden;
}

void ForwardPass::MakeQueryKeyValue(int layer, const Matrix& input, Rows rows, Stream& stream) {
  const Forward::Linear& linear = forward_.layers_[layer].query_key_value;
  const Element element = attention_.input;
  const int64_t n = linear.packed.shape().n;
  LinearArgs args;
  args.rows = rows.count();
  args.device_rows = device_rows_;
  args.input = input;
  args.output = {At(workspace_->query_key_value[layer % 2], rows.begin * n, element), n, element};
  args.epilogue.bias = linear.bias.as<float>();
  linear.packed.Run(args, stream);
}

Matrix ForwardPass::RunAttention(int layer, Rows rows, Slot& slot, Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  const Forward::Layer& weights = forward_.layers_[layer];
  const int64_t width = static_cast<int64_t>(spec.heads) * spec.head_size;
  const int64_t key_width = static_cast<int64_t>(spec.key_value_heads) * spec.head_size;
  const Element wanted = weights.attention_output.packed.input(rows.count());
  const Element produced = attention_.output(wanted);

  AttentionArgs attention;
  const Buffer& query_key_value = workspace_->query_key_value[layer % 2];
  attention.q = At(query_key_value, 0, attention_.input);
  attention.k = At(query_key_value, width, attention_.input);
  attention.v = At(query_key_value, width + key_width, attention_.input);
  attention.stride = width + 2 * key_width;
  attention.tokens = bounds_.tokens;
  attention.heads = spec.heads;
  attention.key_value_heads = spec.key_value_heads;
  attention.head_size = spec.head_size;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_size));
  attention.offsets = device_batch_.offsets();
  attention.sequences = bounds_.sequences;
  attention.row_begin = rows.begin;
  attention.row_end = rows.end;
  const std::span<const AttentionTile> tiles = device_batch_.tiles(rows.begin);
  attention.tiles = tiles.data();
  attention.tile_count = std::ssize(tiles);
  attention.mask = weights.mask;
  attention.window = weights.window;
  // Output rows count from the batch's first row; the slot holds only this block's.
  attention.output = {slot.context.as<uint8_t>() - rows.begin * width * ElementBytes(produced),
                      width, produced};
  attention_.run(attention, stream);

  Matrix input = {slot.context.as<void>(), width, produced};
  if (produced != wanted) {
    const EncodeArgs encode = {.rows = rows.count(),
                               .device_rows = device_rows_,
                               .columns = width,
                               .input = input,
                               .output = EncodedInput(wanted, width, slot)};
    forward_.backend_.rows.encode(encode, stream);
    input = encode.output;
  }
  return AddAndNorm(weights.attention_output, input, forward_.shared_->layers[layer].attention,
                    rows, &weights.up.packed, slot, stream);
}

Matrix ForwardPass::RunFeedForward(int layer, const Matrix& input, Rows rows,
                                   const PackedLinear* next, Slot& slot, Stream& stream) {
  const ModelSpec& spec = forward_.spec();
  const Forward::Layer& weights = forward_.layers_[layer];
  LinearArgs up;
  up.rows = rows.count();
  up.device_rows = device_rows_;
  up.input = input;
  // The next product's activation encoding is made in this one's epilogue.
  up.output = {slot.up.as<void>(),
               spec.intermediate,
               weights.down.packed.input(rows.count()),
               slot.up_scales.as<float>(),
               slot.up_sums.as<int32_t>(),
               slot.rows};
  up.epilogue.bias = weights.up.bias.as<float>();
  up.epilogue.activation = spec.activation;
  weights.up.packed.Run(up, stream);
  return AddAndNorm(weights.down, up.output, forward_.shared_->layers[layer].output, rows, next,
                    slot, stream);
}

void ForwardPass::Pool() {
  const ModelSpec& spec = forward_.spec();
  const RowOperations& rows = forward_.backend_.rows;
  const PoolArgs args = {.hidden = Hidden(0),
                         .offsets = device_batch_.offsets(),
                         .sequences = bounds_.sequences,
                         .columns = spec.hidden,
                         .output = pooled_.as<float>()};
  (spec.pooling == Pooling::kMean ? rows.mean_pool : rows.first_pool)(args, stream_);
}

int64_t ForwardPass::workspace_bytes() const {
  int64_t bytes = workspace_->hidden.bytes() + workspace_->query_key_value[0].bytes() +
                  workspace_->query_key_value[1].bytes();
  for (const Slot& slot : workspace_->slots) {
    for (const Buffer* buffer : {&slot.input, &slot.input_scales, &slot.input_sums, &slot.context,
                                 &slot.product, &slot.up, &slot.up_scales, &slot.up_sums}) {
      bytes += buffer->bytes();
    }
  }
  return bytes;
}

}  // namespace octavo
