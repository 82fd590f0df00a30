// The gRPC services a server registers. A grpc::Service belongs to one grpc::Server: make one for
// each listener.
#pragma once

#include <grpcpp/impl/service_type.h>

#include <memory>
#include <string>
#include <vector>

#include "service/health.h"
#include "service/open_calls.h"
#include "service/service_context.h"

namespace octavo {

// octavo.v1.EmbeddingService, registered raw: the handlers parse the bytes themselves, because
// generated ones answer a message that does not parse with UNIMPLEMENTED, or take it for the end
// of a stream. `context` outlives the server.
std::unique_ptr<grpc::Service> MakeEmbeddingService(ServiceContext* context);

// grpc.health.v1.Health. gRPC's own starts out SERVING for the overall name. Both arguments outlive
// the server.
std::unique_ptr<grpc::Service> MakeHealthService(HealthState* health, OpenCalls* open_calls);

// grpc.reflection.v1alpha.ServerReflection, listing `services`. gRPC's own is registered on every
// listener of the process once linked, and keeps a thread for each open call. `open_calls`
// outlives the server.
std::unique_ptr<grpc::Service> MakeReflectionService(std::vector<std::string> services,
                                                     OpenCalls* open_calls);

}  // namespace octavo
