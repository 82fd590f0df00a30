// a8w8_fp8 on Hopper. The tensor cores add e4m3 products with about 14 bits, so every 128 along K
// the warpgroup's sums are taken over into f32, and with them the activation's scale of the row and
// the 128 values.
#include "kernels/cuda/a8w8_staying_sm90.cuh"

namespace octavo::cuda {
namespace {

__device__ __forceinline__ float LoadShared(uint32_t address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address));
  return value;
}

// A warpgroup's 64 rows by kColumns channels as units of kUnitColumns. While the tensor cores work
// on one unit the sums of the one before are taken over; 256 columns leave registers for one unit's
// sums alone, and the other warpgroup fills the gaps.
template <int kTileColumns>
struct Fp8Product {
  static constexpr int kColumns = kTileColumns;
  static constexpr int kUnits = kColumns == 128 ? 1 : 2;
  static constexpr int kUnitColumns = kColumns / kUnits;
  static constexpr int kSums = kUnitColumns / 2;  // a thread's, of a unit
  using S = a8w8::Stages<kColumns, true>;
  using Sums = float[kSums];

  struct RowScales {
    float of[2];
  };

  template <class Cursor, class StageDone>
  static __device__ __forceinline__ void Run(Cursor& cursor, int warp, int lane,
                                             const a8w8::ThreadTile& tile,
                                             const a8w8::Parameters& p,
                                             const StageDone& stage_done) {
    float x[kColumns / 2];
    const uint32_t scale_offset = (warp % 4 * 16 + lane / 4) * 4;
    const int k_blocks = p.k_blocks;

    const auto wait_full = [&] {
      cursor.WaitFull();
      return RowScales{LoadShared(cursor.scales() + scale_offset),
                       LoadShared(cursor.scales() + scale_offset + 32)};
    };
    const auto start = [&](int unit, Sums& sums) {
      const uint64_t input = ptx::SwizzledDescriptor(cursor.input());
      const uint64_t weight =
          ptx::SwizzledDescriptor(cursor.weight() + unit * kUnitColumns * a8w8::kStageK);
      ptx::Pin(sums);
      ptx::WgmmaFence();
#pragma unroll
      for (int step = 0; step < a8w8::kStageK / 32; ++step) {
        ptx::WgmmaE4m3(sums, input + 2 * step, weight + 2 * step, step > 0);
      }
      ptx::WgmmaCommit();
    };
    const auto take_over = [&](int unit, Sums& sums, const RowScales& scales) {
      ptx::Pin(sums);
#pragma unroll
      for (int i = 0; i < kSums; ++i) {
        float& to = x[unit * kSums + i];
        to = fmaf(sums[i], scales.of[i / 2 % 2], to);
      }
    };

#pragma unroll
    for (float& value : x) value = 0.0f;
    if constexpr (kColumns == 256) {
      Sums sums;
      for (int block = 0; block < k_blocks; ++block, cursor.Advance()) {
        const RowScales scales = wait_full();
        start(0, sums);
        ptx::WgmmaWait<0>();
        take_over(0, sums, scales);
        start(1, sums);
        ptx::WgmmaWait<0>();
        stage_done(cursor.empty());
        take_over(1, sums, scales);
      }
    } else {
      // Two units at a time, `first` and `second`: all channels of two stages, or the channels'
      // halves of a stage. The compiler must see on every way that a unit's products are complete
      // where its sums are read.
      Sums first, second;
      RowScales first_scales, second_scales;
      uint32_t first_empty, second_empty;
      const auto start_first = [&] {
        first_scales = wait_full();
        start(0, first);
        if constexpr (kUnits == 1) {
          first_empty = cursor.empty();
          cursor.Advance();
        }
      };
      const auto start_second = [&] {
        second_scales = kUnits == 1 ? wait_full() : first_scales;
        start(kUnits - 1, second);
        second_empty = cursor.empty();
        cursor.Advance();
      };
      const auto finish_first = [&] {
        if constexpr (kUnits == 1) stage_done(first_empty);
        take_over(0, first, first_scales);
      };
      const auto finish_second = [&] {
        stage_done(second_empty);
        take_over(kUnits - 1, second, second_scales);
      };

      if constexpr (kUnits == 1) {
        // One product is always in flight while the sums of the one before are taken over.
        start_first();
#pragma unroll 1
        for (int block = 2; block < k_blocks; block += 2) {
          start_second();
          ptx::WgmmaWait<1>();
          finish_first();
          start_first();
          ptx::WgmmaWait<1>();
          finish_second();
        }
        if (k_blocks % 2 == 0) {
          start_second();
          ptx::WgmmaWait<1>();
          finish_first();
          ptx::WgmmaWait<0>();
          finish_second();
        } else {
          ptx::WgmmaWait<0>();
          finish_first();
        }
      } else {
        // The same order of the halves of stages makes ptxas wait after every product.
        for (int block = 0; block < k_blocks; ++block) {
          start_first();
          start_second();
          ptx::WgmmaWait<1>();
          finish_first();
          ptx::WgmmaWait<0>();
          finish_second();
        }
      }
    }
    a8w8::Finish<kColumns / 2, true>([&](int i) { return x[i]; }, tile, cursor.channels(p), p);
  }
};

}  // namespace

cudaError_t LaunchLinearA8W8Fp8Sm90(const A8W8Args& args, const A8W8Tile& tile, int multiprocessors,
                                    cudaStream_t stream) {
  if (tile.channels_stay) {
    switch (tile.columns) {
      case 128:
        return a8w8::LaunchStaying<Fp8Product<128>>(args, multiprocessors, stream);
      case 192:
        return a8w8::LaunchStaying<Fp8Product<192>>(args, multiprocessors, stream);
    }
    return cudaErrorInvalidValue;
  }
  switch (tile.columns) {
    case 128:
      return a8w8::Launch<Fp8Product<128>>(args, multiprocessors, stream);
    case 192:
      return a8w8::Launch<Fp8Product<192>>(args, multiprocessors, stream);
    case 256:
      return a8w8::Launch<Fp8Product<256>>(args, multiprocessors, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace octavo::cuda
