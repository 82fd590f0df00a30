#include "tests/eval/lane_embedder.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo::eval {
namespace {

int64_t TokensOf(const std::vector<std::vector<int32_t>>& inputs) {
  int64_t tokens = 0;
  for (const auto& input : inputs) tokens += static_cast<int64_t>(input.size());
  return tokens;
}

// Submits jobs as the lane admits them and collects their rows. It outlives its jobs: WaitForAll.
class Collector {
 public:
  Collector(Runtime& runtime, Lane lane, Matrix* rows)
      : runtime_(runtime), lane_(lane), rows_(rows) {}

  // Blocks while the lane is full.
  void Submit(std::vector<std::vector<int32_t>> inputs, int64_t first_row) {
    auto job = std::make_shared<Job>();
    job->lane = lane_;
    job->admitted_tokens = TokensOf(inputs);
    job->inputs = std::move(inputs);
    job->done = [this, first_row](Job& done) { Take(done, first_row); };
    auto admitted = std::make_shared<bool>(false);
    uint64_t ticket = 0;
    const bool now = runtime_.scheduler().AdmitOrWait(
        lane_, job->admitted_tokens, Clock::now(),
        [this, admitted] {
          const std::lock_guard<std::mutex> lock(mutex_);
          *admitted = true;
          changed_.notify_all();
        },
        &ticket);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (!now) changed_.wait(lock, [&] { return *admitted; });
      ++outstanding_;
    }
    runtime_.Submit(std::move(job));
  }

  absl::Status WaitForAll() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return outstanding_ == 0; });
    return status_;
  }

 private:
  void Take(Job& job, int64_t first_row) {
    absl::Status status = job.status;
    const bool finite = std::all_of(job.vectors.begin(), job.vectors.end(),
                                    [](float value) { return std::isfinite(value); });
    if (status.ok() && !finite) {
      status = absl::InternalError(
          absl::StrCat("a vector from row ", first_row, " on holds a value that is not finite"));
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (status.ok()) {
      std::copy(job.vectors.begin(), job.vectors.end(),
                rows_->values.begin() + first_row * rows_->columns);
    } else if (status_.ok()) {
      status_ = status;
    }
    --outstanding_;
    changed_.notify_all();
  }

  Runtime& runtime_;
  const Lane lane_;
  Matrix* const rows_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t outstanding_ = 0;
  absl::Status status_;
};

}  // namespace

std::string LanePrompt(const ModelSpec& spec, Lane lane) {
  const std::string& name =
      lane == Lane::kQuery ? spec.default_query_prompt : spec.default_document_prompt;
  const auto prompt = spec.prompts.find(name);
  return prompt == spec.prompts.end() ? "" : prompt->second;
}

absl::StatusOr<std::vector<std::vector<int32_t>>> TokenizeTexts(
    const Runtime& runtime, Lane lane, const std::vector<std::string>& texts) {
  const ModelSpec& spec = runtime.info().spec;
  const std::string prompt = LanePrompt(spec, lane);
  const std::shared_ptr<const Tokenizer> tokenizer = runtime.tokenizer();
  std::vector<std::vector<int32_t>> inputs;
  inputs.reserve(texts.size());
  for (const std::string& text : texts) {
    auto tokens = tokenizer->Encode(prompt + text, spec.max_tokens, Truncation::kEnd);
    if (!tokens.ok()) return tokens.status();
    inputs.push_back(std::move(tokens->ids));
  }
  return inputs;
}

absl::StatusOr<Matrix> EmbedTokens(Runtime& runtime, Lane lane,
                                   const std::vector<std::vector<int32_t>>& inputs,
                                   int inputs_per_job) {
  Matrix rows;
  rows.rows = static_cast<int64_t>(inputs.size());
  rows.columns = runtime.info().spec.hidden;
  rows.values.resize(static_cast<size_t>(rows.rows * rows.columns));
  Collector collector(runtime, lane, &rows);
  for (size_t begin = 0; begin < inputs.size(); begin += inputs_per_job) {
    const size_t end = std::min(inputs.size(), begin + inputs_per_job);
    collector.Submit(
        {inputs.begin() + static_cast<int64_t>(begin), inputs.begin() + static_cast<int64_t>(end)},
        static_cast<int64_t>(begin));
  }
  if (absl::Status status = collector.WaitForAll(); !status.ok()) return status;
  return rows;
}

absl::StatusOr<std::vector<float>> EmbedText(Runtime& runtime, Lane lane, const std::string& prompt,
                                             const std::string& text) {
  auto tokens =
      runtime.tokenizer()->Encode(prompt + text, runtime.info().spec.max_tokens, Truncation::kEnd);
  if (!tokens.ok()) return tokens.status();
  auto row = EmbedTokens(runtime, lane, {std::move(tokens->ids)}, 1);
  if (!row.ok()) return row.status();
  return std::move(row->values);
}

absl::StatusOr<std::unique_ptr<Runtime>> StartRuntime(const RuntimeOptions& base,
                                                      const LaneFormats& formats) {
  RuntimeOptions options = base;
  options.lanes[static_cast<int>(Lane::kDocument)].format = formats.document;
  options.lanes[static_cast<int>(Lane::kQuery)].format = formats.query;
  auto runtime = Runtime::Load(options, nullptr);
  if (!runtime.ok()) return runtime.status();
  if (absl::Status status = (*runtime)->Start(); !status.ok()) return status;
  return runtime;
}

}  // namespace octavo::eval
