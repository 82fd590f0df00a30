#include "service/embed_work.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/vectors.h"

namespace octavo {
namespace {

// English WordPiece yields about 4.5 bytes a token; erring towards more tokens is corrected after
// tokenizing, erring towards fewer would admit more than the lane holds.
constexpr int64_t kBytesPerToken = 4;

uint64_t Microseconds(Duration duration) {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(duration).count());
}

}  // namespace

std::optional<RequestError> EmbedWork::Check(const RequestLimits& limits) {
  if (auto error = Validate(request_, model_->info, limits, &validated_)) return error;
  max_response_bytes_ = limits.max_response_bytes;
  results_.resize(static_cast<size_t>(request_.inputs_size()));
  return std::nullopt;
}

int64_t EmbedWork::text_bytes() const {
  int64_t bytes = 0;
  for (const v1::Input& input : request_.inputs()) {
    bytes += static_cast<int64_t>(input.text().size());
  }
  return bytes;
}

int64_t EmbedWork::EstimateTokens() const {
  const int64_t special = model_->tokenizer->special_tokens();
  const int64_t most = model_->info.spec.max_tokens;
  const int64_t prompt_bytes = static_cast<int64_t>(plan().prompt.size());
  int64_t tokens = 0;
  auto bad = validated_.input_errors.begin();
  for (int i = 0; i < request_.inputs_size(); ++i) {
    if (bad != validated_.input_errors.end() && bad->index == static_cast<size_t>(i)) {
      ++bad;
      continue;
    }
    const v1::Input& input = request_.inputs(i);
    if (input.has_text()) {
      const int64_t bytes = prompt_bytes + static_cast<int64_t>(input.text().size());
      tokens += std::min(most, special + 1 + bytes / kBytesPerToken);
    } else {
      tokens += input.token_ids().ids_size();
    }
  }
  return tokens;
}

void EmbedWork::TokenizeInput(size_t index, Job* job) {
  const v1::Input& input = request_.inputs(static_cast<int>(index));
  Result& result = results_[index];
  std::vector<int32_t> ids;
  if (input.has_text()) {
    const std::string* text = &input.text();
    std::string prompted;
    if (!plan().prompt.empty()) {
      prompted = absl::StrCat(std::string(plan().prompt), *text);
      text = &prompted;
    }
    absl::StatusOr<TokenizedText> encoded =
        model_->tokenizer->Encode(*text, model_->info.spec.max_tokens, plan().truncation);
    if (!encoded.ok()) {
      // Valid UTF-8 fails only by its length.
      const Reason reason = encoded.status().code() == absl::StatusCode::kInvalidArgument
                                ? Reason::kTooManyTokens
                                : Reason::kInternal;
      validated_.input_errors.push_back(
          {index, FieldError(reason, absl::StrCat("inputs[", index, "].text"),
                             std::string(encoded.status().message()))});
      return;
    }
    ids = std::move(encoded->ids);
    result.truncated = encoded->truncated;
    truncated_inputs_ += encoded->truncated;
  } else {
    ids.assign(input.token_ids().ids().begin(), input.token_ids().ids().end());
  }
  result.row = static_cast<int64_t>(job->inputs.size());
  result.tokens = static_cast<uint32_t>(ids.size());
  tokens_ += static_cast<int64_t>(ids.size());
  job->inputs.push_back(std::move(ids));
}

void EmbedWork::Tokenize(Job* job) {
  const size_t known_bad = validated_.input_errors.size();
  job->inputs.reserve(results_.size() - known_bad);
  size_t bad = 0;
  for (size_t i = 0; i < results_.size(); ++i) {
    if (bad < known_bad && validated_.input_errors[bad].index == i) {
      ++bad;
    } else {
      TokenizeInput(i, job);
    }
  }
  std::sort(validated_.input_errors.begin(), validated_.input_errors.end(),
            [](const InputError& a, const InputError& b) { return a.index < b.index; });
  request_ = v1::EmbedRequest();
}

