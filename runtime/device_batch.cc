#include "runtime/device_batch.h"

#include <algorithm>
#include <cstring>

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

absl::Status DeviceBatch::Load(const RaggedBatch& batch, int64_t block_rows, int query_tile,
                               Stream& stream) {
  block_rows_ = std::max<int64_t>(block_rows, 1);
  cut_.clear();
  block_tiles_.assign(1, 0);
  if (query_tile > 0) CutTiles(batch, query_tile);

  int64_t bytes = 0;
  ids_ = Take<int32_t>(std::ssize(batch.ids), &bytes);
  positions_ = Take<int32_t>(std::ssize(batch.positions), &bytes);
  offsets_ = Take<int32_t>(std::ssize(batch.offsets), &bytes);
  tiles_ = Take<AttentionTile>(std::ssize(cut_), &bytes);
  if (bytes > device_.bytes()) {
    absl::StatusOr<Buffer> device = backend_.allocate(bytes);
    if (!device.ok()) return device.status();
    absl::StatusOr<Buffer> host = backend_.allocate_host(bytes);
    if (!host.ok()) return host.status();
    device_ = *std::move(device);
    host_ = *std::move(host);
  }
  const auto put = [&](int64_t at, const auto& values) {
    if (values.empty()) return;  // data() may be null, which memcpy must not be given
    std::memcpy(host_.as<uint8_t>() + at, values.data(), values.size() * sizeof(values[0]));
  };
  put(ids_, batch.ids);
  put(positions_, batch.positions);
  put(offsets_, batch.offsets);
  put(tiles_, cut_);
  stream.UploadBeside(device_.as<void>(), host_.as<void>(), bytes);
  return absl::OkStatus();
}

void DeviceBatch::CutTiles(const RaggedBatch& batch, int query_tile) {
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
    std::stable_sort(
        cut_.begin() + block_tiles_.back(), cut_.end(),
        [](const AttentionTile& a, const AttentionTile& b) { return a.length > b.length; });
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
