// octavo-bench profile --batch: where a device's time goes in a batch of documents and in a query.
#pragma once

#include "absl/status/status.h"
#include "tests/bench/forward_bench.h"

namespace octavo::bench {

// For each format, and documents of each count of tokens and the one query: every kernel of a pass
// timed alone on the device, by the part of the encoder it belongs to, as `profile` names them. A
// JSON line a part: us of a pass, calls, share of the parts' sum, and tflops (products, attention).
// The line "whole" has the sum and the time of the same pass undisturbed: less, where kernels
// overlap; more, where the device waits for the host. Options' rounds are passes, of which it takes
// the mean. Nothing is validated: `model` does that.
absl::Status RunForwardProfile(const ForwardBenchOptions& options);

}  // namespace octavo::bench
