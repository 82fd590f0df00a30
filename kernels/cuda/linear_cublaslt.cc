// 16-bit products through cuBLASLt, with our epilogue: the library's own has GELU only in its tanh
// form, biases only in the output's type, and no 8-bit encoding of a row.
#include "absl/strings/str_cat.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kCublasWorkspace = int64_t{32} << 20;

bool IsFloatFormat(const Format& format, Element element) {
  return format.weight.element == element && format.weight.scale == ScaleElement::kNone;
}

int64_t Bytes(Element element) { return element == Element::kF32 ? 4 : 2; }

void Run(const LinearArgs& args, Element operand, cudaDataType_t type, CudaStream& stream) {
  const LinearShape& shape = args.weight->shape;
  const Epilogue& epilogue = args.epilogue;
  const bool plain = epilogue.bias == nullptr && epilogue.activation == Activation::kNone &&
                     !epilogue.gated && epilogue.residual == nullptr;
  // f32 outputs keep f32 products; others lose no more to a 16-bit one than the row allows.
  const Element kept = args.output.element == Element::kF32 ? Element::kF32 : operand;
  const bool direct = plain && args.output.element == kept;
  const int64_t product_bytes = direct ? 0 : args.rows * shape.n * Bytes(kept);
  auto* workspace = static_cast<uint8_t*>(stream.Workspace(kCublasWorkspace + product_bytes));
  if (workspace == nullptr) return;
  const Matrix product = direct ? args.output : Matrix{workspace + kCublasWorkspace, shape.n, kept};

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
  if (absl::Status status =
          stream.cublaslt_plans().Run(call, workspace, kCublasWorkspace, stream.handle());
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
  absl::StatusOr<std::shared_ptr<const void>> data = UploadWeight(weight.values.data(), bytes);
  if (!data.ok()) return data.status();
  packed->format = &format;
  packed->shape = {.n = weight.rows, .k = weight.columns};
  packed->bytes = bytes;
  packed->data = *std::move(data);
  return absl::OkStatus();
}

void RunCublasLtF16(const LinearArgs& args, Stream& stream) {
  Run(args, Element::kF16, CUDA_R_16F, static_cast<CudaStream&>(stream));
}

void RunCublasLtBf16(const LinearArgs& args, Stream& stream) {
  Run(args, Element::kBf16, CUDA_R_16BF, static_cast<CudaStream&>(stream));
}

}  // namespace octavo::cuda
