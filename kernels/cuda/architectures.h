// Which machine code the present GPUs run.
#pragma once

#include <cstdint>
#include <string>

namespace octavo::cuda {

// sm_90a code runs on compute capability 9.0 and on nothing else, and so on: bits are exact.
enum Architecture : uint32_t {
  kSm80 = 1u << 0,
  kSm89 = 1u << 1,
  kSm90a = 1u << 2,
  kSm100a = 1u << 3,
  kSm120a = 1u << 4,
};

// The bit of one device; 0 if it is of no architecture above, or there is no such device.
uint32_t ArchitectureOf(int device);

// The bits of device 0; 0 without a device. Computed once; thread-safe.
uint32_t DetectedArchitectures();

// "sm_90a", for logs and refusals.
std::string ArchitectureNames(uint32_t architectures);

}  // namespace octavo::cuda
