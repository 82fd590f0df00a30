// Texts through one lane of a Runtime in this process, as a server would embed them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/runtime.h"
#include "tests/eval/metrics.h"

namespace octavo::eval {

// The prompt the model wants before a text of this lane; "" for none.
std::string LanePrompt(const ModelSpec& spec, Lane lane);

// Token ids of each text, the lane's prompt before it, cut at the end to the model's length.
absl::StatusOr<std::vector<std::vector<int32_t>>> TokenizeTexts(
    const Runtime& runtime, Lane lane, const std::vector<std::string>& texts);

// Embeds `inputs` through `lane` of a started runtime, in jobs of `inputs_per_job` of which as many
// are in flight as the lane admits, and waits for all. Rows are not normalized. The first error of
// a job ends it; INTERNAL if a value is not finite. Called by one thread at a time.
absl::StatusOr<Matrix> EmbedTokens(Runtime& runtime, Lane lane,
                                   const std::vector<std::vector<int32_t>>& inputs,
                                   int inputs_per_job = 32);

// One text as one job: tokenized, admitted, computed. The row, not normalized.
absl::StatusOr<std::vector<float>> EmbedText(Runtime& runtime, Lane lane, const std::string& prompt,
                                             const std::string& text);

// A runtime with these formats in its lanes, started. `query_format` may equal `document_format`.
struct LaneFormats {
  std::string document, query;
};
absl::StatusOr<std::unique_ptr<Runtime>> StartRuntime(const RuntimeOptions& base,
                                                      const LaneFormats& formats);

}  // namespace octavo::eval
