// Times linear rows on random weights: what plans and crossovers are made from.
#pragma once

#include <cstdint>
#include <iterator>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/linear.h"
#include "kernels/stream.h"

namespace octavo {

// Tokens at which rows are timed; each stands for the counts above the one before it, the last for
// all above.
inline constexpr int64_t kTimedTokens[] = {1, 2, 4, 8, 16, 32, 64, 128};
inline constexpr int kTimedCounts = std::size(kTimedTokens);

// Of the steady clock.
double SteadySeconds();

// For one shape, larger ones cut to fewer output channels. Not thread-safe.
class RowTimer {
 public:
  // `stream` outlives the timer; rows run on it. `now` returns seconds.
  RowTimer(const LinearShape& shape, Stream& stream, double (*now)());

  // A weight of random codes for `kernel`.
  absl::StatusOr<PackedWeight> Pack(const LinearKernel& kernel, const Format& format) const;

  // Seconds a call takes with up to 128 tokens: the best of three, weights cold at small counts, as
  // they are between two layers. A row that takes far more than `seconds_to_beat` is not run again.
  double Time(const LinearKernel& kernel, const PackedWeight& weight, int64_t tokens,
              double seconds_to_beat);

 private:
  void EvictCaches();

  const LinearShape shape_;
  Stream& stream_;
  double (*const now_)();
  const std::vector<uint64_t> evicting_;
  std::vector<uint8_t> input_;
  std::vector<float> output_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

}  // namespace octavo
