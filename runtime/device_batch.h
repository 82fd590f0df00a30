// A ragged batch where kernels read it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "runtime/forward.h"

namespace octavo {

// What a batch has at most, where work is recorded before the batch is known.
struct BatchBounds {
  int64_t tokens = 0;
  int64_t sequences = 0;
};

// One piece of device memory with a batch's count of tokens, ids, positions, offsets and attention
// tiles, filled by one copy. Reused from batch to batch once the work on the one before is done;
// one thread at a time.
class DeviceBatch {
 public:
  explicit DeviceBatch(const Backend& backend) : backend_(backend) {}

  // Copies `batch`, which runs in blocks of `block_rows` rows, and cuts each block's queries into
  // tiles of `query_tile` (0: no tiles). The copy before must be done. RESOURCE_EXHAUSTED.
  absl::Status Load(const RaggedBatch& batch, int64_t block_rows, int query_tile, Stream& stream);

  // The same in two parts, for recorded work: every batch within `bounds`, one block, lies in the
  // same places and has the same number of tiles, those past its own empty and its sequences past
  // its own of no tokens. A larger batch or larger bounds later may move it all.
  absl::Status Stage(const RaggedBatch& batch, const BatchBounds& bounds, int query_tile);
  void Upload(Stream& stream) const;

  const int32_t* tokens() const { return At<int32_t>(0); }
  const int32_t* ids() const { return At<int32_t>(ids_); }
  const int32_t* positions() const { return At<int32_t>(positions_); }
  const int32_t* offsets() const { return At<int32_t>(offsets_); }
  // Tiles of the block that begins at row `begin`, longest sequences first, in device memory.
  std::span<const AttentionTile> tiles(int64_t begin) const;

  int64_t bytes() const { return device_.bytes(); }

 private:
  template <typename T>
  const T* At(int64_t offset) const {
    return reinterpret_cast<const T*>(device_.as<uint8_t>() + offset);
  }
  void CutTiles(const RaggedBatch& batch, int query_tile);
  // Lays out so many, and makes room.
  absl::Status Lay(int64_t tokens, int64_t sequences, int64_t tiles);
  void Put(const RaggedBatch& batch);

  const Backend& backend_;
  Buffer device_, host_;
  int64_t used_ = 0;                                           // bytes
  int64_t ids_ = 0, positions_ = 0, offsets_ = 0, tiles_ = 0;  // bytes from the beginning
  int64_t block_rows_ = 1;
  std::vector<AttentionTile> cut_;
  std::vector<int64_t> block_tiles_;  // [blocks + 1], cumulative
};

}  // namespace octavo
