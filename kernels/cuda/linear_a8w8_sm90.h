// The a8w8 products of Hopper as plain data: what linear_a8w8_fp8_sm90.cu and
// linear_a8w8_int8_sm90.cu launch.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace octavo::cuda {

// Rows of a packed weight: channels are permuted within 32, so that a thread of the product holds 8
// neighbouring channels and stores them at once. Row p of 32 holds channel p % 8 / 2 * 8
// + p / 8 * 2 + p % 2. Rows of K bytes; N rounded up to 32 with zeros.
constexpr int kA8W8PackedRows = 32;
constexpr int A8W8Channel(int packed_row) {
  const int p = packed_row % 32;
  return packed_row - p + p % 8 / 2 * 8 + p / 8 * 2 + p % 2;
}

// Host memory: weight [n, k] row-major to `packed` [n rounded up to 32, k].
void PackA8W8Weight(const uint8_t* weight, int n, int k, uint8_t* packed);

enum class A8W8Output : uint8_t {
  kF32,
  kF16,
  kBf16,
  kE4m3,  // with a scale for each row and 128 columns
};

struct A8W8Args {
  int64_t rows = 0;                      // M
  const int32_t* device_rows = nullptr;  // count in device memory, at most `rows`; null: rows
  int n = 0;                             // a multiple of 16
  int k = 0;                             // a multiple of 16
  const void* input = nullptr;           // [rows, input_stride], 16-byte aligned
  int64_t input_stride = 0;              // bytes, a multiple of 16
  // fp8: [ceil(k / 128)][input_scale_stride], 16-byte aligned, the stride a multiple of 4.
  // int8: [rows].
  const float* input_scales = nullptr;
  int64_t input_scale_stride = 0;
  const void* weight = nullptr;          // packed as above
  const float* weight_scales = nullptr;  // [n rounded up to 32]
  const float* bias = nullptr;           // [n], 16-byte aligned, or null
  bool gelu = false;
  A8W8Output output_kind = A8W8Output::kF16;
  void* output = nullptr;          // 16-byte aligned
  int64_t output_stride = 0;       // elements; a row is a multiple of 16 bytes, 8 for kE4m3
  float* output_scales = nullptr;  // kE4m3: [ceil(n / 128)][output_scale_stride]
  int64_t output_scale_stride = 0;
};

struct A8W8Tile {
  int columns = 0;             // channels: 128, 192 or 256; of e4m3 outputs 128 or 256
  bool channels_stay = false;  // in shared memory (a8w8_staying_sm90.cuh); 128 or 192, K not large
};

// Channels stay where sums are short and rows many. Else the fewest rounds of tiles over the
// multiprocessors; of equals, wide tiles read least where the sums are short, and 128 keeps two
// products in flight where they are long. 192 has no whole blocks of 128 to encode.
A8W8Tile ChooseA8W8Tile(const A8W8Args& args, int multiprocessors);

// cudaErrorInvalidValue for a tile that is not one of the above or does not fit.
cudaError_t LaunchLinearA8W8Fp8Sm90(const A8W8Args& args, const A8W8Tile& tile, int multiprocessors,
                                    cudaStream_t stream);
cudaError_t LaunchLinearA8W8Int8Sm90(const A8W8Args& args, const A8W8Tile& tile,
                                     int multiprocessors, cudaStream_t stream);

}  // namespace octavo::cuda
