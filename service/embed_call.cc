#include "service/embed_call.h"

#include <utility>

#include "service/vectors.h"

namespace octavo {

EmbedCall::EmbedCall(ServiceContext* context, UnaryCall* call)
    : context_(context), call_(call), received_(Clock::now()), job_(std::make_shared<Job>()) {
  job_->deadline = call->deadline();
  context_->metrics().RequestBegan(Rpc::kEmbed);
}

void EmbedCall::Start(std::string_view bytes) {
  if (std::optional<RequestError> error = Prepare(bytes)) {
    Finish(error, {});
    return;
  }
  if (work_->text_bytes() <= context_->options().inline_text_bytes) {
    Tokenize();
  } else {
    context_->pool().Post(work_->lane(), [self = shared_from_this()] { self->Tokenize(); });
  }
}

// Everything up to admission.
std::optional<RequestError> EmbedCall::Prepare(std::string_view bytes) {
  v1::EmbedRequest request;
  if (auto error = Parse(bytes, context_->options().limits, &request)) return error;
  const std::optional<Lane> lane = LaneOf(request);
  if (lane.has_value()) lane_.store(static_cast<int>(*lane), std::memory_order_relaxed);
  if (auto error = context_->NotReady()) {
    context_->metrics().Rejected(lane, error->reason);
    return error;
  }
  work_.emplace(context_->model());
  work_->request() = std::move(request);
  if (auto error = work_->Check(context_->options().limits)) return error;
  if (work_->has_bad_inputs()) return work_->TakeInputErrors();
  if (job_->deadline <= received_) {
    return JobError(absl::DeadlineExceededError("the deadline had passed on arrival"), false);
  }

  admitted_tokens_ = work_->EstimateTokens();
  const Admission admission = context_->model()->scheduler->Admit(work_->lane(), admitted_tokens_,
                                                                  job_->deadline, received_);
  if (admission.verdict == Verdict::kAdmitted) return std::nullopt;
  RequestError error = AdmissionError(work_->lane(), admission);
  context_->metrics().Rejected(work_->lane(), error.reason);
  return error;
}

void EmbedCall::Tokenize() {
  const ServedModel* model = context_->model();
  const Lane lane = work_->lane();
  if (finished_.load(std::memory_order_acquire)) {
    context_->metrics().Cancelled(lane, Stage::kTokenize);
    model->scheduler->Release(lane, admitted_tokens_, Clock::now());
    return;
  }
  const Time begin = Clock::now();
  work_->Tokenize(job_.get());
  const Time end = Clock::now();
  context_->metrics().StageTook(Stage::kTokenize, lane, end - begin);
  if (work_->has_bad_inputs()) {
    model->scheduler->Release(lane, admitted_tokens_, end);
    Finish(work_->TakeInputErrors(), {});
    return;
  }
  context_->metrics().TruncatedInputs(lane, work_->truncated_inputs());
  job_->lane = lane;
  job_->admitted_tokens = admitted_tokens_;
  // The call keeps its job and the job its call only until this has run.
  job_->done = [self = shared_from_this()](Job& job) mutable {
    const std::shared_ptr<EmbedCall> call = std::move(self);
    call->OnJobDone(job);
  };
  model->submit(job_);
}

void EmbedCall::OnJobDone(const Job& job) {
  Metrics& metrics = context_->metrics();
  const Lane lane = work_->lane();
  if (!job.status.ok()) {
    Finish(JobError(job.status, context_->draining()), {});
    return;
  }
  metrics.StageTook(Stage::kQueue, lane, job.queue_time);
  if (finished_.load(std::memory_order_acquire)) {
    metrics.Cancelled(lane, Stage::kCompute);
    return;
  }
  const Time begin = Clock::now();
  std::string response;
  work_->Respond(&job).SerializeToString(&response);
  metrics.StageTook(Stage::kRespond, lane, Clock::now() - begin);
  if (!Finish(std::nullopt, std::move(response))) metrics.Cancelled(lane, Stage::kRespond);
}

void EmbedCall::OnCancel() {
  job_->cancelled.store(true, std::memory_order_relaxed);
  const bool expired = Clock::now() >= job_->deadline;
  Finish(JobError(expired ? absl::DeadlineExceededError("the deadline passed")
                          : absl::CancelledError("the caller cancelled"),
                  false),
         {});
}

bool EmbedCall::Finish(const std::optional<RequestError>& error, std::string response) {
  if (finished_.exchange(true, std::memory_order_acq_rel)) return false;
  const int lane = lane_.load(std::memory_order_relaxed);
  context_->metrics().RequestEnded(
      Rpc::kEmbed, lane < 0 ? std::nullopt : std::optional<Lane>(static_cast<Lane>(lane)),
      error.has_value() ? error->code() : absl::StatusCode::kOk, Clock::now() - received_);
  if (error.has_value()) {
    call_->Fail(*error);
  } else {
    call_->Respond(std::move(response));
  }
  return true;
}

namespace {

v1::GetInfoResponse Describe(const ServiceContext& context, const ModelInfo& info) {
  v1::GetInfoResponse response;
  response.set_model(info.name);
  response.set_revision(info.revision);
  response.set_architecture(info.spec.architecture);
  response.set_dimensions(static_cast<uint32_t>(info.spec.hidden));
  response.set_max_tokens(static_cast<uint32_t>(info.spec.max_tokens));
  response.set_pooling(info.spec.pooling == Pooling::kMean ? "mean" : "cls");
  response.set_normalized(info.spec.normalize);
  for (const auto& [name, text] : info.spec.prompts) response.add_prompt_names(name);
  for (const DeviceDescription& device : info.devices) response.add_devices(device.FullName());
  for (Lane lane : kAllLanes) {
    const LaneDescription& description = info.lanes[static_cast<int>(lane)];
    v1::LaneInfo* out = response.add_lanes();
    out->set_name(std::string(LaneName(lane)));
    out->set_format(std::string(description.format->name));
    out->set_max_batch_tokens(static_cast<uint32_t>(description.limits.max_batch_tokens));
    out->set_max_queue_tokens(static_cast<uint32_t>(description.limits.max_queue_tokens));
    out->set_method(description.method);
    for (const std::string& kernel : description.kernels) out->add_kernels(kernel);
  }
  const ServiceOptions& options = context.options();
  response.set_max_inputs(static_cast<uint32_t>(options.limits.max_inputs));
  response.set_max_text_bytes(static_cast<uint64_t>(options.limits.max_text_bytes));
  response.set_version(options.version);
  response.add_models(info.name);
  response.set_max_message_bytes(static_cast<uint64_t>(options.limits.max_message_bytes));
  response.set_max_stream_tokens(static_cast<uint64_t>(options.max_stream_tokens));
  response.set_max_response_bytes(static_cast<uint64_t>(options.limits.max_response_bytes));
  for (v1::DataType type : OutputTypes()) response.add_output_types(type);
  return response;
}

}  // namespace

std::optional<RequestError> GetInfo(const ServiceContext& context, std::string_view bytes,
                                    std::string* response) {
  v1::GetInfoRequest request;
  if (auto error = Parse(bytes, &request)) return error;
  const ServedModel* model = context.model();
  if (model == nullptr) return context.NotReady();
  if (auto error = CheckModel(request.model(), model->info)) return error;
  Describe(context, model->info).SerializeToString(response);
  return std::nullopt;
}

}  // namespace octavo
