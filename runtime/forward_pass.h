// A batch on its way through a Forward, in resumable units.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/device_batch.h"
#include "runtime/forward.h"

namespace octavo {

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
  // A workspace for a lane's batches up to `max_tokens` tokens; larger batches grow it.
  static absl::StatusOr<std::unique_ptr<ForwardPass>> Create(const Forward& forward, Lane lane,
                                                             Stream& stream, int64_t max_tokens);
  // Another pass of the same forward on the same stream and workspace, so that the next batch is
  // made ready and queued while the device computes this one: a pass begins only when the other is
  // not running().
  std::unique_ptr<ForwardPass> Alternate() const;

  // Records whole passes over batches of few tokens, if the stream gains by it: each of these is
  // then one unit, which only says what the batch is and replays the record. Runs and waits.
  absl::Status Record();

  // Starts a batch. `unit_rows`: rows of a block, at most; a batch of so few rows that the stream's
  // slots would not each get a worthwhile block runs as one block on the whole stream.
  // RESOURCE_EXHAUSTED if the workspace cannot grow.
  absl::Status Begin(const RaggedBatch& batch, int64_t unit_rows);
  bool running() const { return running_; }
  // Flops of the next unit, for sizing units by measured rates.
  double NextUnitFlops() const;
  // Submits the next unit; running() is false after the last, which pools the batch too.
  void RunUnit();
  // Gives the batch up: its device failed.
  void Abandon() { running_ = false; }
  // The batch pooled, [sequences, hidden], not normalized, f32: once the stream has done the last
  // unit's work, until the next Begin.
  const float* pooled() const { return pooled_.as<float>(); }

  int64_t workspace_bytes() const;

 private:
  struct Slot {                              // scratch of one block at a time
    Buffer input, input_scales, input_sums;  // encoded activations, widest layer
    Buffer context;                          // attention output [rows, hidden]
    Buffer product;                          // [rows, hidden], where a norm adds the residual
    Buffer up, up_scales, up_sums;           // [rows, intermediate], as `down` reads it
    int64_t rows = 0;
  };
  struct Workspace {
    Buffer hidden;              // [tokens, hidden], the residual stream
    Buffer query_key_value[2];  // [tokens, n], even and odd layers
    int64_t tokens = 0;
    std::vector<Slot> slots;
  };
  struct Recording {
    BatchBounds bounds;
    std::unique_ptr<Stream::Graph> graph;
  };
  struct Rows {
    int64_t begin = 0, end = 0;
    int64_t count() const { return end - begin; }
  };

  ForwardPass(const Forward& forward, const AttentionKernel& attention, Stream& stream,
              std::shared_ptr<Workspace> workspace);
  absl::Status Reserve(int64_t tokens, int64_t block_rows);
  absl::Status ReservePooled(int64_t sequences);
  double QueryKeyValueFlops(int layer) const;  // of a token
  const Recording* FindRecording(const RaggedBatch& batch) const;
  void RunBlock(int stage, Rows rows, Slot& slot, Stream& stream);
  // These return what the next product reads, encoded by the norm before it.
  Matrix Embed(Rows rows, const PackedLinear& next, Slot& slot, Stream& stream);
  Matrix RunAttention(int layer, Rows rows, Slot& slot, Stream& stream);
  Matrix RunFeedForward(int layer, const Matrix& input, Rows rows, const PackedLinear* next,
                        Slot& slot, Stream& stream);
  void MakeQueryKeyValue(int layer, const Matrix& input, Rows rows, Stream& stream);
  // hidden = norm(linear(input) + hidden).
  Matrix AddAndNorm(const Forward::Linear& linear, const Matrix& input,
                    const SharedWeights::NormWeights& weights, Rows rows, const PackedLinear* next,
                    Slot& slot, Stream& stream);
  NormArgs MakeNorm(const SharedWeights::NormWeights& weights, Rows rows, const PackedLinear* next,
                    Slot& slot);
  void Pool();

  Matrix Hidden(int64_t row) const;
  Matrix EncodedInput(Element element, int64_t columns, const Slot& slot) const;

  const Forward& forward_;
  const AttentionKernel& attention_;
  Stream& stream_;
  const Element element_;  // of hidden states
  const RaggedBatch* batch_ = nullptr;
  const std::shared_ptr<Workspace> workspace_;
  DeviceBatch device_batch_;
  BatchBounds bounds_;                    // of what is given to the stream now
  const int32_t* device_rows_ = nullptr;  // the batch's tokens, if they may be fewer
  Buffer pooled_;                         // host memory, f32 [sequences, hidden]
  std::vector<Recording> recordings_;     // ascending
  const Recording* recording_ = nullptr;  // of this batch
  int64_t block_rows_ = 0;                // rows of a block in this batch
  int64_t blocks_a_unit_ = 1;
  int stage_ = 0;
  int64_t next_row_ = 0;
  bool running_ = false;
};

}  // namespace octavo
