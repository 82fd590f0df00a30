// cuBLASLt, opened when a CUDA device is: the library is 540 MB, and a server without a GPU should
// neither need it nor map it at start-up.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <unordered_map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo::cuda {

// The functions used here, with their names in the library.
struct CublasLt {
  // Opens the library once for the process. UNAVAILABLE says where it was looked for.
  static absl::StatusOr<const CublasLt*> Load();

  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
};

// output[rows, n] = input[rows, k] * weight[n, k]^T, row-major, in device memory.
struct CublasLtProduct {
  cudaDataType_t operand = CUDA_R_16F;      // of input and weight
  cudaDataType_t output_type = CUDA_R_16F;  // CUDA_R_32I of int8 operands
  int64_t rows = 0, n = 0, k = 0;
  const void* input = nullptr;
  int64_t input_stride = 0;
  const void* weight = nullptr;  // stride k
  void* output = nullptr;
  int64_t output_stride = 0;
  // e4m3: scales of a row and 128 values along K, [ceil(k / 128)][rows] and [ceil(k / 128)][n].
  const float* input_scales = nullptr;
  const float* weight_scales = nullptr;
  const void* bias = nullptr;  // [n] of the output's type, or null
};

// What the library asks for on Hopper.
constexpr int64_t kCublasLtWorkspace = int64_t{32} << 20;

// True if the library has an algorithm for such a product on the current device, of which it is
// asked once. Nothing is read or written. Thread-safe.
bool CublasLtComputes(const CublasLtProduct& product, int64_t workspace_bytes);

// A handle and the algorithms found for products so far. One thread at a time.
class CublasLtPlans {
 public:
  CublasLtPlans() = default;
  ~CublasLtPlans();
  CublasLtPlans(const CublasLtPlans&) = delete;
  CublasLtPlans& operator=(const CublasLtPlans&) = delete;

  absl::Status Open(const CublasLt& library);
  // Scratch is `workspace`. FAILED_PRECONDITION if the library has no way to compute the product.
  absl::Status Run(const CublasLtProduct& product, void* workspace, int64_t workspace_bytes,
                   cudaStream_t stream);
  bool Finds(const CublasLtProduct& product, int64_t workspace_bytes) const;

 private:
  cublasStatus_t Multiply(const CublasLtProduct& product, const cublasLtMatmulAlgo_t& algorithm,
                          void* workspace, int64_t workspace_bytes, cudaStream_t stream) const;

  const CublasLt* library_ = nullptr;
  cublasLtHandle_t handle_ = nullptr;
  std::unordered_map<uint64_t, cublasLtMatmulAlgo_t> algorithms_;
};

}  // namespace octavo::cuda
