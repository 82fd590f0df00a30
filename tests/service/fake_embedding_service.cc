#include "tests/service/fake_embedding_service.h"

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo::testing {
namespace {

using octavo::v1::EmbedRequest;
using octavo::v1::EmbedResponse;
using octavo::v1::EmbedStreamRequest;
using octavo::v1::EmbedStreamResponse;

bool Contains(const std::string& text, const std::string& part) {
  return !part.empty() && text.find(part) != std::string::npos;
}

int8_t Quantize(float value, float scale) {
  return static_cast<int8_t>(std::nearbyint(value / scale));
}

void AddVectors(octavo::v1::DataType type, const EmbedRequest& request, int dimensions,
                EmbedResponse* response) {
  octavo::v1::Vectors* vectors = response->add_vectors();
  vectors->set_type(type);
  vectors->set_dimensions(dimensions);
  std::string* data = vectors->mutable_data();
  for (const auto& input : request.inputs()) {
    const std::vector<float> values = FakeVector(input.text(), dimensions);
    if (type == octavo::v1::DATA_TYPE_INT8) {
      float largest = 0;
      for (const float value : values) largest = std::max(largest, std::fabs(value));
      vectors->add_scales(largest / 127);
      for (const float value : values) *data += static_cast<char>(Quantize(value, largest / 127));
    } else if (type == octavo::v1::DATA_TYPE_BINARY) {
      for (int i = 0; i < dimensions; i += 8) {
        int byte = 0;
        for (int bit = 0; bit < 8; ++bit) byte = byte * 2 + (values[i + bit] > 0);
        *data += static_cast<char>(byte);
      }
    } else {
      data->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    }
  }
}

}  // namespace

std::vector<float> FakeVector(const std::string& text, int dimensions) {
  std::vector<float> values(kFakeDimensions);
  uint32_t state = 2166136261u;
  for (const char c : text) state = (state ^ static_cast<uint8_t>(c)) * 16777619u;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
  }
  values.resize(dimensions);
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  for (float& value : values) value = static_cast<float>(value / std::sqrt(sum));
  return values;
}

grpc::Status FakeEmbeddingService::Check(const EmbedRequest& request) const {
  if (!request.model().empty() && request.model() != behaviour.model) {
    return {grpc::StatusCode::NOT_FOUND, "model " + request.model() + " is not served"};
  }
  if (!request.revision().empty() && request.revision() != behaviour.revision) {
    return {grpc::StatusCode::FAILED_PRECONDITION, "the revision served is " + behaviour.revision};
  }
  if (request.options().input_type() == octavo::v1::INPUT_TYPE_UNSPECIFIED) {
    return {grpc::StatusCode::INVALID_ARGUMENT, "input_type is unspecified"};
  }
  return grpc::Status::OK;
}

void FakeEmbeddingService::Answer(const EmbedRequest& request, EmbedResponse* response) const {
  const int dimensions =
      request.options().dimensions() ? request.options().dimensions() : kFakeDimensions;
  if (request.options().output_types().empty()) {
    AddVectors(octavo::v1::DATA_TYPE_FLOAT32, request, dimensions, response);
  }
  for (const int type : request.options().output_types()) {
    AddVectors(static_cast<octavo::v1::DataType>(type), request, dimensions, response);
  }
  if (behaviour.not_finite) {
    const float bad = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(response->mutable_vectors(0)->mutable_data()->data(), &bad, sizeof(bad));
  }
  for (const auto& input : request.inputs()) {
    auto* result = response->add_results();
    if (Contains(input.text(), behaviour.bad_input)) {
      result->mutable_error()->set_code(grpc::StatusCode::INVALID_ARGUMENT);
      result->mutable_error()->set_reason("BAD_INPUT");
      result->mutable_error()->set_message("this input is bad");
    } else {
      result->set_tokens(static_cast<uint32_t>(input.text().size()));
    }
  }
  response->set_model(behaviour.model);
  response->set_revision(behaviour.revision);
  const bool query = request.options().input_type() == octavo::v1::INPUT_TYPE_QUERY;
  response->mutable_execution()->set_lane(query ? "query" : "document");
  response->mutable_execution()->set_format(query ? "a16w4_int4_g64z" : behaviour.format);
}