void EmbedWork::AddVectors(const Job* job, v1::EmbedResponse* response) const {
  const size_t dimensions = static_cast<size_t>(plan().dimensions);
  const size_t hidden = static_cast<size_t>(model_->info.spec.hidden);
  std::vector<float> row(dimensions);
  std::vector<uint8_t*> outputs;
  for (v1::DataType type : plan().types) {
    v1::Vectors* vectors = response->add_vectors();
    vectors->set_type(type);
    vectors->set_dimensions(static_cast<uint32_t>(dimensions));
    std::string* data = vectors->mutable_data();
    data->resize(results_.size() * RowBytes(type, plan().dimensions));
    outputs.push_back(reinterpret_cast<uint8_t*>(data->data()));
    if (type == v1::DATA_TYPE_INT8) {
      vectors->mutable_scales()->Resize(static_cast<int>(results_.size()), 0.0f);
    }
  }
  for (size_t i = 0; i < results_.size(); ++i) {
    if (results_[i].row < 0) continue;
    const float* pooled = job->vectors.data() + static_cast<size_t>(results_[i].row) * hidden;
    CutAndNormalize({pooled, hidden}, plan().dimensions, plan().normalize, row);
    for (size_t t = 0; t < plan().types.size(); ++t) {
      const v1::DataType type = plan().types[t];
      const float scale =
          EncodeVector(type, row, outputs[t] + i * RowBytes(type, plan().dimensions));
      if (type == v1::DATA_TYPE_INT8) {
        response->mutable_vectors(static_cast<int>(t))->set_scales(static_cast<int>(i), scale);
      }
    }
  }
}

v1::EmbedResponse EmbedWork::Respond(const Job* job) const {
  v1::EmbedResponse response;
  AddVectors(job, &response);
  response.mutable_results()->Reserve(static_cast<int>(results_.size()));
  for (const Result& result : results_) {
    v1::InputResult* out = response.add_results();
    out->set_tokens(result.tokens);
    out->set_truncated(result.truncated);
  }
  int64_t bytes = plan().response_bytes;
  for (const InputError& bad : validated_.input_errors) {
    v1::Error* error = response.mutable_results(static_cast<int>(bad.index))->mutable_error();
    *error = ToProto(bad.error);
    bytes += static_cast<int64_t>(error->message().size()) + 4;
    if (bytes > max_response_bytes_) error->clear_message();
  }
  v1::Execution* execution = response.mutable_execution();
  const ModelInfo& info = model_->info;
  const Format* format = info.lanes[static_cast<int>(lane())].format;
  execution->set_lane(std::string(LaneName(lane())));
  if (job != nullptr) {
    if (job->format != nullptr) format = job->format;
    execution->set_device(std::string(job->device));
    execution->set_queue_us(Microseconds(job->queue_time));
    execution->set_compute_us(Microseconds(job->compute_time));
  }
  execution->set_format(std::string(format->name));
  response.set_model(info.name);
  response.set_revision(info.revision);
  return response;
}

RequestError AdmissionError(Lane lane, const Admission& admission) {
  RequestError error;
  const std::string name(LaneName(lane));
  const auto ms = [](Duration duration) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
  };
  switch (admission.verdict) {
    case Verdict::kFull:
      error.reason = Reason::kLaneFull;
      error.retry_delay = admission.retry_delay;
      error.message = absl::StrCat("the ", name, " lane is full; try again in ",
                                   ms(admission.retry_delay), " ms");
      break;
    case Verdict::kDeadlineUnreachable:
      error.reason = Reason::kDeadlineUnreachable;
      error.retry_delay = admission.retry_delay;
      error.message = absl::StrCat("the ", name, " lane's wait of about ",
                                   ms(admission.estimated_wait), " ms exceeds the deadline");
      break;
    default:
      error.reason = Reason::kDraining;
      error.message = "the server is going away; try another";
      break;
  }
  return error;
}

}  // namespace octavo
