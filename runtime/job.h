// The unit the service hands to the runtime: the inputs of one call, or of one stream message.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "quant/format.h"

namespace octavo {

enum class Lane : uint8_t { kQuery = 0, kDocument = 1 };
inline constexpr int kLanes = 2;
inline constexpr Lane kAllLanes[kLanes] = {Lane::kQuery, Lane::kDocument};
std::string_view LaneName(Lane lane);  // "query", "document"

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Duration = Clock::duration;

// Admitted together, answered together. Filled by the caller before Scheduler::Submit, then only
// `cancelled` may be touched until `done` runs. Its inputs may be in several batches, also at once
// on several engines: an engine writes only the rows of `vectors` of the inputs it computes.
struct Job {
  Lane lane = Lane::kQuery;
  Time deadline = Time::max();
  // Token ids of each input, each non-empty, at most ModelSpec::max_tokens long, ids in range.
  std::vector<std::vector<int32_t>> inputs;
  // Tokens reserved by Scheduler::Admit for this job; Submit corrects it to the real number.
  // (and sets this to it).
  int64_t admitted_tokens = 0;
  // Set by any thread: the caller has gone. Work not yet begun is dropped.
  std::atomic<bool> cancelled{false};
  // Called exactly once after Submit, on the completion thread or, of a query alone, on the
  // engine's; never with a lock held.
  std::function<void(Job&)> done;

  // Results, valid in `done`.
  // OK, CANCELLED, DEADLINE_EXCEEDED, UNAVAILABLE (device lost, shutting down) or INTERNAL.
  absl::Status status;
  // [inputs, hidden] pooled, not normalized, f32. Sized before Submit; empty unless OK.
  std::vector<float> vectors;
  const Format* format = nullptr;
  std::string_view device;   // static storage of the engine, "cpu"
  Duration queue_time{0};    // Submit until its first batch began
  Duration compute_time{0};  // of the batches it was in, shared time counted whole

  // Scheduler's own bookkeeping.
  Time submitted{};
  int64_t tokens = 0;     // sum of input lengths
  size_t next_input = 0;  // first input not yet in a batch
  size_t unfinished_inputs = 0;
  bool begun = false;
};

}  // namespace octavo
