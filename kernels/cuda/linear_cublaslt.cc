// 16-bit products through cuBLASLt. For all but a bias the epilogue is ours: the library's has GELU
// only in its tanh form and no 8-bit encoding of a row.
#include "absl/strings/str_cat.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "kernels/element_bytes.h"

namespace octavo::cuda {
namespace {

bool IsFloatFormat(const Format& format, Element element) {
  return format.weight.element == element && format.weight.scale == ScaleElement::kNone;
}

constexpr int64_t kRowsToAddBias = 256;

void Run(const LinearArgs& args, Element operand, cudaDataType_t type, CudaStream& stream) {
  const LinearShape& shape = args.weight->shape;
  const Epilogue& epilogue = args.epilogue;
  const bool none =
      epilogue.activation == Activation::kNone && !epilogue.gated && epilogue.residual == nullptr;
  // f32 outputs keep f32 products; others lose no more to a 16-bit one than the row allows.
  const Element kept = args.output.element == Element::kF32 ? Element::kF32 : operand;
  // The library adds a bias in the output's type, which costs a conversion of it, and saves a pass
  // over the outputs where there are many.
  const bool adds_bias = epilogue.bias != nullptr && kept == operand && args.rows >= kRowsToAddBias;
  const bool direct =
      none && args.output.element == kept && (epilogue.bias == nullptr || adds_bias);
  const bool library_bias = direct && epilogue.bias != nullptr;
  const int64_t bias_bytes = library_bias ? RoundUp(shape.n * 2, 256) : 0;
  const int64_t product_bytes = direct ? 0 : args.rows * shape.n * ElementBytes(kept);
  auto* workspace =
      static_cast<uint8_t*>(stream.Workspace(kCublasLtWorkspace + bias_bytes + product_bytes));
  if (workspace == nullptr) return;
  uint8_t* after = workspace + kCublasLtWorkspace;
  const Matrix product = direct ? args.output : Matrix{after, shape.n, kept};

  CublasLtProduct call;
  call.operand = type;
  call.output_type = kept == Element::kF32 ? CUDA_R_32F : type;
  call.rows = args.rows;
  call.n = shape.n;
  call.k = shape.k;
  call.input = args.input.values;
  call.input_stride = args.input.stride;
  call.weight = args.weight->data.get();
  call.output = product.values;
  call.output_stride = product.stride;
  if (library_bias) {
    EpilogueArgs convert;
    convert.rows = 1;
    convert.n = shape.n;
    convert.product = {const_cast<float*>(epilogue.bias), shape.n, Element::kF32};
    convert.output = {after, shape.n, operand};
    stream.Record(LaunchEpilogue(convert, stream.handle()), "a bias");
    call.bias = after;
  }
  if (absl::Status status =
          stream.cublaslt_plans().Run(call, workspace, kCublasLtWorkspace, stream.handle());
      !status.ok()) {
    stream.Record(status);
    return;
  }
  if (direct) return;
  const EpilogueArgs finish = {args.rows, args.device_rows, shape.n,
                               product,   args.output,      epilogue};
  stream.Record(LaunchEpilogue(finish, stream.handle()), "an epilogue");
}

}  // namespace

bool AcceptsF16(const Format& format) { return IsFloatFormat(format, Element::kF16); }
bool AcceptsBf16(const Format& format) { return IsFloatFormat(format, Element::kBf16); }

bool FitsCublasLt(const LinearShape& shape) { return shape.n > 0 && shape.k > 0; }

absl::Status PackRowMajor(const Format& format, const EncodedMatrix& weight, PackedWeight* packed) {
  const int64_t bytes = weight.rows * weight.columns * 2;
  if (!(weight.encoding == format.weight) || (!AcceptsF16(format) && !AcceptsBf16(format)) ||
      static_cast<int64_t>(weight.values.size()) != bytes) {
    return absl::InvalidArgumentError("the weight is not a matrix of this 16-bit format");
  }
  return UploadWeight(format, weight, weight.values.data(), bytes, packed);
}

void RunCublasLtF16(const LinearArgs& args, Stream& stream) {
  Run(args, Element::kF16, CUDA_R_16F, static_cast<CudaStream&>(stream));
}

void RunCublasLtBf16(const LinearArgs& args, Stream& stream) {
  Run(args, Element::kBf16, CUDA_R_16BF, static_cast<CudaStream&>(stream));
}

}  // namespace octavo::cuda
