// A backend with a stopwatch around each of its functions: Backend is plain data, so what is timed
// is the program as it runs, and nothing in it knows of the stopwatch.
#pragma once

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace octavo::bench {

// What a pass through an encoder spends its time on.
enum class Part : uint8_t {
  kEmbed,  // and its norm, where the row operation does both
  kQueryKeyValue,
  kAttention,
  kAttentionOutput,
  kUp,
  kDown,
  kNorm,  // and the encoding of what it wrote, likewise
  kEncode,
  kPool,
};
inline constexpr int kParts = 9;
inline constexpr int kElements = static_cast<int>(Element::kBinary) + 1;

struct PartTime {
  // Time times the slots of the stream it ran on: what it took from the machine. A function that
  // leaves slots of its stream idle takes them all the same.
  double core_seconds = 0;
  int64_t calls = 0;
  // By the element its arithmetic is done in; attention's only on the CPU.
  std::array<double, kElements> flops = {};
  double weight_bytes = 0;  // packed, once a call
};
using PartTimes = std::array<PartTime, kParts>;

// `backend` with every kernel and every row operation timed: two clock reads a call. One backend in
// a process; valid until its end. Where the calls of different threads overlap, each counts.
const Backend& TimedBackend(const Backend& backend);

// What all threads spent since the last call. Only while nothing runs on the timed backend.
PartTimes TakePartTimes();

// From now on a call's time is the device's, which does one at a time, each when it has nothing
// else to do. Once models are loaded: no graph may be recorded on the timed backend after this.
absl::Status TakeTimesByMarks(const Backend& backend);

// While set, up products leave out GELU and the activation encoding: they write 16 bit (f32 where
// that was wanted) to memory that nothing reads. Their time, beside what it is otherwise, separates
// the epilogue; vectors are meaningless meanwhile. Only while nothing runs on the timed backend.
void LeaveOutGelu(bool leave_out);

}  // namespace octavo::bench
