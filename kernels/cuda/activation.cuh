// Activations in f32.
#pragma once

#include "kernels/matrix.h"

namespace octavo::cuda {

__device__ inline float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::kGeluTanh:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    default:
      return x;
  }
}

}  // namespace octavo::cuda
