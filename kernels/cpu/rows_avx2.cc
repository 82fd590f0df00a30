#include "kernels/cpu/epilogue_avx2.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/rows_table.h"
#include "kernels/cpu/rows_vector.h"

namespace octavo::cpu {

const RowFunctions kRowsAvx2 = {
    "rows_avx2",
    kAvx2,
    EncodeRowsWith<Avx2Vector>,
    LayerNormRowsWith<Avx2Vector>,
    EmbedRowsWith<Avx2Vector>,
    MeanPoolWith<Avx2Vector>,
};

}  // namespace octavo::cpu
