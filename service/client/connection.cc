#include "service/client/connection.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace octavo::client {
namespace {

std::shared_ptr<grpc::Channel> Connect(const std::string& server) {
  grpc::ChannelArguments arguments;
  // A server that restarts is found again at once; calls themselves fail fast.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace

Connection::Connection(ConnectionOptions options)
    : options_(std::move(options)),
      stub_(octavo::v1::EmbeddingService::NewStub(Connect(options_.server))) {}

absl::Status Connection::Explain(const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  std::string message = absl::StrCat(options_.server, ": ", status.error_message());
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      absl::StrAppend(&message,
                      " (is octavo-server running there? --server=HOST:PORT names another)");
      break;
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      absl::StrAppend(&message, " (no answer within ", options_.timeout.count() / 1000.0,
                      " s; --timeout_seconds raises the limit)");
      break;
    case grpc::StatusCode::NOT_FOUND:
      absl::StrAppend(&message, " (--model=", options_.model,
                      " is not the model served; octavo-client info shows it)");
      break;
    case grpc::StatusCode::UNIMPLEMENTED:
      absl::StrAppend(&message, " (that server does not speak octavo.v1)");
      break;
    default:
      break;
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), message);
}

absl::StatusOr<octavo::v1::GetInfoResponse> Connection::GetInfo() const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.timeout);
  octavo::v1::GetInfoRequest request;
  request.set_model(options_.model);
  octavo::v1::GetInfoResponse response;
  const grpc::Status status = stub_->GetInfo(&context, request, &response);
  if (!status.ok()) return Explain(status);
  return response;
}

absl::StatusOr<octavo::v1::EmbedResponse> Connection::Embed(
    octavo::v1::EmbedRequest request) const {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.timeout);
  if (request.model().empty()) request.set_model(options_.model);
  octavo::v1::EmbedResponse response;
  const grpc::Status status = stub_->Embed(&context, request, &response);
  if (!status.ok()) return Explain(status);
  return response;
}

}  // namespace octavo::client
