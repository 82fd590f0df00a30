// The element types of formats, alone: plain data for files compiled for one instruction set.
#pragma once

#include <cstdint>

namespace octavo {

enum class Element : uint8_t {
  kF32,
  kF16,
  kBf16,
  kInt8,
  kInt16,  // of arithmetic alone: no format stores it
  kE4m3,
  kInt4,
  kE2m1,
  kCodebook16,
  kTernary,
  kBinary,
};

}  // namespace octavo
