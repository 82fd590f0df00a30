// Which linear row computes which number of tokens: chosen once, at load, by measurement.
//
//   LinearPlanner planner(backend, stream, options);
//   planner.Plan(format, shape)     -> LinearChoice: token thresholds -> rows
//   choice.Pack(format, weight)     -> PackedLinear: the weight in every layout the choice uses
//   packed.Run(args, stream)        -> the row for args.rows, on its layout
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/linear.h"
#include "kernels/plan_timing.h"
#include "kernels/stream.h"
#include "quant/format.h"

namespace octavo {

// One weight, packed once for each layout its choice uses. Movable; const use is thread-safe.
class PackedLinear {
 public:
  PackedLinear() = default;

  // The element type the row for `rows` tokens reads; encode activations to it.
  Element input(int64_t rows) const { return StepFor(rows).kernel->input; }
  const LinearKernel& kernel(int64_t rows) const { return *StepFor(rows).kernel; }

  // Runs the row for args.rows; args.weight is filled in here.
  void Run(LinearArgs args, Stream& stream) const;

  LinearShape shape() const { return shape_; }
  int64_t bytes() const;                               // of all layouts held
  std::vector<std::string_view> kernel_names() const;  // each once, smallest token counts first

 private:
  friend class LinearChoice;
  struct Step {
    int64_t up_to = 0;  // tokens, inclusive
    const LinearKernel* kernel = nullptr;
    int weight = 0;  // index into weights_
  };
  const Step& StepFor(int64_t rows) const;

  LinearShape shape_;
  std::vector<Step> steps_;  // ascending; the last has no limit
  std::vector<PackedWeight> weights_;
};

// Token thresholds to rows for one format and shape. Copyable plain data.
class LinearChoice {
 public:
  struct Step {
    int64_t up_to = std::numeric_limits<int64_t>::max();  // tokens, inclusive
    const LinearKernel* kernel = nullptr;
  };

  const std::vector<Step>& steps() const { return steps_; }
  // "a16w4_int4_... to 16 tokens, then ...", for logs.
  std::string Describe() const;

  // Packs `weight` in the layouts that the steps use and no other.
  absl::StatusOr<PackedLinear> Pack(const Format& format, const EncodedMatrix& weight) const;

 private:
  friend class LinearPlanner;
  std::vector<Step> steps_;  // ascending; the last has no limit
};

// Not thread-safe; make one at load. Plans of one (format, shape) are made once and remembered.
class LinearPlanner {
 public:
  struct Options {
    // Rows to use wherever they accept the format, by name, comma-separated (--kernel). Formats
    // that none of them accepts are planned as usual.
    std::string forced_kernels;
    // Seconds, for timing rows; tests bring their own clock.
    double (*now)() = SteadySeconds;
  };

  // `backend` and `stream` outlive the planner. Rows are timed on `stream`.
  LinearPlanner(const Backend& backend, Stream& stream, Options options);

  // Rows that differ only in instruction set (same packing, input and arithmetic) are taken in the
  // table's order, fastest first, up to one that is not for many rows only. A format has one
  // arithmetic here, run after run: that of its first row, unless another's rows are clearly faster
  // when the format's first shape is planned; a loaded plan keeps the arithmetic it was made with.
  // If several rows remain they are timed on random weights at 1, 2, 4, ... 128 tokens, weights
  // cold in cache at small counts as they are between two layers, and a second layout is kept only
  // where it pays. A loaded plan that names the format and shape is used instead.
  // FAILED_PRECONDITION if no row computes the format here: lists the rows and why each was
  // refused. INVALID_ARGUMENT for a forced name that no row has.
  absl::StatusOr<LinearChoice> Plan(const Format& format, const LinearShape& shape);

  struct Crossover {
    LinearShape shape;
    // Tokens to which `format` takes no more time than `other`: 0 for none, the largest int64 for
    // all that were timed.
    int64_t up_to = 0;
  };
  // Compares the planned rows of `format` with those of `other`, for each shape of `format` that
  // was planned. What planning timed is not timed again.
  absl::StatusOr<std::vector<Crossover>> Crossovers(const Format& format, const Format& other);

  // A saved plan (--kernel_plan). It holds for the processor model, instruction sets, threads and
  // version that it was made with: on others FAILED_PRECONDITION says what differs, and nothing is
  // loaded. INVALID_ARGUMENT for text that is not a plan.
  absl::Status LoadJson(std::string_view json);
  // All plans made or used so far.
  std::string ToJson() const;

 private:
  using Key = std::tuple<std::string, int64_t, int64_t>;  // format, n, k

  class Timer;
  // What was timed: seconds of a format's row at a shape and a count of tokens.
  using TimingKey = std::tuple<std::string, const LinearKernel*, int64_t, int64_t, int64_t>;

  absl::StatusOr<std::vector<const LinearKernel*>> Candidates(const Format& format,
                                                              const LinearShape& shape);
  absl::StatusOr<Element> ChooseArithmetic(const Format& format, const LinearShape& shape,
                                           const std::vector<const LinearKernel*>& candidates);
  absl::StatusOr<LinearChoice> Measure(const Format& format, const LinearShape& shape,
                                       const std::vector<const LinearKernel*>& candidates);

  const Backend& backend_;
  Stream& stream_;
  const Options options_;
  std::map<Key, LinearChoice> loaded_;
  std::map<Key, LinearChoice> plans_;
  std::map<std::string, Element> arithmetics_;  // of formats, chosen or loaded
  std::map<TimingKey, double> seconds_;
};

// Rows of `backend` that accept `format` and `shape` here, in table order. The refusals of all
// other rows are appended to `refusals`, one line each, if it is not null. Tests and benches use it
// to name what they skip.
std::vector<const LinearKernel*> UsableKernels(const Backend& backend, const Format& format,
                                               const LinearShape& shape, std::string* refusals);

// kernel.pack, with the packing noted in the result.
absl::StatusOr<PackedWeight> PackWeight(const LinearKernel& kernel, const Format& format,
                                        const EncodedMatrix& weight);

}  // namespace octavo
