#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <unordered_map>

#include "absl/strings/str_cat.h"

namespace octavo::cuda {
namespace {

constexpr const char* kNames[] = {
    "libcublasLt.so.13",
    OCTAVO_CUDA_LIBRARY_DIRECTORY "/libcublasLt.so.13",
    "/usr/local/cuda/lib64/libcublasLt.so.13",
};

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

absl::StatusOr<const CublasLt*> Open() {
  void* library = nullptr;
  std::string tried;
  for (const char* name : kNames) {
    library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    absl::StrAppend(&tried, "\n  ", dlerror());
  }
  if (library == nullptr) {
    return absl::UnavailableError(absl::StrCat(
        "cuBLASLt of CUDA 13 was not found; install libcublas or set LD_LIBRARY_PATH:", tried));
  }
  static CublasLt functions;
  const bool found =
      Find(library, "cublasLtCreate", &functions.create) &&
      Find(library, "cublasLtDestroy", &functions.destroy) &&
      Find(library, "cublasLtMatmul", &functions.matmul) &&
      Find(library, "cublasLtMatmulDescCreate", &functions.desc_create) &&
      Find(library, "cublasLtMatmulDescDestroy", &functions.desc_destroy) &&
      Find(library, "cublasLtMatmulDescSetAttribute", &functions.desc_set) &&
      Find(library, "cublasLtMatrixLayoutCreate", &functions.layout_create) &&
      Find(library, "cublasLtMatrixLayoutDestroy", &functions.layout_destroy) &&
      Find(library, "cublasLtMatmulPreferenceCreate", &functions.preference_create) &&
      Find(library, "cublasLtMatmulPreferenceDestroy", &functions.preference_destroy) &&
      Find(library, "cublasLtMatmulPreferenceSetAttribute", &functions.preference_set) &&
      Find(library, "cublasLtMatmulAlgoGetHeuristic", &functions.heuristic);
  if (!found) return absl::UnavailableError(absl::StrCat("cuBLASLt is incomplete: ", dlerror()));
  return &functions;
}

absl::Status ToStatus(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cuBLASLt: ", what, ": status ", static_cast<int>(status)));
}

// The largest power of two up to 256 that divides an address.
uint32_t Alignment(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address) | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// One algorithm serves every number of rows up to the next step, where it can.
int64_t RoundRows(int64_t rows) {
  int64_t step = 16;
  while (step * 8 < rows) step *= 2;
  return (rows + step - 1) / step * step;
}

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash ^= value + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
  return hash;
}

// What an algorithm may depend on.
uint64_t Key(const CublasLtProduct& product, int64_t rows, int64_t workspace_bytes) {
  uint64_t key = 0;
  for (uint64_t value :
       {static_cast<uint64_t>(product.operand), static_cast<uint64_t>(product.output_type),
        static_cast<uint64_t>(rows), static_cast<uint64_t>(product.n),
        static_cast<uint64_t>(product.k), static_cast<uint64_t>(product.input_stride),
        static_cast<uint64_t>(product.output_stride), uint64_t{Alignment(product.input)},
        uint64_t{Alignment(product.weight)}, uint64_t{Alignment(product.output)},
        static_cast<uint64_t>(workspace_bytes), uint64_t{product.bias != nullptr}}) {
    key = Mix(key, value);
  }
  return key;
}

// Descriptors of one product. The library is column-major: output^T = weight * input^T.
struct Descriptors {
  explicit Descriptors(const CublasLt& cublaslt) : library(cublaslt) {}
  ~Descriptors() {
    if (desc != nullptr) library.desc_destroy(desc);
    for (cublasLtMatrixLayout_t layout : {weight, input, output}) {
      if (layout != nullptr) library.layout_destroy(layout);
    }
  }

  cublasStatus_t Make(const CublasLtProduct& p, int64_t rows) {
    const bool integers = p.output_type == CUDA_R_32I;
    cublasStatus_t status =
        library.desc_create(&desc, integers ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F,
                            integers ? CUDA_R_32I : CUDA_R_32F);
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, auto value) {
      if (status == CUBLAS_STATUS_SUCCESS) {
        status = library.desc_set(desc, attribute, &value, sizeof(value));
      }
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
    if (p.weight_scales != nullptr) {
      const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode);
      set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
      set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, static_cast<const void*>(p.weight_scales));
      set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, static_cast<const void*>(p.input_scales));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library.layout_create(&weight, p.operand, p.k, p.n, p.k);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library.layout_create(&input, p.operand, p.k, rows, p.input_stride);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library.layout_create(&output, p.output_type, p.n, rows, p.output_stride);
    }
    return status;
  }

  const CublasLt& library;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, input = nullptr, output = nullptr;
};

