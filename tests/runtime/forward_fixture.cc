#include "tests/runtime/forward_fixture.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "runtime/forward_pass.h"
#include "runtime/models/models.h"
#include "tests/reference/reference.h"

namespace octavo::testing {
namespace {

std::vector<float> Narrow(const std::vector<double>& values) {
  return std::vector<float>(values.begin(), values.end());
}

std::vector<double> Product(const Checkpoint& checkpoint, const LinearSpec& linear,
                            const std::vector<double>& x, int64_t rows) {
  const std::vector<float> weight = *checkpoint.ReadWeight(linear);
  const std::vector<float> bias = *checkpoint.ReadBias(linear);
  return reference::Linear(Narrow(x), weight, bias, rows, linear.shape.n, linear.shape.k);
}

std::vector<double> NormOf(const Checkpoint& checkpoint, const NormSpec& norm,
                           const std::vector<double>& x, int64_t rows) {
  const ModelSpec& spec = checkpoint.spec();
  return reference::LayerNorm(Narrow(x), *checkpoint.Read(norm.gain, {spec.hidden}),
                              *checkpoint.Read(norm.bias, {spec.hidden}), rows, spec.hidden,
                              spec.norm_epsilon);
}

void AddTo(std::vector<double>& to, const std::vector<double>& x) {
  for (size_t i = 0; i < to.size(); ++i) to[i] += x[i];
}

std::vector<double> EmbeddingSum(const Checkpoint& checkpoint,
                                 const std::vector<int32_t>& sequence) {
  const ModelSpec& spec = checkpoint.spec();
  const auto word = *checkpoint.Read(spec.word_embedding, {spec.vocabulary, spec.hidden});
  const auto position =
      *checkpoint.Read(spec.position_embedding, {spec.max_positions, spec.hidden});
  const auto type = *checkpoint.Read(spec.token_type_embedding, {spec.token_types, spec.hidden});
  std::vector<double> x;
  for (size_t t = 0; t < sequence.size(); ++t) {
    for (int i = 0; i < spec.hidden; ++i) {
      x.push_back(static_cast<double>(word[int64_t{sequence[t]} * spec.hidden + i]) +
                  position[t * spec.hidden + i] + type[i]);
    }
  }
  return x;
}

std::vector<double> AttentionOf(const ModelSpec& spec, const std::vector<double>& qkv,
                                int64_t rows) {
  const int64_t width = static_cast<int64_t>(spec.heads) * spec.head_size;
  std::vector<float> parts[3];
  for (int64_t t = 0; t < rows; ++t) {
    for (int part = 0; part < 3; ++part) {
      const double* from = qkv.data() + t * 3 * width + part * width;
      parts[part].insert(parts[part].end(), from, from + width);
    }
  }
  const int32_t offsets[] = {0, static_cast<int32_t>(rows)};
  AttentionArgs args;
  args.heads = args.key_value_heads = spec.heads;
  args.head_size = spec.head_size;
  args.scale = 1.0f / std::sqrt(static_cast<float>(spec.head_size));
  args.offsets = offsets;
  args.sequences = 1;
  args.row_end = rows;
  return reference::Attention(args, parts[0], parts[1], parts[2]);
}

}  // namespace

ModelSpec SmallSpec() {
  ModelSpec spec = *NamedShape("minilm");
  // The names stay those of the real model; only the sizes shrink.
  spec.hidden = 64;
  spec.intermediate = 128;
  spec.heads = spec.key_value_heads = 2;
  spec.head_size = 32;
  spec.vocabulary = 500;
  spec.max_positions = 512;
  spec.max_tokens = 300;
  spec.layers.resize(2);
  for (LayerSpec& layer : spec.layers) {
    layer.query_key_value.shape = {3 * 64, 64};
    layer.attention_output.shape = {64, 64};
    layer.up.shape = {128, 64};
    layer.down.shape = {64, 128};
  }
  return spec;
}

std::vector<std::vector<int32_t>> RandomSequences(const ModelSpec& spec,
                                                  const std::vector<int>& lengths, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::vector<int32_t>> sequences;
  for (int length : lengths) {
    std::vector<int32_t>& ids = sequences.emplace_back(length);
    for (int32_t& id : ids) id = static_cast<int32_t>(random() % spec.vocabulary);
  }
  return sequences;
}

std::vector<std::vector<float>> LoadedModel::Embed(
    const std::vector<std::vector<int32_t>>& sequences, int64_t unit_rows) const {
  RaggedBatch batch;
  for (const std::vector<int32_t>& sequence : sequences) batch.Add(sequence);
  std::unique_ptr<ForwardPass> pass = *ForwardPass::Create(*forward, Lane::kDocument, *stream, 1);
  EXPECT_TRUE(pass->Begin(batch, unit_rows).ok());
  while (pass->running()) pass->RunUnit();
  const int64_t hidden = forward->spec().hidden;
  EXPECT_TRUE(stream->Finish().ok());
  const float* pooled = pass->pooled();
  std::vector<std::vector<float>> rows;
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    rows.emplace_back(pooled + s * hidden, pooled + (s + 1) * hidden);
  }
  return rows;
}

