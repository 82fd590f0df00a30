// The kernels' launchers as C functions, for ctypes. Each returns its cudaError_t.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/linear_a16w4_int4_f16_sm90.h"
#include "kernels/cuda/linear_a8w8_sm90.h"
#include "kernels/cuda/rows_warp.h"

using namespace octavo;        // NOLINT
using namespace octavo::cuda;  // NOLINT

extern "C" {

int octavo_attention(int wgmma, const void* q, const void* k, const void* v, int64_t stride,
                     int64_t tokens, void* output, int64_t output_stride, int element,
                     int output_element, const void* tiles, int tile_count, int heads,
                     int heads_per_key_value_head, int head_size, float scale, int reach_back,
                     int reach_ahead, const float* bias, int64_t bias_stride, void* stream) {
  AttentionLaunch launch;
  launch.q = q;
  launch.k = k;
  launch.v = v;
  launch.stride = stride;
  launch.tokens = tokens;
  launch.output = output;
  launch.output_stride = output_stride;
  launch.element = static_cast<Element>(element);
  launch.output_element = static_cast<Element>(output_element);
  launch.tiles = static_cast<const AttentionTile*>(tiles);
  launch.tile_count = tile_count;
  launch.heads = heads;
  launch.heads_per_key_value_head = heads_per_key_value_head;
  launch.head_size = head_size;
  launch.scale = scale;
  if (reach_back >= 0) launch.reach_back = reach_back;
  if (reach_ahead >= 0) launch.reach_ahead = reach_ahead;
  launch.bias = bias;
  launch.bias_stride = bias_stride;
  const auto run = wgmma != 0 ? LaunchAttentionWgmma : LaunchAttentionMma;
  return run(launch, static_cast<cudaStream_t>(stream));
}

// Rows lie one after another; `residual` and `encoded` may be null.
int octavo_norm(int64_t rows, int64_t columns, const float* gain, const float* bias, float epsilon,
                void* input, void* residual, void* hidden, int hidden_element, void* encoded,
                int encoded_element, float* scales, int64_t scale_stride, int32_t* sums,
                void* stream) {
  const Element element = static_cast<Element>(hidden_element);
  const NormCall norm = {.rows = rows,
                         .device_rows = nullptr,
                         .columns = columns,
                         .gain = gain,
                         .bias = bias,
                         .epsilon = epsilon,
                         .input = {input, columns, element},
                         .residual = {residual, columns, element},
                         .hidden = {hidden, columns, element},
                         .encoded = {encoded, columns, static_cast<Element>(encoded_element),
                                     scales, sums, scale_stride}};
  if (!FitsWarp(norm)) return cudaErrorInvalidValue;
  return LaunchWarpNorm(norm, static_cast<cudaStream_t>(stream));
}

int octavo_encode(int64_t rows, int64_t columns, void* input, int input_element, void* output,
                  int output_element, float* scales, int64_t scale_stride, int32_t* sums,
                  void* stream) {
  const EncodeCall encode = {.rows = rows,
                             .device_rows = nullptr,
                             .columns = columns,
                             .input = {input, columns, static_cast<Element>(input_element)},
                             .output = {output, columns, static_cast<Element>(output_element),
                                        scales, sums, scale_stride}};
  if (!FitsWarp(encode)) return cudaErrorInvalidValue;
  return LaunchWarpEncode(encode, static_cast<cudaStream_t>(stream));
}

int octavo_mean_pool(void* hidden, int element, const int32_t* offsets, int64_t sequences,
                     int64_t columns, float* output, void* stream) {
  const PoolCall pool = {
      {hidden, columns, static_cast<Element>(element)}, offsets, sequences, columns, output};
  if (!FitsWarp(pool)) return cudaErrorInvalidValue;
  return LaunchWarpMeanPool(pool, static_cast<cudaStream_t>(stream));
}

void octavo_pack_a8w8(const uint8_t* weight, int n, int k, uint8_t* packed) {
  PackA8W8Weight(weight, n, k, packed);
}

// tile_columns 0: the library's choice; negative: the channels stay in shared memory.
int octavo_linear_a8w8(int fp8, int64_t rows, const int32_t* device_rows, int n, int k,
                       const void* input, int64_t input_stride, const float* input_scales,
                       int64_t input_scale_stride, const void* weight, const float* weight_scales,
                       const float* bias, int gelu, int output_kind, void* output,
                       int64_t output_stride, float* output_scales, int64_t output_scale_stride,
                       int tile_columns, int multiprocessors, void* stream) {
  A8W8Args args;
  args.rows = rows;
  args.device_rows = device_rows;
  args.n = n;
  args.k = k;
  args.input = input;
  args.input_stride = input_stride;
  args.input_scales = input_scales;
  args.input_scale_stride = input_scale_stride;
  args.weight = weight;
  args.weight_scales = weight_scales;
  args.bias = bias;
  args.gelu = gelu != 0;
  args.output_kind = static_cast<A8W8Output>(output_kind);
  args.output = output;
  args.output_stride = output_stride;
  args.output_scales = output_scales;
  args.output_scale_stride = output_scale_stride;
  const auto run = fp8 != 0 ? LaunchLinearA8W8Fp8Sm90 : LaunchLinearA8W8Int8Sm90;
  const A8W8Tile tile = tile_columns == 0 ? ChooseA8W8Tile(args, multiprocessors)
                                          : A8W8Tile{std::abs(tile_columns), tile_columns < 0};
  return run(args, tile, multiprocessors, static_cast<cudaStream_t>(stream));
}

// Returns the packed bytes; writes them where `packed` is not null.
int64_t octavo_pack_int4(int n, int k, int group_columns, const uint8_t* codes,
                         const uint16_t* scales, const uint16_t* zeros, uint8_t* packed) {
  const std::vector<uint8_t> blocks = PackInt4Weight({n, k, group_columns, codes, scales, zeros});
  if (packed != nullptr) std::memcpy(packed, blocks.data(), blocks.size());
  return static_cast<int64_t>(blocks.size());
}

int octavo_linear_a16w4_int4(const void* weight, int n, int k, int group_columns, int zero_points,
                             const uint16_t* input, int64_t input_stride, int rows,
                             const int32_t* device_rows, void* output, int64_t output_stride,
                             int output_element, const float* bias, int activation, int gated,
                             const float* residual, int64_t residual_stride, void* stream) {
  A16W4Int4Args args;
  args.weight = weight;
  args.n = n;
  args.k = k;
  args.groups = Int4BlockGroups(group_columns);
  args.zero_points = zero_points != 0;
  args.input = input;
  args.input_stride = input_stride;
  args.rows = rows;
  args.device_rows = device_rows;
  args.output = output;
  args.output_stride = output_stride;
  args.output_element = static_cast<Element>(output_element);
  args.epilogue.bias = bias;
  args.epilogue.activation = static_cast<Activation>(activation);
  args.epilogue.gated = gated != 0;
  args.epilogue.residual = residual;
  args.epilogue.residual_stride = residual_stride;
  return LaunchLinearA16W4Int4(args, static_cast<cudaStream_t>(stream));
}

}  // extern "C"
