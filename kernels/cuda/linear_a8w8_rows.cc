// The a8w8 rows of Hopper: packs their weights, and turns a table's arguments into the kernels'.
#include <cstring>
#include <vector>

#include "kernels/cuda/alignment.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/linear_a8w8_sm90.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kAlignment = 16;  // of what the copy engine and vector stores touch
constexpr int64_t kScaleColumns = 128;

bool Aligned(const void* pointer, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0 && stride_bytes % kAlignment == 0;
}

// What the product's own epilogue can write.
bool FindOutputKind(const LinearArgs& args, A8W8Output* kind) {
  const Epilogue& epilogue = args.epilogue;
  const Matrix& output = args.output;
  if (epilogue.gated || epilogue.residual != nullptr ||
      (epilogue.activation != Activation::kNone && epilogue.activation != Activation::kGelu) ||
      !Aligned(epilogue.bias, 0)) {
    return false;
  }
  switch (output.element) {
    case Element::kF32:
      *kind = A8W8Output::kF32;
      // The fused GELU is within 1e-4, f32 outputs are promised 1e-6.
      return epilogue.activation == Activation::kNone && Aligned(output.values, 4 * output.stride);
    case Element::kF16:
      *kind = A8W8Output::kF16;
      return Aligned(output.values, 2 * output.stride);
    case Element::kBf16:
      *kind = A8W8Output::kBf16;
      return Aligned(output.values, 2 * output.stride);
    case Element::kE4m3:
      *kind = A8W8Output::kE4m3;
      return args.weight->format->activation.element == Element::kE4m3 &&
             Aligned(output.values, 2 * output.stride);
    default:
      return false;
  }
}

using Launcher = cudaError_t (*)(const A8W8Args&, const A8W8Tile&, int, cudaStream_t);

void Run(const LinearArgs& args, Launcher launch, CudaStream& stream) {
  if (args.rows == 0) return;
  const LinearShape& shape = args.weight->shape;
  const int64_t padded_n = RoundUp(shape.n, kA8W8PackedRows);
  const bool fp8 = args.input.element == Element::kE4m3;
  const bool input_fits = Aligned(args.input.values, args.input.stride);
  const bool scales_fit = !fp8 || Aligned(args.input.scales, 4 * args.input.scale_stride);
  A8W8Args call;
  const bool fused = FindOutputKind(args, &call.output_kind);
  // int8 is encoded from whole rows of f16, what the product's epilogue does not do from f32.
  const bool encode = !fused && args.output.element == Element::kInt8 && !args.epilogue.gated &&
                      args.epilogue.residual == nullptr &&
                      args.epilogue.activation == Activation::kGelu &&
                      Aligned(args.epilogue.bias, 0);

  // Workspace: the product, then inputs and their scales where they must be copied to be aligned.
  const int64_t product_bytes =
      fused ? 0 : RoundUp(args.rows * shape.n * (encode ? 2 : 4), kAlignment);
  const int64_t input_bytes = input_fits ? 0 : RoundUp(args.rows * shape.k, kAlignment);
  const int64_t groups = CeilDivide(shape.k, kScaleColumns);
  const int64_t scale_stride = RoundUp(args.rows, 4);
  const int64_t scale_bytes = scales_fit ? 0 : groups * scale_stride * 4;
  uint8_t* workspace = nullptr;
  if (product_bytes + input_bytes + scale_bytes > 0) {
    workspace = static_cast<uint8_t*>(stream.Workspace(product_bytes + input_bytes + scale_bytes));
    if (workspace == nullptr) return;
  }

  call.rows = args.rows;
  call.device_rows = args.device_rows;
  call.n = static_cast<int>(shape.n);
  call.k = static_cast<int>(shape.k);
  call.input = args.input.values;
  call.input_stride = args.input.stride;
  call.input_scales = args.input.scales;
  call.input_scale_stride = args.input.scale_stride;
  if (!input_fits) {
    uint8_t* copy = workspace + product_bytes;
    stream.Record(
        CopyRows(copy, shape.k, call.input, call.input_stride, shape.k, args.rows, stream.handle()),
        "a copy of unaligned activations");
    call.input = copy;
    call.input_stride = shape.k;
  }
  if (!scales_fit) {
    float* copy = reinterpret_cast<float*>(workspace + product_bytes + input_bytes);
    stream.Record(CopyRows(copy, scale_stride * 4, call.input_scales, call.input_scale_stride * 4,
                           args.rows * 4, groups, stream.handle()),
                  "a copy of unaligned scales");
    call.input_scales = copy;
    call.input_scale_stride = scale_stride;
  }
  call.weight = args.weight->data.get();
  call.weight_scales = reinterpret_cast<const float*>(
      static_cast<const uint8_t*>(args.weight->data.get()) + padded_n * shape.k);
  if (fused) {
    call.output = args.output.values;
    call.output_stride = args.output.stride;
    call.output_scales = args.output.scales;
    call.output_scale_stride = args.output.scale_stride;
  } else {
    call.output_kind = encode ? A8W8Output::kF16 : A8W8Output::kF32;
    call.output = workspace;
    call.output_stride = shape.n;
  }
  if (fused || encode) {
    call.bias = args.epilogue.bias;
    call.gelu = args.epilogue.activation == Activation::kGelu;
  }
  stream.Record(launch(call, ChooseA8W8Tile(call, stream.multiprocessors()),
                       stream.multiprocessors(), stream.handle()),
                "an a8w8 product");
  if (fused) return;
  const Matrix product = {workspace, shape.n, encode ? Element::kF16 : Element::kF32};
  const EpilogueArgs finish = {args.rows, args.device_rows, shape.n,
                               product,   args.output,      encode ? Epilogue{} : args.epilogue};
  stream.Record(LaunchEpilogue(finish, stream.handle()), "an epilogue");
}

}  // namespace