EmbedStreamResponse FakeEmbeddingService::AnswerMessage(const EmbedStreamRequest& message) {
  EmbedStreamResponse answer;
  answer.set_id(message.id());
  const int number = answers++;
  const auto fail = [&](grpc::StatusCode code, const std::string& reason) {
    answer.mutable_error()->set_code(code);
    answer.mutable_error()->set_reason(reason);
    answer.mutable_error()->set_message(reason);
    return answer;
  };
  if (number < behaviour.busy_messages) {
    fail(grpc::StatusCode::RESOURCE_EXHAUSTED, "LANE_FULL");
    answer.mutable_error()->mutable_retry_delay()->set_nanos(1000000);
    return answer;
  }
  const grpc::Status status = Check(message.request());
  if (!status.ok()) return fail(status.error_code(), status.error_message());
  if (message.request().inputs_size() > behaviour.max_message_inputs) {
    return fail(grpc::StatusCode::RESOURCE_EXHAUSTED, "RESPONSE_TOO_LARGE");
  }
  for (const auto& input : message.request().inputs()) {
    if (Contains(input.text(), behaviour.poison)) {
      return fail(grpc::StatusCode::INVALID_ARGUMENT, "POISON");
    }
  }
  Answer(message.request(), answer.mutable_response());
  if (behaviour.change_revision_after >= 0 && number >= behaviour.change_revision_after) {
    answer.mutable_response()->set_revision("revision-2");
  }
  if (behaviour.change_format_after >= 0 && number >= behaviour.change_format_after) {
    answer.mutable_response()->mutable_execution()->set_format("f32");
  }
  return answer;
}

grpc::Status FakeEmbeddingService::Embed(grpc::ServerContext*, const EmbedRequest* request,
                                         EmbedResponse* response) {
  const int number = calls++;
  {
    const std::lock_guard<std::mutex> lock(stall_mutex_);
    if (behaviour.call_microseconds > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(behaviour.call_microseconds));
    }
    if (number == behaviour.stall_call) {
      std::this_thread::sleep_for(std::chrono::milliseconds(behaviour.stall_milliseconds));
    }
  }
  if (number < behaviour.refuse_calls) {
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the lane is full"};
  }
  const grpc::Status status = Check(*request);
  if (!status.ok()) return status;
  if (behaviour.drift) {
    EmbedRequest other = *request;
    for (auto& input : *other.mutable_inputs()) *input.mutable_text() += absl::StrCat(number);
    Answer(other, response);
  } else {
    Answer(*request, response);
  }
  return status;
}

// One thread reads; another answers what has been read, newest first.
grpc::Status FakeEmbeddingService::EmbedStream(
    grpc::ServerContext* context,
    grpc::ServerReaderWriter<EmbedStreamResponse, EmbedStreamRequest>* stream) {
  ++streams;
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<EmbedStreamRequest> unanswered;
  bool ended = false;
  std::thread answering([&] {
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return ended || !unanswered.empty(); });
      if (unanswered.empty()) return;
      lock.unlock();  // let a few more arrive
      std::this_thread::sleep_for(std::chrono::microseconds(500));
      lock.lock();
      if (unanswered.empty()) return;
      const EmbedStreamRequest message = std::move(unanswered.back());
      unanswered.pop_back();
      const EmbedStreamResponse answer = AnswerMessage(message);
      for (int i = 0; i < (behaviour.answer_twice ? 2 : 1); ++i) stream->Write(answer);
    }
  });
  grpc::Status status = grpc::Status::OK;
  EmbedStreamRequest message;
  while (stream->Read(&message)) {
    const int number = ++messages;
    const std::lock_guard<std::mutex> lock(mutex);
    if (behaviour.end_without_answers) break;
    if (behaviour.silent) continue;
    const bool lost =
        number == behaviour.unavailable_after ||
        (behaviour.forever_unavailable_after >= 0 && number >= behaviour.forever_unavailable_after);
    if (lost) {
      unanswered.clear();  // never answered: to be sent again
      status = {grpc::StatusCode::UNAVAILABLE, "the server is draining"};
      break;
    }
    unanswered.push_back(message);
    most_unanswered = std::max<int>(most_unanswered, static_cast<int>(unanswered.size()));
    changed.notify_all();
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ended = true;
    changed.notify_all();
  }
  answering.join();
  if (context->IsCancelled()) return grpc::Status::CANCELLED;
  return status;
}

grpc::Status FakeEmbeddingService::GetInfo(grpc::ServerContext*,
                                           const octavo::v1::GetInfoRequest* request,
                                           octavo::v1::GetInfoResponse* response) {
  if (!request->model().empty() && request->model() != behaviour.model) {
    return {grpc::StatusCode::NOT_FOUND, "model " + request->model() + " is not served"};
  }
  response->set_model(behaviour.model);
  response->set_revision(behaviour.revision);
  response->set_architecture("BertModel");
  response->set_dimensions(kFakeDimensions);
  response->set_max_text_bytes(behaviour.max_text_bytes);
  response->set_max_inputs(behaviour.max_inputs);
  response->set_max_message_bytes(1 << 20);
  response->set_max_response_bytes(4 << 20);
  response->add_output_types(octavo::v1::DATA_TYPE_FLOAT32);
  octavo::v1::LaneInfo* lane = response->add_lanes();
  lane->set_name("document");
  lane->set_format(behaviour.format);
  lane->set_method("rtn");
  lane->add_kernels("a8w8_int8_portable");
  return grpc::Status::OK;
}

FakeServer::FakeServer() {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&service);
  server_ = builder.BuildAndStart();
}

FakeServer::~FakeServer() {
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

std::string FakeServer::address() const { return absl::StrCat("127.0.0.1:", port_); }

}  // namespace octavo::testing
