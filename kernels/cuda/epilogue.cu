#include <initializer_list>

#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/encode.cuh"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/gelu.cuh"
#include "kernels/cuda/rows_warp.h"

namespace octavo::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RunEpilogue(const EpilogueArgs args) {
  const int64_t row = blockIdx.x;
  if (args.device_rows != nullptr && row >= *args.device_rows) return;
  const Epilogue& epilogue = args.epilogue;
  const auto biased = [&](int64_t n) {
    float x;
    if (args.row_scales != nullptr) {
      const auto* sums = static_cast<const int32_t*>(args.product.values);
      x = __int2float_rn(sums[row * args.product.stride + n]) * args.row_scales[row] *
          args.column_scales[n];
    } else {
      x = LoadValue(args.product, row, n);
    }
    return epilogue.bias == nullptr ? x : x + epilogue.bias[n];
  };
  const auto value = [&](int64_t c) {
    float y = epilogue.gated ? Activate(epilogue.activation, biased(2 * c)) * biased(2 * c + 1)
                             : Activate(epilogue.activation, biased(c));
    if (epilogue.residual != nullptr) y += epilogue.residual[row * epilogue.residual_stride + c];
    return y;
  };
  EncodeRow(args.output, row, epilogue.gated ? args.n / 2 : args.n, value);
}

// 8 columns of a row a thread: what encoders ask of 16-bit products, bias and an activation. It is
// bound by memory.
constexpr int kVector = 8;
constexpr int kVectorThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kVectorThreads) RunVectorEpilogue(const EpilogueArgs args) {
  struct alignas(16) Eight {
    T values[kVector];
  };
  const int64_t row = blockIdx.x;
  const int64_t column = (blockIdx.y * kVectorThreads + threadIdx.x) * kVector;
  if (column >= args.n || (args.device_rows != nullptr && row >= *args.device_rows)) return;
  Eight eight = *reinterpret_cast<const Eight*>(static_cast<const T*>(args.product.values) +
                                                row * args.product.stride + column);
  float bias[kVector] = {};
  if (args.epilogue.bias != nullptr) {
    const auto* from = reinterpret_cast<const float4*>(args.epilogue.bias + column);
    *reinterpret_cast<float4*>(bias) = __ldg(from);
    *reinterpret_cast<float4*>(bias + 4) = __ldg(from + 1);
  }
  const bool gelu = args.epilogue.activation == Activation::kGelu;
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const float x = ToFloat(eight.values[i]) + bias[i];
    eight.values[i] = FromFloat<T>(gelu ? Gelu(x) : Activate(args.epilogue.activation, x));
  }
  *reinterpret_cast<Eight*>(static_cast<T*>(args.output.values) + row * args.output.stride +
                            column) = eight;
}

bool FitsVectors(const EpilogueArgs& args) {
  const Element element = args.product.element;
  bool aligned = args.n % kVector == 0 && args.product.stride % kVector == 0 &&
                 args.output.stride % kVector == 0;
  for (const void* pointer :
       {static_cast<const void*>(args.product.values), static_cast<const void*>(args.output.values),
        static_cast<const void*>(args.epilogue.bias)}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
  }
  return aligned && (element == Element::kF16 || element == Element::kBf16) &&
         args.output.element == element && args.row_scales == nullptr && !args.epilogue.gated &&
         args.epilogue.residual == nullptr;
}

}  // namespace

cudaError_t LaunchEpilogue(const EpilogueArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  const auto rows = static_cast<unsigned>(args.rows);
  if (FitsVectors(args)) {
    constexpr int kColumns = kVectorThreads * kVector;
    const dim3 grid(rows, static_cast<unsigned>((args.n + kColumns - 1) / kColumns));
    if (args.product.element == Element::kF16) {
      RunVectorEpilogue<__half><<<grid, kVectorThreads, 0, stream>>>(args);
    } else {
      RunVectorEpilogue<__nv_bfloat16><<<grid, kVectorThreads, 0, stream>>>(args);
    }
    return cudaGetLastError();
  }
  if (FitsWarp(args)) return LaunchWarpEpilogue(args, stream);
  RunEpilogue<<<rows, kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace octavo::cuda
