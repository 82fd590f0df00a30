// Pooled rows to the vectors of a response: cut, normalized, encoded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "octavo/v1/embedding.pb.h"

namespace octavo {

// The types a client can ask for, in the order of their numbers.
std::span<const v1::DataType> OutputTypes();

// Bytes of `data` a row of `dimensions` values takes; dimensions is a multiple of 8 for BINARY.
size_t RowBytes(v1::DataType type, int dimensions);

// Cuts `row` to `dimensions` values, then, if `normalize`, scales it to length 1 (a row of zeros
// stays). Writes to `output`, [dimensions].
void CutAndNormalize(std::span<const float> row, int dimensions, bool normalize,
                     std::span<float> output);

// Encodes one row, little-endian, to RowBytes(type, row.size()) bytes. Returns the scale of INT8
// (max|x| / 127; values are rounded half to even), 0 for other types. Values are finite. Values
// beyond the range of FLOAT16 become infinities, as IEEE 754 rounds them.
float EncodeVector(v1::DataType type, std::span<const float> row, uint8_t* output);

}  // namespace octavo
