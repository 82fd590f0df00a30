#include "kernels/cuda/architectures.h"

#include <cuda_runtime_api.h>

namespace octavo::cuda {
namespace {

struct Named {
  Architecture bit;
  int major, minor;
  const char* name;
};

constexpr Named kNames[] = {{kSm80, 8, 0, "sm_80"},
                            {kSm89, 8, 9, "sm_89"},
                            {kSm90a, 9, 0, "sm_90a"},
                            {kSm100a, 10, 0, "sm_100a"},
                            {kSm120a, 12, 0, "sm_120a"}};

}  // namespace

uint32_t ArchitectureOf(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  for (const Named& known : kNames) {
    if (known.major == major && known.minor == minor) return known.bit;
  }
  return 0;
}

uint32_t DetectedArchitectures() {
  static const uint32_t detected = ArchitectureOf(0);
  return detected;
}

std::string ArchitectureNames(uint32_t architectures) {
  std::string names;
  for (const Named& known : kNames) {
    if ((architectures & known.bit) == 0) continue;
    if (!names.empty()) names += " ";
    names += known.name;
  }
  return names.empty() ? "no architecture this build knows" : names;
}

}  // namespace octavo::cuda
