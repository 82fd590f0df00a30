#include "tests/bench/linear_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"
#include "kernels/plan.h"
#include "nlohmann/json.hpp"
#include "tests/kernels/linear_cases.h"

namespace octavo::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

// Weights of a model pass between two uses of one: more than a second-level cache holds.
constexpr int64_t kWeightBytes = 8 << 20;
constexpr int64_t kMostCopies = 32;
constexpr int64_t kValidatedTokens = 7;

// What follows the products of an encoder.
constexpr std::string_view kEpilogues[] = {"bias", "residual", "gelu"};

EpilogueCase MakeEpilogue(std::string_view name, const Format& format) {
  const Element activation = format.activation.element;
  if (name == "residual") return {.bias = true, .residual = true};
  if (name == "gelu") {
    return {.bias = true, .activation = Activation::kGelu, .output = activation};
  }
  return {.bias = true, .output = activation == Element::kF32 ? Element::kF32 : Element::kBf16};
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

// A row with its weight, ready to time.
struct Contender {
  const LinearKernel* kernel = nullptr;
  const Format* format = nullptr;
  std::vector<PackedWeight> weights;  // copies
  size_t next = 0;
  std::vector<double> seconds;  // a call, one entry a round
  double best = 0;              // the fastest single call
};

// Inputs and outputs for any row of one shape and token count.
class Buffers {
 public:
  Buffers(const LinearShape& shape, int64_t tokens)
      : shape_(shape),
        tokens_(tokens),
        input_(tokens * shape.k * sizeof(float)),
        output_(tokens * shape.n),
        scales_(tokens, 1.0f / 127),
        sums_(tokens, 0x3c * static_cast<int32_t>(shape.k)),
        output_scales_(tokens),
        output_sums_(tokens),
        bias_(shape.n, 0.5f) {
    // 0x3c3c: about 0.01 as f32 and bf16; 60 as int8.
    std::fill(input_.begin(), input_.end(), 0x3c);
  }

  LinearArgs Args(const LinearKernel& kernel, const EpilogueCase& epilogue) {
    LinearArgs args;
    args.rows = tokens_;
    args.input = {input_.data(), shape_.k, kernel.input, scales_.data(), sums_.data()};
    args.output = {output_.data(), shape_.n, epilogue.output, output_scales_.data(),
                   output_sums_.data()};
    args.epilogue.bias = bias_.data();
    args.epilogue.activation = epilogue.activation;
    if (epilogue.residual) {  // in place, as a model adds to its hidden states
      args.epilogue.residual = output_.data();
      args.epilogue.residual_stride = shape_.n;
    }
    return args;
  }

 private:
  const LinearShape shape_;
  const int64_t tokens_;
  std::vector<uint8_t> input_;
  std::vector<float> output_;
  std::vector<float> scales_;
  std::vector<int32_t> sums_;
  std::vector<float> output_scales_;
  std::vector<int32_t> output_sums_;
  std::vector<float> bias_;
};

double TimeCall(Contender& contender, LinearArgs args, double seconds, Stream& stream) {
  int64_t calls = 0;
  const Clock::time_point start = Clock::now();
  double elapsed = 0;
  do {
    args.weight = &contender.weights[contender.next++ % contender.weights.size()];
    contender.kernel->run(args, stream);
    ++calls;
    const double now = std::chrono::duration<double>(Clock::now() - start).count();
    contender.best = std::min(contender.best, now - elapsed);
    elapsed = now;
  } while (elapsed < seconds);
  return elapsed / static_cast<double>(calls);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

absl::Status Validate(const LinearKernel& kernel, const LinearProblem& problem,
                      const PackedWeight& weight, Stream& stream) {
  for (std::string_view name : kEpilogues) {
    const EpilogueCase epilogue = MakeEpilogue(name, problem.format());
    const LinearOutput output = problem.Run(epilogue, &weight, kernel.run, OnCpu(stream));
    const std::string wrong = problem.Check(epilogue, output, ErrorBound(kernel));
    if (!wrong.empty()) {
      return absl::InternalError(absl::StrCat(View(kernel.name), " is wrong on ",
                                              problem.Describe(), " ", Describe(epilogue), ": ",
                                              wrong));
    }
  }
  return absl::OkStatus();
}

// Packs the weight for a row and validates it.
absl::StatusOr<Contender> Prepare(const LinearKernel& kernel, const LinearProblem& problem,
                                  Stream& stream) {
  Contender contender = {&kernel, &problem.format()};
  do {
    absl::StatusOr<PackedWeight> weight = PackWeight(kernel, problem.format(), problem.weight());
    if (!weight.ok()) return weight.status();
    contender.weights.push_back(*std::move(weight));
  } while (static_cast<int64_t>(contender.weights.size()) <
           std::clamp(kWeightBytes / contender.weights[0].bytes, int64_t{1}, kMostCopies));
  if (absl::Status status = Validate(kernel, problem, contender.weights[0], stream); !status.ok()) {
    return status;
  }
  return contender;
}

class LinearBench {
 public:
  explicit LinearBench(const LinearBenchOptions& options)
      : options_(options),
        team_(options.threads > 0 ? options.threads : cpu::AvailableProcessors()) {}

  absl::Status Run() {
    if (absl::Status status = FindRows(); !status.ok()) return status;
    for (const LinearShape& shape : options_.shapes) {
      if (absl::Status status = RunShape(shape); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  struct Row {
    const LinearKernel* kernel;
    const Format* format;
  };

  // The rows to time; prints those that cannot run.
  absl::Status FindRows() {
    std::vector<const Format*> formats;
    for (const std::string& name : options_.formats) {
      absl::StatusOr<const Format*> format = FindFormat(name);
      if (!format.ok()) return format.status();
      formats.push_back(*format);
    }
    if (formats.empty()) {
      for (const Format& format : Formats()) formats.push_back(&format);
    }
    bool known = false;
    for (const Format* format : formats) {
      for (const LinearKernel& kernel : cpu::LinearKernels()) {
        if (!kernel.accepts(*format)) continue;
        if (!options_.kernel.empty() && kernel.name != options_.kernel) continue;
        known = true;
        const uint32_t missing = kernel.instruction_sets & ~cpu::DetectedInstructionSets();
        if (missing == 0) {
          rows_.push_back({&kernel, format});
        } else {
          Print({{"bench", "linear"},
                 {"kernel", std::string(kernel.name)},
                 {"format", std::string(format->name)},
                 {"skipped", absl::StrCat("needs ", cpu::InstructionSetNames(missing))}});
        }
      }
    }
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("no linear row ", options_.kernel, " computes these formats"));
    }
    return absl::OkStatus();
  }

  absl::Status RunShape(const LinearShape& shape) {
    // The fastest f32 row, which the others are compared to, then the rows asked for.
    const Format& f32 = **FindFormat("f32");
    const std::vector<const LinearKernel*> f32_rows =
        UsableKernels(**FindBackend("cpu"), f32, shape, nullptr);
    if (f32_rows.empty()) return absl::InternalError("no f32 row runs here");
    std::vector<Row> rows = {{f32_rows.front(), &f32}};
    rows.insert(rows.end(), rows_.begin(), rows_.end());

    std::vector<Contender> contenders;
    std::unique_ptr<LinearProblem> problem;
    for (const Row& row : rows) {
      if (!row.kernel->fits(shape)) continue;
      if (problem == nullptr || &problem->format() != row.format) {
        problem = std::make_unique<LinearProblem>(*row.format, shape, kValidatedTokens,
                                                  Values::kPlain, /*seed=*/1);
      }
      absl::StatusOr<Contender> contender = Prepare(*row.kernel, *problem, team_);
      if (!contender.ok()) return contender.status();
      contenders.push_back(*std::move(contender));
    }
    for (int64_t tokens : options_.tokens) {
      for (const std::string& epilogue : options_.epilogues) {
        Compare(shape, tokens, epilogue, contenders);
      }
    }
    return absl::OkStatus();
  }

  // Times all contenders in turns and prints a line for each but the first.
  void Compare(const LinearShape& shape, int64_t tokens, const std::string& epilogue,
               std::vector<Contender>& contenders) {
    Buffers buffers(shape, tokens);
    for (Contender& contender : contenders) {
      contender.seconds.clear();
      contender.best = 1e9;
    }
    for (int round = -1; round < options_.rounds; ++round) {  // the first is for warming up
      for (Contender& contender : contenders) {
        const LinearArgs args =
            buffers.Args(*contender.kernel, MakeEpilogue(epilogue, *contender.format));
        const double seconds = TimeCall(contender, args, round < 0 ? 0.0 : options_.seconds, team_);
        if (round >= 0) contender.seconds.push_back(seconds);
      }
    }
    const double flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(shape.n) * shape.k;
    const double f32_seconds = Median(contenders.front().seconds);
    for (size_t i = 1; i < contenders.size(); ++i) {
      const Contender& contender = contenders[i];
      const double seconds = Median(contender.seconds);
      const double bytes = static_cast<double>(contender.weights[0].bytes);
      Json line = {{"bench", "linear"},
                   {"kernel", std::string(contender.kernel->name)},
                   {"format", std::string(contender.format->name)},
                   {"n", shape.n},
                   {"k", shape.k},
                   {"tokens", tokens},
                   {"threads", team_.threads()},
                   {"epilogue", epilogue},
                   {"us", seconds * 1e6},
                   {"best_us", contender.best * 1e6},
                   {"gops", flops / seconds / 1e9},
                   {"weight_gbytes_per_second", bytes / seconds / 1e9},
                   {"ratio_to_f32", f32_seconds / seconds}};
      if (options_.peak_flops) {
        const double peak = options_.peak_flops(contender.kernel->arithmetic, team_.threads());
        line["share_of_peak"] = flops / seconds / peak;
        line["best_share_of_peak"] = flops / contender.best / peak;
      }
      if (options_.read_rate) {
        const int64_t copies = static_cast<int64_t>(contender.weights.size());
        const double rate =
            options_.read_rate(contender.weights[0].bytes * copies, team_.threads());
        line["share_of_read_rate"] = bytes / seconds / rate;
      }
      Print(line);
    }
  }

  // Four significant digits are all that a timing has.
  void Print(Json line) const {
    for (auto& [name, value] : line.items()) {
      if (!value.is_number_float()) continue;
      char text[32];
      std::snprintf(text, sizeof(text), "%.4g", value.get<double>());
      value = std::stod(text);
    }
    *options_.output << line.dump() << std::endl;
  }

  const LinearBenchOptions& options_;
  cpu::Team team_;
  std::vector<Row> rows_;
};

}  // namespace

absl::StatusOr<std::vector<LinearShape>> FindLinearShapes(const std::string& name) {
  const auto encoder = [](int64_t hidden, int64_t intermediate) {
    return std::vector<LinearShape>{{.n = 3 * hidden, .k = hidden},
                                    {.n = hidden, .k = hidden},
                                    {.n = intermediate, .k = hidden},
                                    {.n = hidden, .k = intermediate}};
  };
  if (name == "minilm") return encoder(384, 1536);
  if (name == "bert-base") return encoder(768, 3072);
  if (name == "bert-large") return encoder(1024, 4096);
  long n = 0, k = 0;
  char rest = 0;
  if (std::sscanf(name.c_str(), "%ldx%ld%c", &n, &k, &rest) == 2 && n > 0 && k > 0 &&
      n <= 1 << 20 && k <= 1 << 20) {
    return std::vector<LinearShape>{{.n = n, .k = k}};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown shape ", name, "; use minilm, bert-base, bert-large or NxK such as 1152x384"));
}

absl::Status RunLinearBench(const LinearBenchOptions& options) {
  for (const std::string& epilogue : options.epilogues) {
    if (std::find(std::begin(kEpilogues), std::end(kEpilogues), epilogue) == std::end(kEpilogues)) {
      return absl::InvalidArgumentError(
          absl::StrCat("unknown epilogue ", epilogue, "; there are bias, residual and gelu"));
    }
  }
  return LinearBench(options).Run();
}

}  // namespace octavo::bench
