#include "tests/bench/forward_profile.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "nlohmann/json.hpp"
#include "runtime/forward_pass.h"
#include "tests/bench/loaded_device.h"
#include "tests/bench/timed_backend.h"

namespace octavo::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kPartNames[kParts] = {
    "embed", "query_key_value", "attention", "attention_output", "up", "down",
    "norm",  "encode",          "pool"};

absl::Status Run(ForwardPass& pass, const RaggedBatch& batch, int64_t unit_rows) {
  if (absl::Status status = pass.Begin(batch, unit_rows); !status.ok()) return status;
  while (pass.running()) pass.RunUnit();
  return absl::OkStatus();
}

// Seconds of a pass on the device.
absl::StatusOr<double> TimeWhole(ForwardPass& pass, const RaggedBatch& batch, int64_t unit_rows,
                                 int rounds, Stream& stream) {
  double seconds = 0;
  for (int round = -1; round < rounds; ++round) {
    const uint64_t first = stream.Mark();
    if (absl::Status status = Run(pass, batch, unit_rows); !status.ok()) return status;
    const uint64_t last = stream.Mark();
    if (absl::Status status = stream.Finish(); !status.ok()) return status;
    if (round < 0) continue;
    seconds += std::chrono::duration<double>(stream.Between(first, last)).count() / rounds;
  }
  return seconds;
}

absl::StatusOr<PartTimes> TimeParts(ForwardPass& pass, const RaggedBatch& batch, int64_t unit_rows,
                                    int rounds, Stream& stream) {
  for (int round = -1; round < rounds; ++round) {
    if (absl::Status status = Run(pass, batch, unit_rows); !status.ok()) return status;
    if (absl::Status status = stream.Finish(); !status.ok()) return status;
    if (round < 0) TakePartTimes();
  }
  PartTimes times = TakePartTimes();
  for (PartTime& time : times) {
    time.core_seconds /= rounds;
    time.calls /= rounds;
    for (double& flops : time.flops) flops /= rounds;
  }
  return times;
}

void Print(const Json& head, const ModelSpec& spec, const RaggedBatch& batch, PartTimes times,
           double whole, std::ostream& output) {
  double sum = 0, attention = 0;
  for (const PartTime& time : times) sum += time.core_seconds;
  for (int64_t s = 0; s < batch.sequences(); ++s) {
    const double tokens = batch.offsets[s + 1] - batch.offsets[s];
    attention += tokens * spec.attention_flops_per_token(tokens);
  }
  times[static_cast<int>(Part::kAttention)].flops = {attention};
  for (int p = 0; p < kParts; ++p) {
    const PartTime& time = times[p];
    if (time.calls == 0) continue;
    Json line = head;
    line["part"] = kPartNames[p];
    line["calls"] = time.calls;
    line["us"] = time.core_seconds * 1e6;
    line["share"] = time.core_seconds / sum;
    const double flops = std::accumulate(time.flops.begin(), time.flops.end(), 0.0);
    if (flops > 0) line["tflops"] = flops / time.core_seconds * 1e-12;
    output << line.dump() << std::endl;
  }
  Json line = head;
  line["part"] = "whole";
  line["parts_us"] = sum * 1e6;
  line["us"] = whole * 1e6;
  output << line.dump() << std::endl;
}

}  // namespace

absl::Status RunForwardProfile(const ForwardBenchOptions& options) {
  if (absl::Status status = CheckSource(options.source); !status.ok()) return status;
  auto checkpoint = OpenCheckpoint(options.source);
  if (!checkpoint.ok()) return checkpoint.status();
  const ModelSpec& spec = (*checkpoint)->spec();
  auto plain = LoadedDevice::Open(options.source.device, options.source, **checkpoint);
  if (!plain.ok()) return plain.status();
  if ((*plain)->backend().name == "cpu") {
    return absl::InvalidArgumentError("on the CPU leave --batch out: kernels overlap there");
  }
  auto timed =
      LoadedDevice::Open(options.source.device, options.source, **checkpoint, TimedBackend);
  if (!timed.ok()) return timed.status();

  struct Load {
    Lane lane;
    RaggedBatch batch;
  };
  std::vector<Load> loads = {{Lane::kQuery, {}}};
  for (auto& ids : RandomIds({options.query_tokens}, spec.vocabulary, 2)) loads[0].batch.Add(ids);
  for (int tokens : options.tokens) {
    loads.push_back({Lane::kDocument, {}});
    const std::vector<int> lengths(options.batch, std::min(tokens, spec.max_tokens));
    for (auto& ids : RandomIds(lengths, spec.vocabulary, 1)) loads.back().batch.Add(ids);
  }
  struct Forwards {
    std::unique_ptr<Forward> plain, timed;
  };
  std::vector<Forwards> formats;
  for (const std::string& format : options.formats) {
    auto forward = (*plain)->Load(**checkpoint, format);
    if (!forward.ok()) return forward.status();
    auto timed_forward = (*timed)->Load(**checkpoint, format);
    if (!timed_forward.ok()) return timed_forward.status();
    formats.push_back({*std::move(forward), *std::move(timed_forward)});
  }
  if (absl::Status status = TakeTimesByMarks((*timed)->backend()); !status.ok()) return status;

  const int rounds = std::max(1, options.rounds);
  const int64_t unit_rows =
      options.unit_rows > 0 ? options.unit_rows : (*plain)->backend().document_unit.most;
  for (const Forwards& forwards : formats) {
    for (const Load& load : loads) {
      auto pass =
          ForwardPass::Create(*forwards.plain, load.lane, (*plain)->stream(), load.batch.tokens());
      if (!pass.ok()) return pass.status();
      auto whole = TimeWhole(**pass, load.batch, unit_rows, rounds, (*plain)->stream());
      if (!whole.ok()) return whole.status();
      pass->reset();
      pass =
          ForwardPass::Create(*forwards.timed, load.lane, (*timed)->stream(), load.batch.tokens());
      if (!pass.ok()) return pass.status();
      auto parts = TimeParts(**pass, load.batch, unit_rows, rounds, (*timed)->stream());
      if (!parts.ok()) return parts.status();
      const Json head = {{"bench", "profile"},
                         {"what", load.lane == Lane::kQuery ? "query" : "documents"},
                         {"device", options.source.device},
                         {"model", (*checkpoint)->name()},
                         {"format", std::string(forwards.plain->format().name)},
                         {"sequences", load.batch.sequences()},
                         {"tokens", load.batch.tokens() / load.batch.sequences()}};
      Print(head, spec, load.batch, *parts, *whole, *options.output);
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo::bench
