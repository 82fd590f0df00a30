// Random operands for tests of kernels.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace octavo {

// Standard normal; the same for the same seed.
inline std::vector<float> RandomVector(int64_t size, int seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(size);
  for (float& value : x) value = normal(random);
  return x;
}

}  // namespace octavo
