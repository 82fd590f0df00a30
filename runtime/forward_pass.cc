#include "runtime/forward_pass.h"

#include <algorithm>
#include <cmath>

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

}  // namespace

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
