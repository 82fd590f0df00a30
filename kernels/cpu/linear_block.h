// How a CPU linear row is cut into blocks of work, and what its instruction-set file supplies.
//
// A row's file compiled for one instruction set (linear_*_avx512*.cc) holds two functions, compute
// and encode, over plain data. Everything that touches Status, threads or memory is in portable
// files: linear_block.cc cuts, allocates scratch and runs the blocks on the team.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"

namespace octavo {
struct LinearArgs;
class Stream;
}  // namespace octavo

namespace octavo::cpu {

// All products of `rows` rows with weight rows [column_begin, column_end). Pointers are already at
// the block's first row (and column 0), so rows count from 0.
struct LinearBlock {
  const void* weight = nullptr;  // PackedWeight::data
  LinearShape shape;             // of the whole weight
  int64_t rows = 0;
  int64_t column_begin = 0;  // a multiple of BlockKernel::column_step
  int64_t column_end = 0;    // likewise, or shape.n
  Matrix input;
  Matrix output;  // f32 or bf16, never 8 bits
  // The output ends in 16 or 8 bits: GELU may be the coarse one (within 1e-4).
  bool coarse = false;
  Epilogue epilogue;
};

struct BlockKernel {
  // Computes the block's outputs, epilogue applied (FinishTile of epilogue.h). Reads nothing
  // outside the block's rows and the first shape.k columns; writes nothing outside the block.
  void (*compute)(const LinearBlock& block);
  // Encodes finished f32 rows as int8 or e4m3 (EncodeBlock of epilogue.h); output is at the first
  // row.
  void (*encode)(const float* values, int64_t stride, int64_t rows, int64_t columns,
                 const Matrix& output);
  int64_t row_step;     // rows of the register tile
  int64_t column_step;  // weight rows of a panel; even
};

// Computes args on the team `stream`. Blocks are sized so that a block's activations stay in the
// second-level cache while the weight panels pass by; with 8-bit output a block is whole rows, kept
// in f32 in per-thread scratch until they are complete, then encoded. When there are fewer rows
// than threads want, columns are split too, and encoding follows the join.
void RunBlocks(const BlockKernel& kernel, const LinearArgs& args, Stream& stream);

}  // namespace octavo::cpu