LoadedModel Load(const Checkpoint& checkpoint, const std::string& format, int threads,
                 const std::string& forced_kernels, std::string_view backend,
                 std::string_view forced_attention) {
  return LoadOn(**FindBackend(backend), checkpoint, format, threads, forced_kernels,
                forced_attention);
}

LoadedModel LoadOn(const Backend& backend, const Checkpoint& checkpoint, const std::string& format,
                   int threads, const std::string& forced_kernels,
                   std::string_view forced_attention) {
  LoadedModel model;
  model.stream = *backend.open_stream(0, DeviceOptions{.threads = threads});
  const Format& chosen = **FindFormat(format);
  LinearPlanner planner(backend, *model.stream, {.forced_kernels = forced_kernels});
  const bool float_zero = chosen.weight.zero == Zero::kF16 || chosen.weight.zero == Zero::kF32;
  model.shared = *SharedWeights::Load(checkpoint, backend, *model.stream);
  auto forward = Forward::Load(
      checkpoint, model.shared, backend, chosen,
      float_zero ? Method::kHqq : Method::kRoundToNearest,
      *ChooseAttention(backend, chosen, checkpoint.spec().head_size, forced_attention), planner,
      *model.stream);
  EXPECT_TRUE(forward.ok()) << forward.status();
  model.forward = *std::move(forward);
  return model;
}

std::string WhyNot(std::string_view backend) {
  const absl::StatusOr<const Backend*> found = FindBackend(backend);
  if (!found.ok()) return std::string(found.status().message());
  const auto stream = (*found)->open_stream(0, DeviceOptions{.threads = 1});
  return stream.ok() ? "" : std::string(stream.status().message());
}

std::vector<double> ReferenceForward(const Checkpoint& checkpoint,
                                     const std::vector<int32_t>& sequence) {
  const ModelSpec& spec = checkpoint.spec();
  const int64_t rows = static_cast<int64_t>(sequence.size());
  std::vector<double> hidden =
      NormOf(checkpoint, spec.embedding_norm, EmbeddingSum(checkpoint, sequence), rows);
  for (const LayerSpec& layer : spec.layers) {
    const auto qkv = Product(checkpoint, layer.query_key_value, hidden, rows);
    auto attended = Product(checkpoint, layer.attention_output, AttentionOf(spec, qkv, rows), rows);
    AddTo(attended, hidden);
    hidden = NormOf(checkpoint, layer.attention_norm, attended, rows);
    auto up = Product(checkpoint, layer.up, hidden, rows);
    for (double& x : up) x = reference::Activate(spec.activation, x);
    auto down = Product(checkpoint, layer.down, up, rows);
    AddTo(down, hidden);
    hidden = NormOf(checkpoint, layer.output_norm, down, rows);
  }
  return reference::MeanPool(Narrow(hidden), rows, spec.hidden);
}

}  // namespace octavo::testing
