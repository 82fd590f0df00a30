// octavo.v1.EmbeddingService over gRPC's callback API: reactors that carry bytes to and from the
// state machines of embed_call and embed_stream.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <utility>

#include "octavo/v1/embedding.grpc.pb.h"
#include "service/embed_call.h"
#include "service/embed_stream.h"
#include "service/grpc_services.h"

namespace octavo {
namespace {

// The system clock's deadline on the steady clock.
Time SteadyDeadline(const grpc::CallbackServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return Time::max();
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return Time::max();
  return Clock::now() + std::chrono::duration_cast<Duration>(left);
}

// The bytes in one piece, copied only if they came in several.
grpc::Slice Contiguous(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  if (!buffer.Valid() || buffer.TrySingleSlice(&slice).ok()) return slice;
  buffer.DumpToSingleSlice(&slice);
  return slice;
}

std::string_view View(const grpc::Slice& slice) {
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

// Hands the string's memory to gRPC.
grpc::ByteBuffer ToByteBuffer(std::string bytes) {
  auto* owned = new std::string(std::move(bytes));
  const grpc::Slice slice(
      owned->data(), owned->size(), [](void* string) { delete static_cast<std::string*>(string); },
      owned);
  return grpc::ByteBuffer(&slice, 1);
}

grpc::Status ToGrpcStatus(const RequestError& error) {
  return grpc::Status(static_cast<grpc::StatusCode>(error.code()), StatusMessage(error),
                      SerializeDetails(error));
}

void AddPushback(const RequestError& error, grpc::CallbackServerContext* context) {
  if (const std::optional<int64_t> ms = RetryPushbackMs(error)) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(*ms));
  }
}

class EmbedReactor final : public grpc::ServerUnaryReactor, public UnaryCall {
 public:
  EmbedReactor(ServiceContext* context, grpc::CallbackServerContext* call,
               grpc::ByteBuffer* response)
      : call_(call), deadline_(SteadyDeadline(*call)), response_(response) {
    embed_ = std::make_shared<EmbedCall>(context, this);
  }

  void Start(const grpc::ByteBuffer& request) {
    const grpc::Slice bytes = Contiguous(request);
    embed_->Start(View(bytes));
  }

  Time deadline() const override { return deadline_; }
  void Respond(std::string response) override {
    *response_ = ToByteBuffer(std::move(response));
    Finish(grpc::Status::OK);
  }
  void Fail(const RequestError& error) override {
    AddPushback(error, call_);
    Finish(ToGrpcStatus(error));
  }

  void OnCancel() override { embed_->OnCancel(); }
  void OnDone() override { delete this; }

 private:
  grpc::CallbackServerContext* const call_;
  const Time deadline_;
  grpc::ByteBuffer* const response_;
  std::shared_ptr<EmbedCall> embed_;
};

class EmbedStreamReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                                 public StreamCall {
 public:
  EmbedStreamReactor(ServiceContext* context, grpc::CallbackServerContext* call)
      : call_(call), deadline_(SteadyDeadline(*call)) {
    stream_ = std::make_shared<EmbedStream>(context, this);
  }

  void Start() { stream_->Start(); }

  Time deadline() const override { return deadline_; }
  void Read() override { StartRead(&request_); }
  void Write(std::string response) override {
    response_ = ToByteBuffer(std::move(response));
    StartWrite(&response_);
  }
  void Cancel() override { call_->TryCancel(); }
  void End(const std::optional<RequestError>& error) override {
    Finish(error.has_value() ? ToGrpcStatus(*error) : grpc::Status::OK);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      stream_->OnRead(std::nullopt);
      return;
    }
    const grpc::Slice bytes = Contiguous(request_);
    request_.Clear();
    stream_->OnRead(View(bytes));
  }
  void OnWriteDone(bool ok) override {
    response_.Clear();
    stream_->OnWritten(ok);
  }
  void OnCancel() override { stream_->OnCancel(); }
  void OnDone() override { delete this; }

 private:
  grpc::CallbackServerContext* const call_;
  const Time deadline_;
  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;
  std::shared_ptr<EmbedStream> stream_;
};

using V1 = v1::EmbeddingService;
using RawService = V1::WithRawCallbackMethod_Embed<
    V1::WithRawCallbackMethod_EmbedStream<V1::WithRawCallbackMethod_GetInfo<V1::Service>>>;

class EmbeddingGrpcService final : public RawService {
 public:
  explicit EmbeddingGrpcService(ServiceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* call,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override {
    auto* reactor = new EmbedReactor(context_, call, response);
    reactor->Start(*request);
    return reactor;
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* EmbedStream(
      grpc::CallbackServerContext* call) override {
    auto* reactor = new EmbedStreamReactor(context_, call);
    reactor->Start();
    return reactor;
  }

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* call,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override {
    const Time begin = Clock::now();
    context_->metrics().RequestBegan(Rpc::kGetInfo);
    const grpc::Slice bytes = Contiguous(*request);
    std::string info;
    const std::optional<RequestError> error = octavo::GetInfo(*context_, View(bytes), &info);
    context_->metrics().RequestEnded(Rpc::kGetInfo, std::nullopt,
                                     error.has_value() ? error->code() : absl::StatusCode::kOk,
                                     Clock::now() - begin);
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    if (error.has_value()) {
      reactor->Finish(ToGrpcStatus(*error));
    } else {
      *response = ToByteBuffer(std::move(info));
      reactor->Finish(grpc::Status::OK);
    }
    return reactor;
  }

 private:
  ServiceContext* const context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeEmbeddingService(ServiceContext* context) {
  return std::make_unique<EmbeddingGrpcService>(context);
}

}  // namespace octavo
