// A small random encoder, its forwards in any format, and a float64 forward to hold them against.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/forward.h"

namespace octavo::testing {

// BERT-shaped: 2 layers, hidden 64, 2 heads of 32, intermediate 128, 300 tokens at most.
ModelSpec SmallSpec();

// `count` sequences of ids in range, of the given lengths, repeating; seeded.
std::vector<std::vector<int32_t>> RandomSequences(const ModelSpec& spec,
                                                  const std::vector<int>& lengths, uint32_t seed);

// A model loaded in one format on one backend.
struct LoadedModel {
  std::unique_ptr<Stream> stream;
  std::shared_ptr<const SharedWeights> shared;
  std::unique_ptr<Forward> forward;

  // Pooled rows [sequences, hidden] of one batch, in units of `unit_rows`.
  std::vector<std::vector<float>> Embed(const std::vector<std::vector<int32_t>>& sequences,
                                        int64_t unit_rows) const;
};

LoadedModel Load(const Checkpoint& checkpoint, const std::string& format, int threads,
                 const std::string& forced_kernels = "", std::string_view backend = "cpu",
                 std::string_view forced_attention = "");

LoadedModel LoadOn(const Backend& backend, const Checkpoint& checkpoint, const std::string& format,
                   int threads, const std::string& forced_kernels = "",
                   std::string_view forced_attention = "");

// Why `backend` can't be used here; empty if it can.
std::string WhyNot(std::string_view backend);

// The same model in float64, one sequence: pooled [hidden].
std::vector<double> ReferenceForward(const Checkpoint& checkpoint,
                                     const std::vector<int32_t>& sequence);

}  // namespace octavo::testing
