#include "kernels/plan.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/plan_timing.h"

namespace octavo {
namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
// Another arithmetic than the first row's must be so many times as fast, over the counts of tokens
// below: far beyond the noise of a timing, so that each start of a machine chooses the same.
constexpr double kClearlyFaster = 1.25;
constexpr int64_t kArithmeticTokens[] = {1, 8, 64};
// One format is as fast as another when it takes at most so much of its time.
constexpr double kAsFast = 1.03;
// A second layout of every weight must save this share of some count's time.
constexpr double kWorthALayout = 0.10;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

std::vector<std::string> ForcedNames(const std::string& list) {
  return absl::StrSplit(list, ',', absl::SkipWhitespace());
}

bool SameLayoutAndArithmetic(const LinearKernel& a, const LinearKernel& b) {
  return a.packing == b.packing && a.input == b.input && a.arithmetic == b.arithmetic;
}

struct Timing {
  const LinearKernel* kernel;
  std::vector<double> seconds;  // at each of Backend::timing's counts
};

// The fastest timing at each count among those whose packing is in `packings`.
std::vector<const Timing*> FastestOf(const std::vector<Timing>& timings,
                                     const std::vector<int>& packings) {
  const size_t counts = timings.front().seconds.size();
  std::vector<const Timing*> fastest(counts, nullptr);
  for (size_t i = 0; i < counts; ++i) {
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
      for (size_t i = 0; i < best.size(); ++i) {
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

// Times rows of one format and shape, or recalls what the planner has timed before.
class LinearPlanner::Timer {
 public:
  Timer(LinearPlanner& planner, const Format& format, const LinearShape& shape)
      : planner_(planner), format_(format), shape_(shape) {}

  // As RowTimer::Time.
  absl::StatusOr<double> Seconds(const LinearKernel& kernel, int64_t tokens,
                                 double seconds_to_beat = std::numeric_limits<double>::infinity()) {
    const auto [at, is_new] = planner_.seconds_.try_emplace(
        TimingKey(format_.name, &kernel, shape_.n, shape_.k, tokens), 0);
    if (is_new) {
      if (absl::Status status = Prepare(kernel); !status.ok()) {
        planner_.seconds_.erase(at);
        return status;
      }
      at->second = timer_->Time(kernel, packed_, tokens, seconds_to_beat);
    }
    return at->second;
  }

 private:
  absl::Status Prepare(const LinearKernel& kernel) {
    if (!timer_.has_value()) {
      absl::StatusOr<RowTimer> made =
          RowTimer::Create(shape_, planner_.backend_, planner_.stream_, planner_.options_.now);
      if (!made.ok()) return made.status();
      timer_ = *std::move(made);
    }
    if (packed_.data == nullptr || packed_.packing != kernel.packing) {
      absl::StatusOr<PackedWeight> made = timer_->Pack(kernel, format_);
      if (!made.ok()) return made.status();
      packed_ = *std::move(made);
    }
    return absl::OkStatus();
  }

  LinearPlanner& planner_;
  const Format& format_;
  const LinearShape shape_;
  std::optional<RowTimer> timer_;
  PackedWeight packed_;
};

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
    const Format& format, const LinearShape& shape) {
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
          // A row that needs no instruction set is for processors with nothing else.
          return kernel->instruction_sets == 0 ||
                 (SameLayoutAndArithmetic(*faster, *kernel) && !faster->for_many_rows);
        });
    if (!slower) candidates.push_back(kernel);
  }
  const absl::StatusOr<Element> arithmetic = ChooseArithmetic(format, shape, candidates);
  if (!arithmetic.ok()) return arithmetic.status();
  std::erase_if(candidates, [&](const LinearKernel* k) { return k->arithmetic != *arithmetic; });
  return candidates;
}