bool AcceptsA8W8Fp8(const Format& format) {
  const Encoding weight = {.element = Element::kE4m3, .group_rows = 1, .scale = ScaleElement::kF32};
  Encoding activation = weight;
  activation.group_columns = kScaleColumns;
  activation.when = When::kPerCall;
  return format.weight == weight && format.activation == activation;
}

bool AcceptsA8W8Int8(const Format& format) {
  const Encoding weight = {.element = Element::kInt8, .group_rows = 1, .scale = ScaleElement::kF32};
  Encoding activation = weight;
  activation.when = When::kPerCall;
  return format.weight == weight && format.activation == activation;
}

bool FitsA8W8Sm90(const LinearShape& shape) {
  return shape.n > 0 && shape.k > 0 && shape.n % 16 == 0 && shape.k % 16 == 0 &&
         shape.n < 1 << 24 && shape.k <= 1 << 16;
}

absl::Status PackA8W8Sm90(const Format& format, const EncodedMatrix& weight, PackedWeight* packed) {
  const int64_t n = weight.rows;
  const int64_t k = weight.columns;
  if ((!AcceptsA8W8Fp8(format) && !AcceptsA8W8Int8(format)) || weight.encoding != format.weight ||
      !FitsA8W8Sm90({.n = n, .k = k}) || static_cast<int64_t>(weight.values.size()) != n * k ||
      static_cast<int64_t>(weight.scales.size()) != n) {
    return absl::InvalidArgumentError("the weight is not a matrix of an 8-bit format that fits");
  }
  const int64_t padded_n = RoundUp(n, kA8W8PackedRows);
  std::vector<uint8_t> host(padded_n * k + padded_n * sizeof(float));
  PackA8W8Weight(weight.values.data(), static_cast<int>(n), static_cast<int>(k), host.data());
  std::memcpy(&host[padded_n * k], weight.scales.data(), n * sizeof(float));
  return UploadWeight(format, weight, host.data(), static_cast<int64_t>(host.size()), packed);
}

void RunA8W8Fp8Sm90(const LinearArgs& args, Stream& stream) {
  Run(args, LaunchLinearA8W8Fp8Sm90, static_cast<CudaStream&>(stream));
}

void RunA8W8Int8Sm90(const LinearArgs& args, Stream& stream) {
  Run(args, LaunchLinearA8W8Int8Sm90, static_cast<CudaStream&>(stream));
}

}  // namespace octavo::cuda
