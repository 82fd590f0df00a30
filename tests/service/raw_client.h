// gRPC calls that carry any bytes, for tests: what a hostile or broken client can send.
#pragma once

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>

namespace octavo {

inline grpc::ByteBuffer RawBytes(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return grpc::ByteBuffer(&slice, 1);
}

inline std::string RawString(const grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  buffer.DumpToSingleSlice(&slice);
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

// One unary call, blocking. `*response` may be null.
inline grpc::Status RawCall(const std::shared_ptr<grpc::Channel>& channel,
                            const std::string& method, const std::string& bytes,
                            grpc::ClientContext* context, std::string* response = nullptr) {
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(channel);
  auto call = stub.PrepareUnaryCall(context, method, RawBytes(bytes), &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag;
  bool ok;
  queue.Next(&tag, &ok);
  if (status.ok() && response != nullptr) *response = RawString(answer);
  return status;
}

// One stream, each operation blocking.
class RawStream {
 public:
  RawStream(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
      : stub_(channel) {
    call_ = stub_.PrepareCall(&context_, method, &queue_);
    call_->StartCall(nullptr);
    Next();
  }

  bool Write(const std::string& bytes) {
    call_->Write(RawBytes(bytes), nullptr);
    return Next();
  }
  bool WritesDone() {
    call_->WritesDone(nullptr);
    return Next();
  }
  std::optional<std::string> Read() {
    grpc::ByteBuffer answer;
    call_->Read(&answer, nullptr);
    if (!Next()) return std::nullopt;
    return RawString(answer);
  }
  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Next();
    return status;
  }
  grpc::ClientContext& context() { return context_; }

 private:
  bool Next() {
    void* tag;
    bool ok = false;
    queue_.Next(&tag, &ok);
    return ok;
  }

  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
};

}  // namespace octavo