absl::StatusOr<Element> LinearPlanner::ChooseArithmetic(
    const Format& format, const LinearShape& shape,
    const std::vector<const LinearKernel*>& candidates) {
  std::vector<Element> arithmetics;
  for (const LinearKernel* kernel : candidates) {
    if (std::find(arithmetics.begin(), arithmetics.end(), kernel->arithmetic) ==
        arithmetics.end()) {
      arithmetics.push_back(kernel->arithmetic);
    }
  }
  const auto made = arithmetics_.find(std::string(format.name));
  if (made != arithmetics_.end() &&
      std::find(arithmetics.begin(), arithmetics.end(), made->second) != arithmetics.end()) {
    return made->second;
  }
  Element chosen = arithmetics.front();
  if (arithmetics.size() > 1) {
    Timer timer(*this, format, shape);
    std::map<Element, std::vector<double>> seconds;  // of the fastest row at each count
    for (const LinearKernel* kernel : candidates) {
      std::vector<double>& fastest = seconds[kernel->arithmetic];
      fastest.resize(std::size(kArithmeticTokens), std::numeric_limits<double>::infinity());
      for (size_t i = 0; i < fastest.size(); ++i) {
        const absl::StatusOr<double> timed = timer.Seconds(*kernel, kArithmeticTokens[i]);
        if (!timed.ok()) return timed.status();
        fastest[i] = std::min(fastest[i], *timed);
      }
    }
    for (Element arithmetic : arithmetics) {
      double times = 1.0;  // as fast as the one chosen so far
      for (size_t i = 0; i < std::size(kArithmeticTokens); ++i) {
        times *= seconds[chosen][i] / seconds[arithmetic][i];
      }
      if (std::pow(times, 1.0 / std::size(kArithmeticTokens)) >= kClearlyFaster) {
        chosen = arithmetic;
      }
    }
  }
  arithmetics_[std::string(format.name)] = chosen;
  return chosen;
}

absl::StatusOr<std::vector<LinearPlanner::Crossover>> LinearPlanner::Crossovers(
    const Format& format, const Format& other) {
  std::vector<LinearShape> shapes;
  for (const auto& [key, choice] : plans_) {
    if (std::get<0>(key) == format.name) shapes.push_back({std::get<1>(key), std::get<2>(key)});
  }
  const std::span<const int64_t> counts = backend_.timing.tokens;
  std::vector<Crossover> crossovers;
  for (const LinearShape& shape : shapes) {
    std::vector<double> seconds[2];
    for (const Format* each : {&format, &other}) {
      const absl::StatusOr<LinearChoice> choice = Plan(*each, shape);
      if (!choice.ok()) return choice.status();
      Timer timer(*this, *each, shape);
      std::vector<double>& to = seconds[each == &other];
      for (const LinearChoice::Step& step : choice->steps()) {
        while (to.size() < counts.size() && counts[to.size()] <= step.up_to) {
          const absl::StatusOr<double> timed = timer.Seconds(*step.kernel, counts[to.size()]);
          if (!timed.ok()) return timed.status();
          to.push_back(*timed);
        }
      }
    }
    Crossover crossover = {shape, 0};
    for (size_t i = 0; i < counts.size() && seconds[0][i] <= kAsFast * seconds[1][i]; ++i) {
      crossover.up_to = i + 1 == counts.size() ? kNoLimit : counts[i];
    }
    crossovers.push_back(crossover);
  }
  return crossovers;
}

absl::StatusOr<LinearChoice> LinearPlanner::Measure(
    const Format& format, const LinearShape& shape,
    const std::vector<const LinearKernel*>& candidates) {
  Timer timer(*this, format, shape);
  const std::span<const int64_t> counts = backend_.timing.tokens;
  std::vector<Timing> timings;
  std::vector<double> fastest(counts.size(), std::numeric_limits<double>::infinity());
  for (const LinearKernel* kernel : candidates) {
    Timing timing = {kernel, std::vector<double>(counts.size())};
    for (size_t i = 0; i < counts.size(); ++i) {
      const absl::StatusOr<double> timed = timer.Seconds(*kernel, counts[i], fastest[i]);
      if (!timed.ok()) return timed.status();
      timing.seconds[i] = *timed;
      fastest[i] = std::min(fastest[i], timing.seconds[i]);
    }
    timings.push_back(timing);
  }

  LinearChoice choice;
  const std::vector<const Timing*> chosen = Choose(timings);
  for (size_t i = 0; i < counts.size(); ++i) {
    const int64_t up_to = i + 1 == counts.size() ? kNoLimit : counts[i];
    if (!choice.steps_.empty() && choice.steps_.back().kernel == chosen[i]->kernel) {
      choice.steps_.back().up_to = up_to;
    } else {
      choice.steps_.push_back({up_to, chosen[i]->kernel});
    }
  }
  return choice;
}

}  // namespace octavo
