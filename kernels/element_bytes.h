// Bytes of one activation. Apart from matrix.h, which files compiled for one instruction set
// include: the linker keeps one copy of an inline function for every caller.
#pragma once

#include <cstdint>

#include "quant/element.h"

namespace octavo {

constexpr int64_t ElementBytes(Element element) {
  switch (element) {
    case Element::kF32:
      return 4;
    case Element::kF16:
    case Element::kBf16:
      return 2;
    default:
      return 1;
  }
}

}  // namespace octavo
