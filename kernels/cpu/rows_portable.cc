#include "kernels/cpu/epilogue_portable.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/rows_table.h"
#include "kernels/cpu/rows_vector.h"

namespace octavo::cpu {

const RowFunctions kRowsPortable = {
    "rows_portable",
    kPortable,
    EncodeRowsWith<PortableVector>,
    LayerNormRowsWith<PortableVector>,
    EmbedRowsWith<PortableVector>,
    MeanPoolWith<PortableVector>,
};

}  // namespace octavo::cpu
