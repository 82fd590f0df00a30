#include "service/server.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "service/grpc_services.h"
#include "service/http_server.h"

namespace octavo {
namespace {

constexpr Duration kWatchInterval = std::chrono::milliseconds(100);

constexpr const char* kReflected[] = {"octavo.v1.EmbeddingService", "grpc.health.v1.Health",
                                      "grpc.reflection.v1alpha.ServerReflection"};

void DisableCompression(grpc::ServerBuilder* builder) {
  builder->SetDefaultCompressionAlgorithm(GRPC_COMPRESS_NONE);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder->SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  // And no filter that could inflate is there, whatever a later gRPC checks first.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
}

struct Listener {
  std::vector<std::unique_ptr<grpc::Service>> services;
  std::unique_ptr<grpc::Server> server;
  int port = 0;

  absl::Status Start(const std::string& address, int max_message_bytes) {
    std::string host;
    if (absl::Status status = SplitAddress(address, &host, &port); !status.ok()) return status;
    grpc::ServerBuilder builder;
    DisableCompression(&builder);
    builder.SetMaxReceiveMessageSize(max_message_bytes);
    builder.SetMaxSendMessageSize(-1);
    // Two servers on one port would share its connections.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
    for (const auto& service : services) builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    if (server == nullptr) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on ", address, ": is the port in use?"));
    }
    return absl::OkStatus();
  }
};

}  // namespace

struct Server::State {
  explicit State(ServiceContext* shared) : context(shared) {}

  void WatchStreams() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!stopping) {
      wake.wait_for(lock, kWatchInterval);
      lock.unlock();
      context->streams().CheckWriteTimeouts(Clock::now());
      lock.lock();
    }
  }

  ServiceContext* const context;
  HealthState health;
  OpenCalls open_calls;
  Listener main;
  Listener health_only;
  std::unique_ptr<HttpServer> http;

  std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  bool shut_down = false;
  std::thread watcher;
};

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                      ServiceContext* context) {
  auto state = std::make_unique<State>(context);
  State* raw = state.get();
  raw->main.services.push_back(MakeEmbeddingService(context));
  raw->main.services.push_back(MakeHealthService(&raw->health, &raw->open_calls));
  raw->main.services.push_back(
      MakeReflectionService({std::begin(kReflected), std::end(kReflected)}, &raw->open_calls));
  const int64_t max_message_bytes = context->options().limits.max_message_bytes;
  absl::Status status = raw->main.Start(options.listen, static_cast<int>(max_message_bytes));
  if (!status.ok()) return status;
  // From here on the destructor shuts down what has been started.
  std::unique_ptr<Server> server(new Server(std::move(state)));
  if (!options.health_listen.empty()) {
    raw->health_only.services.push_back(MakeHealthService(&raw->health, &raw->open_calls));
    constexpr int kMaxProbeBytes = 4096;
    status = raw->health_only.Start(options.health_listen, kMaxProbeBytes);
    if (!status.ok()) return status;
  }
  if (!options.metrics_listen.empty()) {
    HttpPage page{"text/plain; version=0.0.4; charset=utf-8",
                  [context] { return context->metrics().Text(); }};
    auto http = HttpServer::Start(options.metrics_listen, {{"/metrics", std::move(page)}});
    if (!http.ok()) return http.status();
    raw->http = *std::move(http);
  }
  return server;
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {
  state_->watcher = std::thread([this] { state_->WatchStreams(); });
}

Server::~Server() {
  Shutdown(Clock::now());
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stopping = true;
  }
  state_->wake.notify_all();
  state_->watcher.join();
}

int Server::port() const { return state_->main.port; }
int Server::metrics_port() const { return state_->http ? state_->http->port() : 0; }
int Server::health_port() const { return state_->health_only.port; }
HealthState& Server::health() { return state_->health; }

void Server::SetServing() {
  state_->context->metrics().SetReady(true);
  state_->health.SetAll(true);
}

void Server::SetNotReady() {
  state_->context->metrics().SetReady(false);
  state_->health.Set(kHealthService, false);
  state_->health.Set(kHealthOverall, false);
}

void Server::Shutdown(Time deadline) {
  if (std::exchange(state_->shut_down, true)) return;
  SetNotReady();
  state_->health.Set(kHealthLiveness, false);
  state_->context->Drain();
  state_->open_calls.EndAll();
  const auto left = std::max(deadline - Clock::now(), Duration::zero());
  state_->main.server->Shutdown(std::chrono::system_clock::now() + left);
  // The probe's listener answers until the last call is done.
  if (state_->health_only.server != nullptr) {
    state_->health_only.server->Shutdown(std::chrono::system_clock::now());
  }
}

}  // namespace octavo
