// a8w8_int8 on Hopper: exact sums in int32 over all of K, then the scales of row and channel.
#include "kernels/cuda/a8w8_staying_sm90.cuh"

namespace octavo::cuda {
namespace {

template <int kTileColumns>
struct Int8Product {
  static constexpr int kColumns = kTileColumns;
  using S = a8w8::Stages<kColumns, false>;

  template <class Cursor, class StageDone>
  static __device__ __forceinline__ void Run(Cursor& cursor, int warp, int,
                                             const a8w8::ThreadTile& tile,
                                             const a8w8::Parameters& p,
                                             const StageDone& stage_done) {
    float row_scales[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      row_scales[half] = tile.valid[half] ? __ldg(p.row_scales + tile.row + 8 * half) : 0.0f;
    }
    int32_t sums[kColumns / 2];
    uint32_t unreleased = 0;
    for (int block = 0; block < p.k_blocks; ++block, cursor.Advance()) {
      cursor.WaitFull();
      const uint64_t input = ptx::SwizzledDescriptor(cursor.input());
      const uint64_t weight = ptx::SwizzledDescriptor(cursor.weight());
      ptx::Pin(sums);
      ptx::WgmmaFence();
#pragma unroll
      for (int step = 0; step < a8w8::kStageK / 32; ++step) {
        ptx::WgmmaS8(sums, input + 2 * step, weight + 2 * step, block > 0 || step > 0);
      }
      ptx::WgmmaCommit();
      // The products of the stage before are done when only these are left.
      ptx::WgmmaWait<1>();
      if (block > 0) stage_done(unreleased);
      unreleased = cursor.empty();
    }
    ptx::WgmmaWait<0>();
    stage_done(unreleased);
    ptx::Pin(sums);
    const auto product = [&](int i) { return __int2float_rn(sums[i]) * row_scales[i / 2 % 2]; };
    a8w8::Finish<kColumns / 2, false>(product, tile, cursor.channels(p), p);
  }
};

}  // namespace

cudaError_t LaunchLinearA8W8Int8Sm90(const A8W8Args& args, const A8W8Tile& tile,
                                     int multiprocessors, cudaStream_t stream) {
  if (tile.channels_stay) {
    switch (tile.columns) {
      case 128:
        return a8w8::LaunchStaying<Int8Product<128>>(args, multiprocessors, stream);
      case 192:
        return a8w8::LaunchStaying<Int8Product<192>>(args, multiprocessors, stream);
    }
    return cudaErrorInvalidValue;
  }
  switch (tile.columns) {
    case 128:
      return a8w8::Launch<Int8Product<128>>(args, multiprocessors, stream);
    case 192:
      return a8w8::Launch<Int8Product<192>>(args, multiprocessors, stream);
    case 256:
      return a8w8::Launch<Int8Product<256>>(args, multiprocessors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace octavo::cuda
