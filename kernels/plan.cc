#include "kernels/plan.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace octavo {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
// Tokens at which rows are timed; each stands for the counts above the one before it, the last for
// all above.
constexpr int64_t kTimedTokens[] = {1, 2, 4, 8, 16, 32, 64, 128};
constexpr int kTimedCounts = std::size(kTimedTokens);
// Weights of a timed shape: larger ones are timed on fewer output channels.
constexpr int64_t kTimedWeights = 384 << 10;
// What lies between two uses of a weight in a model, at small counts: more than a second-level
// cache.
constexpr int64_t kEvictedBytes = 2 << 20;
constexpr int64_t kColdTokens = 16;
// A second layout of every weight must save this share of some count's time.
constexpr double kWorthALayout = 0.10;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::vector<std::string> ForcedNames(const std::string& list) {
  return absl::StrSplit(list, ',', absl::SkipWhitespace());
}

bool SameLayoutAndArithmetic(const LinearKernel& a, const LinearKernel& b) {
  return a.packing == b.packing && a.input == b.input && a.arithmetic == b.arithmetic;
}

// A weight of format and shape with arbitrary codes: enough to time.
EncodedMatrix TimedWeight(const Format& format, const LinearShape& shape) {
  EncodedMatrix weight;
  weight.encoding = format.weight;
  weight.rows = shape.n;
  weight.columns = shape.k;
  weight.values.resize(weight.row_bytes() * shape.n);
  // Bytes up to 0x3f: finite and not denormal as f32, f16 or bf16 too.
  std::minstd_rand random(1);
  for (uint8_t& byte : weight.values) byte = (random() >> 8 & 0x3f) | 0x20;
  if (format.weight.scale != ScaleElement::kNone) {
    weight.scales.assign(shape.n * weight.groups(), 1.0f / 1024);
  }
  if (format.weight.zero != Zero::kNone) weight.zeros.assign(weight.scales.size(), 8.0f);
  return weight;
}

// Inputs and outputs for timing every row of one shape.
class TimedCall {
 public:
  explicit TimedCall(const LinearShape& shape)
      : shape_(shape),
        input_(kTimedTokens[kTimedCounts - 1] * shape.k * sizeof(float), 0x3c),
        output_(kTimedTokens[kTimedCounts - 1] * shape.n),
        scales_(kTimedTokens[kTimedCounts - 1], 1.0f / 1024),
        sums_(kTimedTokens[kTimedCounts - 1], 0x3c * static_cast<int32_t>(shape.k)) {}

  // Seconds a call of `kernel` takes: the best of three, weights cold at small counts. One that
  // takes far more than `seconds_to_beat` is not run again.
  double Time(const LinearKernel& kernel, const PackedWeight& weight, int64_t tokens,
              double seconds_to_beat, Stream& stream) {
    LinearArgs args;
    args.rows = tokens;
    args.input = {input_.data(), shape_.k, kernel.input, scales_.data(), sums_.data()};
    args.output = {output_.data(), shape_.n, Element::kF32};
    args.weight = &weight;
    double best = 1e9;
    for (int round = 0; round < 3 && (round == 0 || best < 2 * seconds_to_beat); ++round) {
      if (tokens <= kColdTokens) EvictCaches();
      const auto start = std::chrono::steady_clock::now();
      kernel.run(args, stream);
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      best = std::min(best, taken.count());
    }
    return best;
  }

 private:
  // Reads memory that pushes weights out of the second-level cache.
  void EvictCaches() const {
    uint64_t sum = 0;
    for (size_t i = 0; i < evicting_.size(); i += 8) sum += evicting_[i];
    asm volatile("" : : "r"(sum));
  }

  const LinearShape shape_;
  const std::vector<uint64_t> evicting_ =
      std::vector<uint64_t>(kEvictedBytes / sizeof(uint64_t), 1);
  std::vector<uint8_t> input_;
  std::vector<float> output_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
};

struct Timing {
  const LinearKernel* kernel;
  double seconds[kTimedCounts];
};

// The fastest timing at each count among those whose packing is in `packings`.
std::vector<const Timing*> FastestOf(const std::vector<Timing>& timings,
                                     const std::vector<int>& packings) {
  std::vector<const Timing*> fastest(kTimedCounts, nullptr);
  for (int i = 0; i < kTimedCounts; ++i) {
    for (const Timing& timing : timings) {
      if (std::find(packings.begin(), packings.end(), timing.kernel->packing) == packings.end()) {
        continue;
      }
      if (fastest[i] == nullptr || timing.seconds[i] < fastest[i]->seconds[i]) {
        fastest[i] = &timing;
      }
    }
  }
  return fastest;
}

