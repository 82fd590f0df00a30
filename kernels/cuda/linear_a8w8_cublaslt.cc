// a8w8 products through cuBLASLt, with our epilogue. e4m3: its 128-element scales along K are our
// activations', and a weight's scale stands once for every 128 values; products are kept in f16 (or
// f32). int8: sums in int32, scaled in the epilogue.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kAlignment = 16;
constexpr int64_t kScaleColumns = 128;

CublasLtProduct Product(const LinearShape& shape, int64_t rows, cudaDataType_t operand,
                        cudaDataType_t output) {
  CublasLtProduct product;
  product.operand = operand;
  product.output_type = output;
  product.rows = rows;
  product.n = shape.n;
  product.k = shape.k;
  product.input_stride = shape.k;
  product.output_stride = shape.n;
  return product;
}

// The library refuses some numbers of rows of e4m3 that are no multiple of this.
constexpr int64_t kRowStep = 16;

// Asks the library, for few rows and for many.
bool Computes(const LinearShape& shape, cudaDataType_t operand, cudaDataType_t output) {
  if (shape.n <= 0 || shape.k <= 0 || shape.n % 16 != 0 || shape.k % 16 != 0) return false;
  for (int64_t rows : {16, 48, 1024}) {
    CublasLtProduct product = Product(shape, rows, operand, output);
    alignas(256) static const float kScale = 1.0f;
    if (operand == CUDA_R_8F_E4M3) product.input_scales = product.weight_scales = &kScale;
    if (!CublasLtComputes(product, kCublasLtWorkspace)) return false;
  }
  return true;
}

// Memory for one call, cut from the stream's workspace.
struct Parts {
  int64_t bytes = 0;

  int64_t Add(int64_t more) {
    const int64_t at = bytes;
    bytes += RoundUp(more, 256);
    return at;
  }
};

void Run(const LinearArgs& args, CudaStream& stream) {
  if (args.rows == 0) return;
  const LinearShape& shape = args.weight->shape;
  const bool fp8 = args.input.element == Element::kE4m3;
  const int64_t groups = fp8 ? CeilDivide(shape.k, kScaleColumns) : 0;
  const bool wide = !fp8 || args.output.element == Element::kF32;
  const int64_t rows = fp8 ? RoundUp(args.rows, kRowStep) : args.rows;
  const bool input_fits = rows == args.rows &&
                          reinterpret_cast<uintptr_t>(args.input.values) % kAlignment == 0 &&
                          args.input.stride % kAlignment == 0;
  const bool scales_fit = args.input.scale_stride == rows &&
                          reinterpret_cast<uintptr_t>(args.input.scales) % kAlignment == 0;

  Parts parts;
  parts.Add(kCublasLtWorkspace);
  const int64_t product_at = parts.Add(rows * shape.n * (wide ? 4 : 2));
  const int64_t input_at = parts.Add(input_fits ? 0 : rows * shape.k);
  const int64_t scales_at = parts.Add(scales_fit ? 0 : rows * groups * sizeof(float));
  auto* workspace = static_cast<uint8_t*>(stream.Workspace(parts.bytes));
  if (workspace == nullptr) return;

  CublasLtProduct call = Product(shape, rows, fp8 ? CUDA_R_8F_E4M3 : CUDA_R_8I,
                                 fp8 ? (wide ? CUDA_R_32F : CUDA_R_16F) : CUDA_R_32I);
  call.input = args.input.values;
  call.input_stride = args.input.stride;
  if (!input_fits) {
    stream.Record(CopyRows(workspace + input_at, shape.k, args.input.values, args.input.stride,
                           shape.k, args.rows, stream.handle()),
                  "a copy of activations");
    call.input = workspace + input_at;
    call.input_stride = shape.k;
  }
  call.weight = args.weight->data.get();
  call.output = workspace + product_at;
  const auto* weight_scales =
      reinterpret_cast<const float*>(static_cast<const uint8_t*>(call.weight) + shape.n * shape.k);
  EpilogueArgs finish = {args.rows,   args.device_rows,
                         shape.n,     {call.output, shape.n, wide ? Element::kF32 : Element::kF16},
                         args.output, args.epilogue};
  if (fp8) {
    call.weight_scales = weight_scales;
    call.input_scales = args.input.scales;
    if (!scales_fit) {
      stream.Record(CopyRows(workspace + scales_at, rows * 4, args.input.scales,
                             args.input.scale_stride * 4, args.rows * 4, groups, stream.handle()),
                    "a copy of scales");
      call.input_scales = reinterpret_cast<const float*>(workspace + scales_at);
    }
  } else {
    finish.row_scales = args.input.scales;
    finish.column_scales = weight_scales;
  }
  stream.Record(stream.cublaslt_plans().Run(call, workspace, kCublasLtWorkspace, stream.handle()));
  stream.Record(LaunchEpilogue(finish, stream.handle()), "an epilogue");
}

}  // namespace

bool FitsA8W8Fp8CublasLt(const LinearShape& shape) {
  return Computes(shape, CUDA_R_8F_E4M3, CUDA_R_16F) && Computes(shape, CUDA_R_8F_E4M3, CUDA_R_32F);
}

bool FitsA8W8Int8CublasLt(const LinearShape& shape) {
  return Computes(shape, CUDA_R_8I, CUDA_R_32I);
}

absl::Status PackA8W8CublasLt(const Format& format, const EncodedMatrix& weight,
                              PackedWeight* packed) {
  const int64_t n = weight.rows;
  const int64_t k = weight.columns;
  if ((!AcceptsA8W8Fp8(format) && !AcceptsA8W8Int8(format)) || weight.encoding != format.weight ||
      static_cast<int64_t>(weight.values.size()) != n * k ||
      static_cast<int64_t>(weight.scales.size()) != n) {
    return absl::InvalidArgumentError("the weight is not a matrix of this 8-bit format");
  }
  const int64_t copies =
      weight.encoding.element == Element::kE4m3 ? CeilDivide(k, kScaleColumns) : 1;
  std::vector<uint8_t> host(n * k + copies * n * sizeof(float));
  std::copy(weight.values.begin(), weight.values.end(), host.begin());
  for (int64_t i = 0; i < copies; ++i) {
    std::memcpy(&host[n * k + i * n * sizeof(float)], weight.scales.data(), n * sizeof(float));
  }
  return UploadWeight(format, weight, host.data(), static_cast<int64_t>(host.size()), packed);
}

void RunA8W8CublasLt(const LinearArgs& args, Stream& stream) {
  Run(args, static_cast<CudaStream&>(stream));
}

}  // namespace octavo::cuda
