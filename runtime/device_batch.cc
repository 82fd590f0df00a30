#include "runtime/device_batch.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace octavo {
namespace {

constexpr int64_t kAlignment = 64;

// Takes `count` elements of memory, counted from `*end`.
template <typename T>
int64_t Take(int64_t count, int64_t* end) {
  const int64_t begin = *end;
  *end += (count * static_cast<int64_t>(sizeof(T)) + kAlignment - 1) / kAlignment * kAlignment;
  return begin;
}

}  // namespace

absl::Status DeviceBatch::Lay(int64_t tokens, int64_t sequences, int64_t tiles) {
  used_ = 0;
  Take<int32_t>(1, &used_);  // the count of tokens
  ids_ = Take<int32_t>(tokens, &used_);
  positions_ = Take<int32_t>(tokens, &used_);
  offsets_ = Take<int32_t>(sequences + 1, &used_);
  tiles_ = Take<AttentionTile>(tiles, &used_);
  if (used_ <= device_.bytes()) return absl::OkStatus();
  absl::StatusOr<Buffer> device = backend_.allocate(used_);
  if (!device.ok()) return device.status();
  absl::StatusOr<Buffer> host = backend_.allocate_host(used_);
  if (!host.ok()) return host.status();
  device_ = *std::move(device);
  host_ = *std::move(host);
  return absl::OkStatus();
}

void DeviceBatch::Put(const RaggedBatch& batch) {
  const auto put = [&](int64_t at, const auto& values) {
    if (values.empty()) return;  // data() may be null, which memcpy must not be given
    std::memcpy(host_.as<uint8_t>() + at, values.data(), values.size() * sizeof(values[0]));
  };
  *host_.as<int32_t>() = static_cast<int32_t>(batch.tokens());
  put(ids_, batch.ids);
  put(positions_, batch.positions);
  put(offsets_, batch.offsets);
  put(tiles_, cut_);
}

absl::Status DeviceBatch::Load(const RaggedBatch& batch, int64_t block_rows, int query_tile,
                               Stream& stream) {
  block_rows_ = std::max<int64_t>(block_rows, 1);
  CutTiles(batch, query_tile);
  if (absl::Status status = Lay(batch.tokens(), batch.sequences(), std::ssize(cut_));
      !status.ok()) {
    return status;
  }
  Put(batch);
  stream.UploadBeside(device_.as<void>(), host_.as<void>(), used_);
  return absl::OkStatus();
}

absl::Status DeviceBatch::Stage(const RaggedBatch& batch, const BatchBounds& bounds,
                                int query_tile) {
  block_rows_ = bounds.tokens;
  CutTiles(batch, query_tile);
  // A sequence has a tile that is not full.
  const int64_t tiles = query_tile > 0 ? bounds.sequences + bounds.tokens / query_tile : 0;
  if (absl::Status status = Lay(bounds.tokens, bounds.sequences, tiles); !status.ok()) {
    return status;
  }
  cut_.resize(tiles);
  block_tiles_.back() = tiles;
  Put(batch);
  int32_t* const offsets = reinterpret_cast<int32_t*>(host_.as<uint8_t>() + offsets_);
  std::fill(offsets + batch.sequences() + 1, offsets + bounds.sequences + 1,
            static_cast<int32_t>(batch.tokens()));
  return absl::OkStatus();
}

void DeviceBatch::Upload(Stream& stream) const {
  stream.Upload(device_.as<void>(), host_.as<void>(), used_);
}

void DeviceBatch::CutTiles(const RaggedBatch& batch, int query_tile) {
  cut_.clear();
  block_tiles_.assign(1, 0);
  if (query_tile == 0) return;
  int64_t sequence = 0;
  for (int64_t begin = 0; begin < batch.tokens(); begin += block_rows_) {
    const int64_t end = std::min(begin + block_rows_, batch.tokens());
    for (int64_t row = begin; row < end;) {
      while (batch.offsets[sequence + 1] <= row) ++sequence;
      const int32_t first = batch.offsets[sequence];
      const int32_t last = batch.offsets[sequence + 1];
      const int64_t stop = std::min<int64_t>({end, last, row + query_tile});
      cut_.push_back({.first = first,
                      .length = last - first,
                      .query_begin = static_cast<int32_t>(row - first),
                      .queries = static_cast<int32_t>(stop - row)});
      row = stop;
    }
    // Not a stable sort: that allocates.
    std::sort(cut_.begin() + block_tiles_.back(), cut_.end(),
              [](const AttentionTile& a, const AttentionTile& b) {
                return std::tuple(-a.length, a.first, a.query_begin) <
                       std::tuple(-b.length, b.first, b.query_begin);
              });
    block_tiles_.push_back(std::ssize(cut_));
  }
}

std::span<const AttentionTile> DeviceBatch::tiles(int64_t begin) const {
  const int64_t block = begin / block_rows_;
  if (block + 1 >= std::ssize(block_tiles_)) return {};
  const int64_t from = block_tiles_[block];
  return {At<AttentionTile>(tiles_) + from, static_cast<size_t>(block_tiles_[block + 1] - from)};
}

}  // namespace octavo
