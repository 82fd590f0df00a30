#include "kernels/cpu/rows.h"

#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/rows_table.h"

namespace octavo::cpu {
namespace {

const RowFunctions& Chosen() {
  static const RowFunctions& chosen = []() -> const RowFunctions& {
    const uint32_t here = DetectedInstructionSets();
    for (const RowFunctions& functions : RowFunctionTable()) {
      if ((functions.instruction_sets & ~here) == 0) return functions;
    }
    return kRowsPortable;
  }();
  return chosen;
}

}  // namespace

std::span<const RowFunctions> RowFunctionTable() {
  static const RowFunctions table[] = {
#if defined(__x86_64__)
    kRowsAvx512,
    kRowsAvx2,
#endif
    kRowsPortable,
  };
  return table;
}

void EncodeRows(const float* input, int64_t input_stride, int64_t rows, int64_t columns,
                const Matrix& output) {
  Chosen().encode(input, input_stride, rows, columns, output);
}

void LayerNormRows(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                   const float* bias, float epsilon) {
  Chosen().layer_norm(x, stride, rows, columns, gain, bias, epsilon, nullptr);
}

void LayerNormEncodeRows(float* x, int64_t stride, int64_t rows, int64_t columns, const float* gain,
                         const float* bias, float epsilon, const Matrix& encoded) {
  Chosen().layer_norm(x, stride, rows, columns, gain, bias, epsilon, &encoded);
}

void EmbedRows(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
               int64_t rows, int64_t columns, float* hidden, int64_t stride) {
  Chosen().embed(tables, ids, positions, rows, columns, hidden, stride);
}

void MeanPool(const float* hidden, int64_t stride, int64_t rows, int64_t columns, float* output) {
  Chosen().mean_pool(hidden, stride, rows, columns, output);
}

}  // namespace octavo::cpu
