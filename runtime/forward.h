// The one Forward: a ragged batch of token ids through an encoder, in resumable units, on any
// backend.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/plan.h"
#include "runtime/checkpoint.h"
#include "runtime/model_spec.h"

namespace octavo {

// Sequences laid end to end, without padding.
struct RaggedBatch {
  std::vector<int32_t> ids;         // [tokens]
  std::vector<int32_t> positions;   // [tokens], from 0 in each sequence
  std::vector<int32_t> offsets{0};  // [sequences + 1], cumulative tokens

  void Add(const std::vector<int32_t>& sequence);
  void Clear();
  int64_t tokens() const { return offsets.back(); }
  int64_t sequences() const { return static_cast<int64_t>(offsets.size()) - 1; }
};

// The first attention row (the table is fastest first) that runs here and fits the head size;
// `forced` names the only one allowed, "" for any. f32 models keep f32 attention.
// FAILED_PRECONDITION lists the rows and why each was refused.
absl::StatusOr<const AttentionKernel*> ChooseAttention(const Backend& backend, const Format& format,
                                                       int head_size, std::string_view forced);

// What lanes share whatever their format: embeddings and norms, f32, and the spec. Immutable.
struct SharedWeights {
  static absl::StatusOr<std::shared_ptr<const SharedWeights>> Load(const Checkpoint& checkpoint,
                                                                   const Backend& backend);
  struct NormWeights {
    Buffer gain, bias;  // [hidden]
  };
  struct LayerNorms {
    NormWeights attention, output;
  };

  ModelSpec spec;
  Buffer word, position, token_type;
  NormWeights embedding_norm;
  std::vector<LayerNorms> layers;
  int64_t bytes = 0;
};

// The linear layers in one format, packed for the rows the plan chose. Immutable, thread-safe.
class Forward {
 public:
  // Quantizes with `method` and packs every linear layer; `stream`'s slots share the work.
  static absl::StatusOr<std::unique_ptr<Forward>> Load(const Checkpoint& checkpoint,
                                                       std::shared_ptr<const SharedWeights> shared,
                                                       const Backend& backend, const Format& format,
                                                       Method method,
                                                       const AttentionKernel& attention,
                                                       LinearPlanner& planner, Stream& stream);

  const ModelSpec& spec() const { return shared_->spec; }
  const Format& format() const { return *format_; }
  const Backend& backend() const { return backend_; }
  int64_t bytes() const { return bytes_; }        // of packed linear weights and biases
  std::vector<std::string> kernel_names() const;  // linear rows in use, then attention's

  double BatchFlops(const RaggedBatch& batch) const;  // of the whole pass

 private:
  friend class ForwardPass;
  struct Linear {
    PackedLinear packed;
    Buffer bias;  // [n] or empty
  };
  struct Layer {
    Linear query_key_value, attention_output, up, down;
    Mask mask = Mask::kFull;
    int window = 0;
  };

  Forward(std::shared_ptr<const SharedWeights> shared, const Backend& backend, const Format& format,
          const AttentionKernel& attention)
      : shared_(std::move(shared)), backend_(backend), format_(&format), attention_(attention) {}

  std::shared_ptr<const SharedWeights> shared_;
  const Backend& backend_;
  const Format* format_;
  const AttentionKernel& attention_;
  std::vector<Layer> layers_;
  int64_t bytes_ = 0;
};

// One batch on its way through a Forward: its workspace and how far it has come. Reused from batch
// to batch; one thread at a time.
//
// A unit is a range of rows through one stage, `slots` blocks of it side by side. Stage 0 embeds
// and makes layer 0's query, key and value; stage l + 1 runs layer l's attention and feed-forward
// and makes layer l + 1's query, key and value, so that a block's intermediates stay in its cache
// and a layer has one join. Blocks may cut sequences: a row needs only its own sequence's keys,
// which the previous stage finished.
class ForwardPass {
 public:
  // A workspace for batches up to `max_tokens` tokens; larger batches grow it.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(const Forward& forward, Stream& stream,
                                                             int64_t max_tokens);

  // Starts a batch. `unit_rows`: rows of a block, at most; a batch of so few rows that the stream's
  // slots would not each get a worthwhile block runs as one block on the whole stream.
  // RESOURCE_EXHAUSTED if the workspace cannot grow.
  absl::Status Begin(const RaggedBatch& batch, int64_t unit_rows);
  bool running() const { return running_; }
  // Flops of the next unit, for sizing units by measured rates.
  double NextUnitFlops() const;
  // Runs the next unit; running() is false after the last.
  void RunUnit();
  // Pools the finished batch into [sequences, hidden], not normalized.
  void Pool(float* output);

  int64_t bytes() const;

 private:
  struct Slot {                              // scratch of one block at a time
    Buffer input, input_scales, input_sums;  // encoded activations, widest layer
    Buffer context;                          // attention output [rows, hidden]
    Buffer up, up_scales, up_sums;           // [rows, intermediate], as `down` reads it
    int64_t rows = 0;
  };

  ForwardPass(const Forward& forward, Stream& stream) : forward_(forward), stream_(stream) {}
  absl::Status Reserve(int64_t tokens, int64_t block_rows);
  void RunBlock(int stage, int64_t begin, int64_t end, Slot& slot, Stream& stream);
  void Embed(int64_t begin, int64_t end, Stream& stream);
  void MakeQueryKeyValue(int layer, int64_t begin, int64_t end, Slot& slot, Stream& stream);
  void RunAttention(int layer, int64_t begin, int64_t end, Slot& slot, Stream& stream);
  void RunFeedForward(int layer, int64_t begin, int64_t end, Slot& slot, Stream& stream);
  void Norm(const SharedWeights::NormWeights& weights, int64_t begin, int64_t end, Stream& stream);
  Matrix Encode(const PackedLinear& linear, const float* input, int64_t rows, int64_t columns,
                Slot& slot, Stream& stream);

  const Forward& forward_;
  Stream& stream_;
  const RaggedBatch* batch_ = nullptr;
  Buffer hidden_;              // f32 [tokens, hidden], the residual stream
  Buffer query_key_value_[2];  // [tokens, n], even and odd layers
  std::vector<Slot> slots_;
  int64_t capacity_ = 0;    // tokens
  int64_t block_rows_ = 0;  // rows of a block in this batch
  int64_t blocks_a_unit_ = 1;
  int stage_ = 0;
  int64_t next_row_ = 0;
  bool running_ = false;
};

}  // namespace octavo