absl::StatusOr<cublasLtMatmulAlgo_t> FindAlgorithm(const CublasLt& library, cublasLtHandle_t handle,
                                                   const CublasLtProduct& product, int64_t rows,
                                                   int64_t workspace_bytes) {
  Descriptors at(library);
  if (absl::Status status = ToStatus(at.Make(product, rows), "describing a product");
      !status.ok()) {
    return status;
  }
  cublasLtMatmulPreference_t preference = nullptr;
  cublasStatus_t status = library.preference_create(&preference);
  if (status != CUBLAS_STATUS_SUCCESS) return ToStatus(status, "a preference");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = library.preference_set(preference, attribute, &value, sizeof(value));
    }
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, Alignment(product.weight));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, Alignment(product.input));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, Alignment(product.output));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, Alignment(product.output));
  cublasLtMatmulHeuristicResult_t result = {};
  int found = 0;
  if (status == CUBLAS_STATUS_SUCCESS) {
    status = library.heuristic(handle, at.desc, at.weight, at.input, at.output, at.output,
                               preference, 1, &result, &found);
  }
  library.preference_destroy(preference);
  if (status != CUBLAS_STATUS_SUCCESS || found == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cuBLASLt has no algorithm for a product of ", product.rows, " rows, N ", product.n, ", K ",
        product.k, ", input stride ", product.input_stride, ": status ", static_cast<int>(status)));
  }
  return result.algo;
}

}  // namespace

absl::StatusOr<const CublasLt*> CublasLt::Load() {
  static const absl::StatusOr<const CublasLt*> loaded = Open();
  return loaded;
}

bool CublasLtComputes(const CublasLtProduct& product, int64_t workspace_bytes) {
  static std::mutex mutex;
  static std::unordered_map<uint64_t, bool> answers;
  const absl::StatusOr<const CublasLt*> library = CublasLt::Load();
  if (!library.ok()) return false;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [at, unknown] = answers.emplace(Key(product, product.rows, workspace_bytes), false);
  if (unknown) {
    CublasLtPlans plans;
    at->second = plans.Open(**library).ok() && plans.Finds(product, workspace_bytes);
  }
  return at->second;
}

CublasLtPlans::~CublasLtPlans() {
  if (handle_ != nullptr) library_->destroy(handle_);
}

absl::Status CublasLtPlans::Open(const CublasLt& library) {
  library_ = &library;
  return ToStatus(library.create(&handle_), "opening it on the GPU");
}

bool CublasLtPlans::Finds(const CublasLtProduct& product, int64_t workspace_bytes) const {
  return FindAlgorithm(*library_, handle_, product, product.rows, workspace_bytes).ok();
}

absl::Status CublasLtPlans::Run(const CublasLtProduct& product, void* workspace,
                                int64_t workspace_bytes, cudaStream_t stream) {
  // Some algorithms found for more rows do not take few.
  cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
  for (int64_t rows : {RoundRows(product.rows), product.rows}) {
    const uint64_t key = Key(product, rows, workspace_bytes);
    auto at = algorithms_.find(key);
    if (at == algorithms_.end()) {
      absl::StatusOr<cublasLtMatmulAlgo_t> algorithm =
          FindAlgorithm(*library_, handle_, product, rows, workspace_bytes);
      if (!algorithm.ok()) return algorithm.status();
      at = algorithms_.emplace(key, *algorithm).first;
    }
    status = Multiply(product, at->second, workspace, workspace_bytes, stream);
    if (status != CUBLAS_STATUS_NOT_SUPPORTED) break;
  }
  return ToStatus(status, "a product");
}

cublasStatus_t CublasLtPlans::Multiply(const CublasLtProduct& product,
                                       const cublasLtMatmulAlgo_t& algorithm, void* workspace,
                                       int64_t workspace_bytes, cudaStream_t stream) const {
  Descriptors descriptors(*library_);
  const cublasStatus_t status = descriptors.Make(product, product.rows);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  // In the type that the sums have.
  const float one = 1.0f;
  const int32_t integer_one = 1, zero = 0;
  const bool integers = product.output_type == CUDA_R_32I;
  const void* alpha = integers ? static_cast<const void*>(&integer_one) : &one;
  return library_->matmul(handle_, descriptors.desc, alpha, product.weight, descriptors.weight,
                          product.input, descriptors.input, &zero, product.output,
                          descriptors.output, product.output, descriptors.output, &algorithm,
                          workspace, workspace_bytes, stream);
}

}  // namespace octavo::cuda
