#include "tests/bench/attention_bench.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <random>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"
#include "tests/reference/reference.h"

namespace octavo::bench {
namespace {

using Clock = std::chrono::steady_clock;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// [tokens, 3 * hidden] of q, k and v in both types; the f32 values are exact in bf16.
struct Batch {
  int hidden = 0, head_size = 0, length = 0;
  std::vector<int32_t> offsets;
  std::vector<float> wide;
  std::vector<uint16_t> narrow;
  std::vector<float> output;

  int64_t tokens() const { return offsets.back(); }
};

Batch RandomBatch(int hidden, int head_size, int length, int64_t tokens) {
  Batch batch;
  batch.hidden = hidden;
  batch.head_size = head_size;
  batch.length = length;
  const int64_t sequences = std::max<int64_t>(1, tokens / length);
  for (int64_t s = 0; s <= sequences; ++s) {
    batch.offsets.push_back(static_cast<int32_t>(s * length));
  }
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < batch.tokens() * 3 * hidden; ++i) {
    batch.narrow.push_back(static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16));
    batch.wide.push_back(std::bit_cast<float>(static_cast<uint32_t>(batch.narrow.back()) << 16));
  }
  batch.output.resize(batch.tokens() * hidden);
  return batch;
}

AttentionArgs Args(Batch& batch, Element input) {
  AttentionArgs args;
  if (input == Element::kBf16) {
    args.q = batch.narrow.data();
    args.k = batch.narrow.data() + batch.hidden;
    args.v = batch.narrow.data() + 2 * batch.hidden;
  } else {
    args.q = batch.wide.data();
    args.k = batch.wide.data() + batch.hidden;
    args.v = batch.wide.data() + 2 * batch.hidden;
  }
  args.stride = 3 * batch.hidden;
  args.heads = args.key_value_heads = batch.hidden / batch.head_size;
  args.head_size = batch.head_size;
  args.scale = 1.0f / std::sqrt(static_cast<float>(batch.head_size));
  args.offsets = batch.offsets.data();
  args.sequences = std::ssize(batch.offsets) - 1;
  args.row_begin = 0;
  args.row_end = batch.tokens();
  args.output = {batch.output.data(), batch.hidden, Element::kF32};
  return args;
}

// NMSE of the output's last two rows, all heads, against float64.
double Validate(const Batch& batch, AttentionArgs args) {
  const int64_t first = batch.tokens() - batch.length;
  const auto columns = [&](int64_t column) {
    std::vector<float> x;
    for (int64_t t = first; t < batch.tokens(); ++t) {
      const float* row = &batch.wide[t * 3 * batch.hidden + column];
      x.insert(x.end(), row, row + batch.hidden);
    }
    return x;
  };
  const std::vector<int32_t> offsets = {0, batch.length};
  args.offsets = offsets.data();
  args.sequences = 1;
  args.row_begin = std::max(0, batch.length - 2);
  args.row_end = batch.length;
  const std::vector<double> want = reference::Attention(
      args, columns(0), columns(batch.hidden), columns(2 * static_cast<int64_t>(batch.hidden)));
  const std::vector<double> got =
      reference::ToDouble(std::span(batch.output).last(static_cast<size_t>(want.size())));
  return reference::Nmse(got, want);
}

std::vector<double> TimeRuns(const AttentionKernel& kernel, const AttentionArgs& args,
                             cpu::Team& team, double seconds) {
  std::vector<double> runs;
  const Clock::time_point start = Clock::now();
  do {
    const Clock::time_point before = Clock::now();
    kernel.run(args, team);
    runs.push_back(std::chrono::duration<double>(Clock::now() - before).count());
  } while (runs.size() < 5 ||
           std::chrono::duration<double>(Clock::now() - start).count() < seconds);
  std::sort(runs.begin(), runs.end());
  return runs;
}

absl::Status RunOne(const AttentionBenchOptions& options, const AttentionKernel& kernel,
                    cpu::Team& team, int head_size, int length) {
  Batch batch = RandomBatch(options.hidden, head_size, length, options.tokens);
  const AttentionArgs args = Args(batch, kernel.input);
  kernel.run(args, team);
  const double nmse = Validate(batch, args);
  // Rounding weights to bf16 gives about 2^-16 / 3 of their square, scores of 8 bits ten times
  // that.
  const double allowed = kernel.score_levels == 127       ? 5e-4
                         : kernel.input == Element::kBf16 ? 1e-4
                                                          : 1e-10;
  if (!(nmse <= allowed)) {
    return absl::InternalError(absl::StrFormat("%s: head size %d, length %d: NMSE %.2e above %.0e",
                                               View(kernel.name), head_size, length, nmse,
                                               allowed));
  }
  const std::vector<double> runs = TimeRuns(kernel, args, team, options.seconds);
  const double median = runs[runs.size() / 2];
  const double flops = 4.0 * length * head_size * args.heads * static_cast<double>(batch.tokens());
  std::string line = absl::StrFormat(
      R"({"bench": "attention", "kernel": "%s", "head_size": %d, "heads": %d, "length": %d, )"
      R"("sequences": %d, "threads": %d, "us": %.2f, "best_us": %.2f, "us_per_token": %.4f, )"
      R"("gflops": %.2f, "nmse": %.2e)",
      View(kernel.name), head_size, args.heads, length, args.sequences, team.threads(),
      median * 1e6, runs.front() * 1e6, median * 1e6 / static_cast<double>(batch.tokens()),
      flops / median * 1e-9, nmse);
  if (options.peak_flops) {
    const Element arithmetic = kernel.score_levels > 0 ? Element::kInt8 : kernel.input;
    const double peak = options.peak_flops(arithmetic, team.threads());
    absl::StrAppendFormat(&line, R"(, "share_of_peak": %.3f)", flops / median / peak);
  }
  *options.output << line << "}" << std::endl;
  return absl::OkStatus();
}

}  // namespace

absl::Status RunAttentionBench(const AttentionBenchOptions& options) {
  cpu::Team team(options.threads > 0 ? options.threads : cpu::AvailableProcessors());
  bool known = false;
  for (const AttentionKernel& kernel : cpu::AttentionKernels()) {
    if (!options.kernel.empty() && kernel.name != options.kernel) continue;
    known = true;
    const uint32_t lacking = kernel.instruction_sets & ~cpu::DetectedInstructionSets();
    if (lacking != 0) {
      *options.output << absl::StrFormat(
                             R"({"bench": "attention", "kernel": "%s", "skipped": "needs %s"})",
                             View(kernel.name), cpu::InstructionSetNames(lacking))
                      << std::endl;
      continue;
    }
    for (int head_size : options.head_sizes) {
      if (head_size <= 0 || options.hidden % head_size != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("head size ", head_size, " does not divide hidden ", options.hidden));
      }
      if (!kernel.fits(head_size)) continue;
      for (int length : options.lengths) {
        if (length <= 0) return absl::InvalidArgumentError("lengths must be above 0");
        const absl::Status status = RunOne(options, kernel, team, head_size, length);
        if (!status.ok()) return status;
      }
    }
  }
  if (!known) {
    std::string names;
    for (const AttentionKernel& kernel : cpu::AttentionKernels()) {
      absl::StrAppend(&names, names.empty() ? "" : ", ", View(kernel.name));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("no attention kernel ", options.kernel, "; known: ", names));
  }
  return absl::OkStatus();
}

}  // namespace octavo::bench
