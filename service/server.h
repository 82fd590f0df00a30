// The listeners of octavo-server: gRPC, health and metrics.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "service/health.h"
#include "service/service_context.h"

namespace octavo {

struct ServerOptions {
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen = "127.0.0.1:9464";  // empty: none
  std::string health_listen;                      // empty: none besides the main one
};

// Listens as soon as it is made; every health name is NOT_SERVING until SetServing. Compression is
// disabled on every listener: a limit on message size would apply after inflating.
class Server {
 public:
  // `context` outlives the server.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                       ServiceContext* context);
  // Shuts down at once if Shutdown was not called.
  ~Server();

  int port() const;
  int metrics_port() const;  // 0: none
  int health_port() const;   // 0: none

  // All health names SERVING, `octavo_ready` 1.
  void SetServing();
  // Readiness, name by name, NOT_SERVING; calls are still accepted, and `liveness` stays.
  void SetNotReady();
  HealthState& health();

  // New calls are refused, streams answer what they took and end UNAVAILABLE; returns when every
  // call is done, or has been cancelled at `deadline`. Idempotent.
  void Shutdown(Time deadline);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace octavo
