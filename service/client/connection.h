// One server as the client's commands see it: typed calls with deadlines, and errors that say
// what to do.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/embedding.grpc.pb.h"

namespace octavo::client {

struct ConnectionOptions {
  std::string server = "127.0.0.1:50051";
  std::string model;                         // sent in every request; empty: whatever is served
  std::chrono::milliseconds timeout{30000};  // of a unary call, connecting included
};

// Thread-safe.
class Connection {
 public:
  explicit Connection(ConnectionOptions options);

  const ConnectionOptions& options() const { return options_; }
  octavo::v1::EmbeddingService::Stub& stub() const { return *stub_; }

  absl::StatusOr<octavo::v1::GetInfoResponse> GetInfo() const;
  // Fills `model` in if the request names none.
  absl::StatusOr<octavo::v1::EmbedResponse> Embed(octavo::v1::EmbedRequest request) const;

  // The same code, with the server named and advice where the code alone calls for it.
  absl::Status Explain(const grpc::Status& status) const;

 private:
  ConnectionOptions options_;
  std::unique_ptr<octavo::v1::EmbeddingService::Stub> stub_;
};

}  // namespace octavo::client
