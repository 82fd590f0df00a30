#include "kernels/cpu/epilogue_avx512.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/rows_table.h"
#include "kernels/cpu/rows_vector.h"

namespace octavo::cpu {

const RowFunctions kRowsAvx512 = {
    "rows_avx512",
    kAvx512,
    EncodeRowsWith<Avx512Vector>,
    LayerNormRowsWith<Avx512Vector>,
    EmbedRowsWith<Avx512Vector>,
    MeanPoolWith<Avx512Vector>,
};

}  // namespace octavo::cpu
