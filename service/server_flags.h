// The flags of octavo-server.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/runtime.h"
#include "service/server.h"
#include "service/service_context.h"

namespace octavo {

struct ServerFlags {
  RuntimeOptions runtime;
  ServiceOptions service;
  ServerOptions server;
  Duration drain_grace{0};
  Duration shutdown_limit{0};
  std::string port_file;
};

// Reads and checks the parsed flags. INVALID_ARGUMENT names the flag and what it must be.
absl::StatusOr<ServerFlags> ReadServerFlags();

}  // namespace octavo
