#include "kernels/cpu/linear_block.h"

#include <algorithm>

#include "kernels/cpu/processors.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/team.h"
#include "kernels/element_bytes.h"
#include "kernels/linear.h"

namespace octavo::cpu {
namespace {

// Activations of a block kept in the second-level cache beside one weight panel.
constexpr int64_t kInputBytes = 256 << 10;
// Fewest rows of an f32 block that waits to be encoded, however wide.
constexpr int64_t kEncodedRows = 48;
// Fewer rows a thread than this would each read all weights for too little; columns are split.
constexpr int64_t kFewestRows = 32;

// Rows of an f32 block that waits to be encoded: half the second-level cache, the weights pass by
// in the other. Every block reads all weights, which few of these caches hold.
int64_t EncodedRows(int64_t columns) {
  static const int64_t bytes = SecondLevelCacheBytes() / 2;
  return std::max(kEncodedRows, bytes / (columns * static_cast<int64_t>(sizeof(float))));
}

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Outputs whose scales are known only when the row is: finished in f32, then encoded.
bool IsEncoded(Element element) { return element == Element::kInt8 || element == Element::kE4m3; }

struct Split {
  int64_t row_blocks = 1;
  int64_t rows = 0;  // a block
  int64_t column_blocks = 1;
  int64_t columns = 0;  // a block
};

// Panels of a task: `usual`, unless larger or smaller tasks leave the busiest thread less to do.
int64_t PanelsOfTask(int64_t panels, int64_t usual, int64_t row_blocks, int threads) {
  const auto longest = [&](int64_t share) {
    return CeilDivide(row_blocks * CeilDivide(panels, share), threads) * share;
  };
  int64_t best = usual;
  int64_t least = longest(usual);
  for (int64_t share = CeilDivide(row_blocks * panels, threads); share >= 1; --share) {
    if (const int64_t panels_of_one = longest(share); panels_of_one < least) {
      best = share;
      least = panels_of_one;
    }
  }
  return best;
}

Split SplitProduct(const BlockKernel& kernel, const LinearArgs& args, int threads) {
  const LinearShape& shape = args.weight->shape;
  const int64_t input_rows = kInputBytes / (shape.k * ElementBytes(args.input.element));
  int64_t limit =
      IsEncoded(args.output.element) ? EncodedRows(shape.n) : std::max(kEncodedRows, input_rows);
  if (threads > 1 && args.rows >= kFewestRows * threads) {
    limit = std::min(limit, std::max(kFewestRows, CeilDivide(args.rows, 2 * threads)));
  }
  Split split;
  split.rows = CeilDivide(args.rows, CeilDivide(args.rows, limit));
  // Whole tiles, where that is not at the price of equal shares.
  if (threads == 1) split.rows = CeilDivide(split.rows, kernel.row_step) * kernel.row_step;
  split.row_blocks = CeilDivide(args.rows, split.rows);
  split.columns = shape.n;
  if (threads > 1 && split.row_blocks < threads) {
    const int64_t wanted = CeilDivide(2 * threads, split.row_blocks);
    const int64_t panels = CeilDivide(shape.n, kernel.column_step);
    const int64_t usual = CeilDivide(panels, std::min(wanted, panels));
    split.columns = PanelsOfTask(panels, usual, split.row_blocks, threads) * kernel.column_step;
    split.column_blocks = CeilDivide(shape.n, split.columns);
  }
  return split;
}

void* RowOf(const Matrix& matrix, int64_t row) {
  return static_cast<char*>(matrix.values) + row * matrix.stride * ElementBytes(matrix.element);
}

Matrix FromRow(const Matrix& matrix, int64_t row) {
  Matrix rest = matrix;
  rest.values = RowOf(matrix, row);
  if (matrix.scales != nullptr) rest.scales = matrix.scales + row;
  if (matrix.sums != nullptr) rest.sums = matrix.sums + row;
  return rest;
}

// The block of rows [row, row + rows) and product columns from `column`, outputs to args.output.
LinearBlock BlockOf(const LinearArgs& args, int64_t row, int64_t rows, int64_t column,
                    int64_t columns) {
  LinearBlock block;
  block.weight = args.weight->data.get();
  block.shape = args.weight->shape;
  block.rows = std::min(rows, args.rows - row);
  block.column_begin = column;
  block.column_end = std::min(column + columns, block.shape.n);
  block.input = FromRow(args.input, row);
  block.output = FromRow(args.output, row);
  block.coarse = args.output.element != Element::kF32;
  block.epilogue = args.epilogue;
  if (block.epilogue.residual != nullptr) {
    block.epilogue.residual += row * block.epilogue.residual_stride;
  }
  return block;
}

float* Scratch(int64_t floats) {
  return static_cast<float*>(ThreadScratch(ScratchUse::kRows, floats * sizeof(float)));
}

// Floats from row to row of the scratch: off multiples of 4 KiB, on which stores to neighbouring
// rows would meet in the same cache sets.
int64_t ScratchStride(int64_t columns) { return CeilDivide(columns, 16) * 16 + 16; }

void RunEncoded(const BlockKernel& kernel, const LinearArgs& args, const Split& split, Team& team) {
  const int64_t columns = args.epilogue.gated ? args.weight->shape.n / 2 : args.weight->shape.n;
  const int64_t stride = ScratchStride(columns);
  if (split.column_blocks == 1) {
    team.Run(split.row_blocks, [&](int64_t task, int) {
      LinearBlock block = BlockOf(args, task * split.rows, split.rows, 0, split.columns);
      const Matrix encoded = block.output;
      float* scratch = Scratch(split.rows * stride);
      block.output = {.values = scratch, .stride = stride, .element = Element::kF32};
      kernel.compute(block);
      kernel.encode(scratch, stride, block.rows, columns, encoded);
    });
    return;
  }
  float* scratch = Scratch(args.rows * stride);
  LinearArgs plain = args;
  plain.output = {.values = scratch, .stride = stride, .element = Element::kF32};
  team.Run(split.row_blocks * split.column_blocks, [&](int64_t task, int) {
    LinearBlock block = BlockOf(plain, task / split.column_blocks * split.rows, split.rows,
                                task % split.column_blocks * split.columns, split.columns);
    block.coarse = true;
    kernel.compute(block);
  });
  const int64_t rows = CeilDivide(args.rows, team.threads());
  team.Run(CeilDivide(args.rows, rows), [&](int64_t task, int) {
    const int64_t row = task * rows;
    kernel.encode(scratch + row * stride, stride, std::min(rows, args.rows - row), columns,
                  FromRow(args.output, row));
  });
}

}  // namespace

void RunBlocks(const BlockKernel& kernel, const LinearArgs& args, Stream& stream) {
  if (args.rows == 0) return;
  Team& team = static_cast<Team&>(stream);
  const Split split = SplitProduct(kernel, args, team.threads());
  if (IsEncoded(args.output.element)) {
    RunEncoded(kernel, args, split, team);
    return;
  }
  team.Run(split.row_blocks * split.column_blocks, [&](int64_t task, int) {
    kernel.compute(BlockOf(args, task / split.column_blocks * split.rows, split.rows,
                           task % split.column_blocks * split.columns, split.columns));
  });
}

}  // namespace octavo::cpu
