// octavo-bench linear and peak on a device: every linear row of its table validated, then timed on
// the device's clock.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "tests/bench/linear_bench.h"

namespace octavo::bench {

// As RunLinearBench, with what a device asks for: JSON lines with device, kernel, format, n, k,
// tokens, epilogue ("bias" to the hidden element; "gelu" to the format's activation encoding), us
// (calls following each other, one graph of them), tflops, share_of_peak (of the format's fastest
// row at 8192 x 8192 x 8192, measured here), and for up to 64 tokens cold_us (256 MB of other
// memory touched before each call) with weight_gbytes_per_second. Epilogues but bias and gelu are
// left out: a device's norm adds the residual. INTERNAL if a row's values are wrong.
absl::Status RunDeviceLinearBench(const LinearBenchOptions& options, const std::string& device);

// What the device does at most: each linear row at 8192 x 8192 x 8192, and memory read and written
// at once.
absl::Status RunDevicePeakBench(const std::string& device, std::ostream* output);

}  // namespace octavo::bench
