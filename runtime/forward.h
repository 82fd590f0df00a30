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
#include "runtime/job.h"
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

// The attention row of each lane: by lane and not by batch, since rows differ in their last bits.
struct AttentionRows {
  const AttentionKernel* lanes[kLanes] = {};  // both read the same element

  const AttentionKernel& operator[](Lane lane) const { return *lanes[static_cast<int>(lane)]; }
};

// For each lane the first attention row (the table is fastest first) that runs here and fits the
// head size; documents leave out those for short sequences. `forced` names the only one allowed, ""
// for any. f32 models keep f32 attention, bf16 models attention without f16, and only models with
// 8-bit activations take scores of 8 bits. FAILED_PRECONDITION lists the rows and why each was
// refused.
absl::StatusOr<AttentionRows> ChooseAttention(const Backend& backend, const Format& format,
                                              int head_size, std::string_view forced);

// What lanes share whatever their format: embeddings and norms, f32, and the spec. Immutable once
// the stream it was loaded on is finished.
struct SharedWeights {
  static absl::StatusOr<std::shared_ptr<const SharedWeights>> Load(const Checkpoint& checkpoint,
                                                                   const Backend& backend,
                                                                   Stream& stream);
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
  // Quantizes with `method` and packs every linear layer; the host's processors share the work.
  static absl::StatusOr<std::unique_ptr<Forward>> Load(const Checkpoint& checkpoint,
                                                       std::shared_ptr<const SharedWeights> shared,
                                                       const Backend& backend, const Format& format,
                                                       Method method,
                                                       const AttentionRows& attention,
                                                       LinearPlanner& planner, Stream& stream);

  const ModelSpec& spec() const { return shared_->spec; }
  const Format& format() const { return *format_; }
  const Backend& backend() const { return backend_; }
  int64_t bytes() const { return bytes_; }  // of packed linear weights and biases
  // Linear rows in use, then the lane's attention row.
  std::vector<std::string> kernel_names(Lane lane) const;

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
          const AttentionRows& attention)
      : shared_(std::move(shared)), backend_(backend), format_(&format), attention_(attention) {}

  std::shared_ptr<const SharedWeights> shared_;
  const Backend& backend_;
  const Format* format_;
  const AttentionRows attention_;
  std::vector<Layer> layers_;
  int64_t bytes_ = 0;
};

}  // namespace octavo
