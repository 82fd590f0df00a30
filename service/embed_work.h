// One EmbedRequest between its bytes and its response: what the unary call and each stream message
// have in common.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "octavo/v1/embedding.pb.h"
#include "service/errors.h"
#include "service/service_context.h"
#include "service/validate.h"

namespace octavo {

// Used by one thread at a time.
class EmbedWork {
 public:
  // `model` outlives this.
  explicit EmbedWork(const ServedModel* model) : model_(model) {}

  // Filled by Parse.
  v1::EmbedRequest& request() { return request_; }

  // What is wrong with the request as a whole.
  std::optional<RequestError> Check(const RequestLimits& limits);

  // After Check.
  const EmbedPlan& plan() const { return validated_.plan; }
  Lane lane() const { return validated_.plan.lane; }
  bool has_bad_inputs() const { return !validated_.input_errors.empty(); }
  bool all_inputs_bad() const { return validated_.input_errors.size() == results_.size(); }
  RequestError TakeInputErrors() { return JoinInputErrors(std::move(validated_.input_errors)); }
  // Text still to be tokenized.
  int64_t text_bytes() const;
  // Of the good inputs, by their bytes: what to ask the scheduler for.
  int64_t EstimateTokens() const;

  // Tokenizes the good inputs into job->inputs; more of them may turn out bad. Frees the texts.
  void Tokenize(Job* job);
  int64_t tokens() const { return tokens_; }
  int64_t truncated_inputs() const { return truncated_inputs_; }

  // The response to a finished job, or, if every input was bad, to none. Rows of bad inputs are
  // zero. Errors lose their messages, not their reasons, where the response would outgrow its
  // limit.
  v1::EmbedResponse Respond(const Job* job) const;

 private:
  struct Result {
    int64_t row = -1;  // in the job; -1: a bad input
    uint32_t tokens = 0;
    bool truncated = false;
  };

  void TokenizeInput(size_t index, Job* job);
  void AddVectors(const Job* job, v1::EmbedResponse* response) const;

  const ServedModel* const model_;
  v1::EmbedRequest request_;
  Validated validated_;
  int64_t max_response_bytes_ = 0;
  std::vector<Result> results_;  // one an input
  int64_t tokens_ = 0;
  int64_t truncated_inputs_ = 0;
};

// Why a job was not admitted. `verdict` is not kAdmitted.
RequestError AdmissionError(Lane lane, const Admission& admission);

}  // namespace octavo
