#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/encode.cuh"
#include "kernels/cuda/epilogue.h"

namespace octavo::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RunEpilogue(const EpilogueArgs args) {
  const int64_t row = blockIdx.x;
  if (args.device_rows != nullptr && row >= *args.device_rows) return;
  const Epilogue& epilogue = args.epilogue;
  const auto biased = [&](int64_t n) {
    const float x = LoadValue(args.product, row, n);
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

}  // namespace

cudaError_t LaunchEpilogue(const EpilogueArgs& args, cudaStream_t stream) {
  if (args.rows == 0) return cudaSuccess;
  RunEpilogue<<<static_cast<unsigned>(args.rows), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace octavo::cuda