// Each layout costs memory: one is dropped while no count loses more than kWorthALayout by it.
std::vector<const Timing*> Choose(const std::vector<Timing>& timings) {
  std::vector<int> packings;
  for (const Timing& timing : timings) packings.push_back(timing.kernel->packing);
  std::sort(packings.begin(), packings.end());
  packings.erase(std::unique(packings.begin(), packings.end()), packings.end());
  const std::vector<const Timing*> best = FastestOf(timings, packings);
  std::vector<const Timing*> chosen = best;
  while (packings.size() > 1) {
    double least_loss = kWorthALayout;
    std::vector<int> kept;
    for (int packing : packings) {
      std::vector<int> fewer = packings;
      fewer.erase(std::find(fewer.begin(), fewer.end(), packing));
      const std::vector<const Timing*> without = FastestOf(timings, fewer);
      double loss = 0;
      for (int i = 0; i < kTimedCounts; ++i) {
        loss = std::max(loss, 1 - best[i]->seconds[i] / without[i]->seconds[i]);
      }
      if (loss < least_loss) {
        least_loss = loss;
        kept = fewer;
        chosen = without;
      }
    }
    if (kept.empty()) break;
    packings = kept;
  }
  return chosen;
}

}  // namespace

std::vector<const LinearKernel*> UsableKernels(const Backend& backend, const Format& format,
                                               const LinearShape& shape, std::string* refusals) {
  std::vector<const LinearKernel*> usable;
  const uint32_t here = backend.instruction_sets();
  for (const LinearKernel& kernel : backend.linear_kernels()) {
    std::string reason;
    const uint32_t missing = kernel.instruction_sets & ~here;
    if (!kernel.accepts(format)) {
      reason = "computes another format";
    } else if (missing != 0) {
      reason = absl::StrCat("needs ", backend.instruction_set_names(missing));
    } else if (!kernel.fits(shape)) {
      reason = absl::StrCat("does not fit N ", shape.n, ", K ", shape.k);
    } else {
      usable.push_back(&kernel);
      continue;
    }
    if (refusals != nullptr) absl::StrAppend(refusals, "  ", View(kernel.name), ": ", reason, "\n");
  }
  return usable;
}

absl::StatusOr<PackedWeight> PackWeight(const LinearKernel& kernel, const Format& format,
                                        const EncodedMatrix& weight) {
  PackedWeight packed;
  packed.packing = kernel.packing;
  if (absl::Status status = kernel.pack(format, weight, &packed); !status.ok()) return status;
  packed.packing = kernel.packing;
  return packed;
}

const PackedLinear::Step& PackedLinear::StepFor(int64_t rows) const {
  size_t i = 0;
  while (steps_[i].up_to < rows) ++i;
  return steps_[i];
}

void PackedLinear::Run(LinearArgs args, Stream& stream) const {
  const Step& step = StepFor(args.rows);
  args.weight = &weights_[step.weight];
  step.kernel->run(args, stream);
}

int64_t PackedLinear::bytes() const {
  int64_t bytes = 0;
  for (const PackedWeight& weight : weights_) bytes += weight.bytes;
  return bytes;
}

std::vector<std::string_view> PackedLinear::kernel_names() const {
  std::vector<std::string_view> names;
  for (const Step& step : steps_) {
    if (std::find(names.begin(), names.end(), step.kernel->name) == names.end()) {
      names.push_back(step.kernel->name);
    }
  }
  return names;
}

std::string LinearChoice::Describe() const {
  return absl::StrJoin(steps_, ", then ", [](std::string* to, const Step& step) {
    absl::StrAppend(to, View(step.kernel->name));
    if (step.up_to != kNoLimit) absl::StrAppend(to, " to ", step.up_to, " tokens");
  });
}

absl::StatusOr<PackedLinear> LinearChoice::Pack(const Format& format,
                                                const EncodedMatrix& weight) const {
  PackedLinear linear;
  linear.shape_ = {.n = weight.rows, .k = weight.columns};
  for (const Step& step : steps_) {
    int index = 0;
    const int held = static_cast<int>(linear.weights_.size());
    while (index < held && linear.weights_[index].packing != step.kernel->packing) ++index;
    if (index == held) {
      absl::StatusOr<PackedWeight> packed = PackWeight(*step.kernel, format, weight);
      if (!packed.ok()) return packed.status();
      linear.weights_.push_back(*std::move(packed));
    }
    linear.steps_.push_back({step.up_to, step.kernel, index});
  }
  return linear;
}

LinearPlanner::LinearPlanner(const Backend& backend, Stream& stream, Options options)
    : backend_(backend), stream_(stream), options_(std::move(options)) {}

