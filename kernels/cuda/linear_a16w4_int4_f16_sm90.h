// a16w4_int4 for few tokens on Hopper: the packed weight and the launcher.
//
// out[M, N] = epilogue(x[M, K] * w[N, K]^T), x f16, w 4-bit codes in groups along K. A code is
// decoded to f16(q - zero), exact or rounded once, and multiplied in the tensor cores; the scale is
// applied to the group's sum in f32.
//
// Plain data, for the file that nvcc compiles and for the host's.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "kernels/matrix.h"

namespace octavo::cuda {

// A packed weight is blocks [N / 16][K / 64], rounded up; what lies past N and K is zero. A block
// holds 16 output channels x 64 input channels:
//   codes: 16 bytes a lane. Lane 4 g + c holds words {row g, row g + 8} of k = 8 c .. 8 c + 7, then
//     the two of k = 32 + 8 c .. 32 + 8 c + 7. Nibble i (from the lowest) of a word is the code of
//     k = 0, 2, 4, 6, 1, 3, 5, 7 of the eight. So a lane loads its activations of a token as 16
//     contiguous bytes, and the same order of k is right for any m16n8k16 fragment.
//   scales: f16 [8 g][groups] {scale of row g, of row g + 8}, with zero points
//     {scale g, scale g + 8, zero g, zero g + 8}. `groups` is 2 where 32 values share a scale, 1
//     where 64 do; of 128 both halves repeat it.
constexpr int kInt4BlockRows = 16;
constexpr int kInt4BlockColumns = 64;
constexpr int kInt4BlockCodeBytes = kInt4BlockRows * kInt4BlockColumns / 2;

constexpr int Int4BlockBytes(int groups, bool zero_points) {
  return kInt4BlockCodeBytes + 8 * groups * (zero_points ? 8 : 4);
}

// What is packed, row-major, in host memory: w[n, k] = (code - zero) * scale, zero 8 without zeros.
struct Int4Weight {
  int n = 0;
  int k = 0;
  int group_columns = 0;             // a multiple of 32; of K, or of what is left of it
  const uint8_t* codes = nullptr;    // [n, ceil(k / 2)], the even column in the low four bits
  const uint16_t* scales = nullptr;  // f16 [n, ceil(k / group_columns)]
  const uint16_t* zeros = nullptr;   // f16, as the scales; null: none
};

constexpr int Int4BlockGroups(int group_columns) {
  return group_columns % kInt4BlockColumns == 0 ? 1 : 2;
}

// The blocks described above.
std::vector<uint8_t> PackInt4Weight(const Int4Weight& weight);

struct A16W4Int4Args {
  const void* weight = nullptr;  // blocks, 16-byte aligned
  int n = 0;
  int k = 0;
  int groups = 0;  // of a block: Int4BlockGroups
  bool zero_points = false;

  // f16 [rows, input_stride], 16-byte aligned, the stride a multiple of 8; columns from k to the
  // next multiple of 8 are finite.
  const uint16_t* input = nullptr;
  int64_t input_stride = 0;
  int rows = 0;
  const int32_t* device_rows = nullptr;  // rows that exist, at most `rows`; null: all

  void* output = nullptr;  // f16, bf16 or f32 [rows, output_stride]
  int64_t output_stride = 0;
  Element output_element = Element::kF16;
  Epilogue epilogue;
};

// Launches with programmatic dependent launch: weights and bias are read before the stream's
// previous kernel has ended, everything else after.
cudaError_t LaunchLinearA16W4Int4(const A16W4Int4Args& args, cudaStream_t stream);

}  // namespace octavo::cuda
