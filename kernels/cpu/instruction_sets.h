// What this processor and its operating system can run, from CPUID and XGETBV; on Linux the tile
// registers of AMX are asked for, once, and their sets left out if that is refused.
#pragma once

#include <cstdint>
#include <string>

namespace octavo::cpu {

enum InstructionSet : uint32_t {
  kPortable = 0,
  kAvx2 = 1u << 0,  // with FMA and F16C
  kAvxVnni = 1u << 1,
  kAvx512 = 1u << 2,  // F, BW, DQ, VL
  kAvx512Vnni = 1u << 3,
  kAvx512Bf16 = 1u << 4,
  kAmxInt8 = 1u << 5,
  kAmxBf16 = 1u << 6,
};

// Bits of the instruction sets usable here. Computed once; thread-safe.
uint32_t DetectedInstructionSets();

// "avx2 avx512 avx512_vnni", for logs and refusals.
std::string InstructionSetNames(uint32_t sets);

}  // namespace octavo::cpu
