// Packing and arguments of the a16w4_int4 rows: the kernel that decodes as it multiplies, and
// cuBLASLt on values decoded once, when packed.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/alignment.h"
#include "kernels/cuda/epilogue.h"
#include "kernels/cuda/linear_a16w4_int4_f16_sm90.h"
#include "kernels/cuda/linear_rows.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/stream.h"
#include "quant/half.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kAlignment = 256;

absl::Status Check(const Format& format, const EncodedMatrix& matrix) {
  const int64_t groups = matrix.rows * matrix.groups();
  const bool zeros = matrix.encoding.zero != Zero::kNone;
  if (AcceptsA16W4Int4(format) && matrix.encoding == format.weight && matrix.rows > 0 &&
      matrix.columns > 0 &&
      static_cast<int64_t>(matrix.values.size()) == matrix.rows * matrix.row_bytes() &&
      static_cast<int64_t>(matrix.scales.size()) == groups &&
      static_cast<int64_t>(matrix.zeros.size()) == (zeros ? groups : 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("cannot pack a matrix [", matrix.rows, ", ",
                                                 matrix.columns, "] as ",
                                                 std::string(format.name)));
}

std::vector<uint16_t> ToF16(const std::vector<float>& values) {
  std::vector<uint16_t> halves(values.size());
  std::transform(values.begin(), values.end(), halves.begin(), FloatToF16);
  return halves;
}

bool TakesOutput(Element element) {
  return element == Element::kF16 || element == Element::kBf16 || element == Element::kF32;
}

}  // namespace

bool AcceptsA16W4Int4(const Format& format) {
  const Encoding& weight = format.weight;
  return weight.element == Element::kInt4 && weight.group_rows == 1 && weight.group_columns > 0 &&
         weight.group_columns % 32 == 0 && weight.scale == ScaleElement::kF16 &&
         weight.tensor_scale == ScaleElement::kNone &&
         (weight.zero == Zero::kNone || weight.zero == Zero::kF16);
}

absl::Status PackA16W4Int4(const Format& format, const EncodedMatrix& matrix,
                           PackedWeight* packed) {
  if (absl::Status status = Check(format, matrix); !status.ok()) return status;
  const std::vector<uint16_t> scales = ToF16(matrix.scales);
  const std::vector<uint16_t> zeros = ToF16(matrix.zeros);
  Int4Weight weight;
  weight.n = static_cast<int>(matrix.rows);
  weight.k = static_cast<int>(matrix.columns);
  weight.group_columns = matrix.encoding.group_columns;
  weight.codes = matrix.values.data();
  weight.scales = scales.data();
  weight.zeros = zeros.empty() ? nullptr : zeros.data();
  const std::vector<uint8_t> blocks = PackInt4Weight(weight);
  return UploadWeight(format, matrix, blocks.data(), static_cast<int64_t>(blocks.size()), packed);
}

void RunA16W4Int4(const LinearArgs& args, Stream& stream_base) {
  auto& stream = static_cast<CudaStream&>(stream_base);
  const LinearShape& shape = args.weight->shape;
  const Encoding& encoding = args.weight->format->weight;
  const bool aligned = reinterpret_cast<uintptr_t>(args.input.values) % 16 == 0 &&
                       args.input.stride % 8 == 0 && shape.k % 8 == 0;
  const bool direct = TakesOutput(args.output.element);
  const int64_t stride = RoundUp(shape.k, 8);
  const int64_t input_bytes = aligned ? 0 : RoundUp(args.rows * stride * 2, kAlignment);
  const int64_t product_bytes = direct ? 0 : args.rows * shape.n * 4;

  A16W4Int4Args call;
  call.weight = args.weight->data.get();
  call.n = static_cast<int>(shape.n);
  call.k = static_cast<int>(shape.k);
  call.groups = Int4BlockGroups(encoding.group_columns);
  call.zero_points = encoding.zero != Zero::kNone;
  call.input = static_cast<const uint16_t*>(args.input.values);
  call.input_stride = args.input.stride;
  call.rows = static_cast<int>(args.rows);
  call.device_rows = args.device_rows;
  call.output = args.output.values;
  call.output_stride = args.output.stride;
  call.output_element = args.output.element;
  call.epilogue = args.epilogue;

  uint8_t* workspace = nullptr;
  if (input_bytes + product_bytes > 0) {
    workspace = static_cast<uint8_t*>(stream.Workspace(input_bytes + product_bytes));
    if (workspace == nullptr) return;
  }
  if (!aligned) {
    stream.Record(cudaMemsetAsync(workspace, 0, input_bytes, stream.handle()), "aligning rows");
    stream.Record(CopyRows(workspace, stride * 2, args.input.values, args.input.stride * 2,
                           shape.k * 2, args.rows, stream.handle()),
                  "aligning rows");
    call.input = reinterpret_cast<const uint16_t*>(workspace);
    call.input_stride = stride;
  }
  const Matrix product = {workspace + input_bytes, shape.n, Element::kF32};
  if (!direct) {
    call.output = product.values;
    call.output_stride = product.stride;
    call.output_element = product.element;
    call.epilogue = {};
  }
  stream.Record(LaunchLinearA16W4Int4(call, stream.handle()), "an a16w4_int4 product");
  if (direct) return;
  const EpilogueArgs finish = {args.rows, args.device_rows, shape.n,
                               product,   args.output,      args.epilogue};
  stream.Record(LaunchEpilogue(finish, stream.handle()), "an epilogue");
}

absl::Status PackA16W4Int4Decoded(const Format& format, const EncodedMatrix& matrix,
                                  PackedWeight* packed) {
  if (absl::Status status = Check(format, matrix); !status.ok()) return status;
  const std::vector<float> decoded = DecodeMatrix(format, matrix);
  const std::vector<uint16_t> values = ToF16(decoded);
  for (size_t i = 0; i < decoded.size(); ++i) {
    if (std::isfinite(F16ToFloat(values[i]))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a weight decodes to ", decoded[i], ", beyond what f16 holds"));
  }
  return UploadWeight(format, matrix, values.data(), static_cast<int64_t>(values.size() * 2),
                      packed);
}

}  // namespace octavo::cuda