absl::StatusOr<LinearChoice> LinearPlanner::Plan(const Format& format, const LinearShape& shape) {
  const Key key(std::string(format.name), shape.n, shape.k);
  if (const auto made = plans_.find(key); made != plans_.end()) return made->second;
  absl::StatusOr<std::vector<const LinearKernel*>> candidates = Candidates(format, shape);
  if (!candidates.ok()) return candidates.status();
  LinearChoice choice;
  const auto loaded = loaded_.find(key);
  if (loaded != loaded_.end() && options_.forced_kernels.empty()) {
    choice = loaded->second;
  } else if (candidates->size() == 1) {
    choice.steps_ = {{kNoLimit, candidates->front()}};
  } else {
    absl::StatusOr<LinearChoice> measured = Measure(format, shape, *candidates);
    if (!measured.ok()) return measured.status();
    choice = *std::move(measured);
  }
  return plans_.emplace(key, std::move(choice)).first->second;
}

absl::StatusOr<std::vector<const LinearKernel*>> LinearPlanner::Candidates(
    const Format& format, const LinearShape& shape) const {
  std::string refusals;
  std::vector<const LinearKernel*> usable = UsableKernels(backend_, format, shape, &refusals);

  const std::vector<std::string> forced = ForcedNames(options_.forced_kernels);
  bool forces_this_format = false;
  for (const std::string& name : forced) {
    bool known = false;
    for (const LinearKernel& kernel : backend_.linear_kernels()) {
      if (kernel.name != name) continue;
      known = true;
      forces_this_format |= kernel.accepts(format);
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("no linear kernel is called ", name, "; there are: ",
                       absl::StrJoin(backend_.linear_kernels(), ", ",
                                     [](std::string* to, const LinearKernel& kernel) {
                                       absl::StrAppend(to, View(kernel.name));
                                     })));
    }
  }
  if (forces_this_format) {
    std::erase_if(usable, [&](const LinearKernel* kernel) {
      if (std::find(forced.begin(), forced.end(), kernel->name) != forced.end()) return false;
      absl::StrAppend(&refusals, "  ", View(kernel->name), ": not among the forced kernels\n");
      return true;
    });
  }
  if (usable.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no linear kernel of the ", View(backend_.name), " backend computes ", View(format.name),
        " with N ", shape.n, ", K ", shape.k, " here (it has ",
        backend_.instruction_set_names(backend_.instruction_sets()), "):\n", refusals));
  }
  if (forces_this_format) return usable;

  std::vector<const LinearKernel*> candidates;
  for (const LinearKernel* kernel : usable) {
    const bool slower =
        std::any_of(candidates.begin(), candidates.end(), [&](const LinearKernel* faster) {
          // A row that needs no instruction set is for processors with nothing else. One of
          // another arithmetic would make a format's numerics depend on the noise of a timing.
          return kernel->instruction_sets == 0 || kernel->arithmetic != faster->arithmetic ||
                 SameLayoutAndArithmetic(*faster, *kernel);
        });
    if (!slower) candidates.push_back(kernel);
  }
  return candidates;
}

absl::StatusOr<LinearChoice> LinearPlanner::Measure(
    const Format& format, const LinearShape& shape,
    const std::vector<const LinearKernel*>& candidates) {
  LinearShape timed = shape;
  timed.n = std::min(shape.n, std::max<int64_t>(kTimedWeights / shape.k / 64 * 64, 64));
  const EncodedMatrix weight = TimedWeight(format, timed);
  TimedCall call(timed);
  std::vector<Timing> timings;
  std::vector<double> fastest(kTimedCounts, std::numeric_limits<double>::infinity());
  PackedWeight packed;
  for (const LinearKernel* kernel : candidates) {
    if (packed.data == nullptr || packed.packing != kernel->packing) {
      absl::StatusOr<PackedWeight> made = PackWeight(*kernel, format, weight);
      if (!made.ok()) return made.status();
      packed = *std::move(made);
    }
    Timing timing = {kernel, {}};
    for (int i = 0; i < kTimedCounts; ++i) {
      timing.seconds[i] = call.Time(*kernel, packed, kTimedTokens[i], fastest[i], stream_);
      fastest[i] = std::min(fastest[i], timing.seconds[i]);
    }
    timings.push_back(timing);
  }

  LinearChoice choice;
  const std::vector<const Timing*> chosen = Choose(timings);
  for (int i = 0; i < kTimedCounts; ++i) {
    const int64_t up_to = i + 1 == kTimedCounts ? kNoLimit : kTimedTokens[i];
    if (!choice.steps_.empty() && choice.steps_.back().kernel == chosen[i]->kernel) {
      choice.steps_.back().up_to = up_to;
    } else {
      choice.steps_.push_back({up_to, chosen[i]->kernel});
    }
  }
  return choice;
}

}  // namespace octavo
