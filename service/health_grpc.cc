// grpc.health.v1 over gRPC's callback API.
#include <grpcpp/grpcpp.h>

#include <utility>

#include "grpc/health/v1/health.grpc.pb.h"
#include "service/grpc_services.h"

namespace octavo {
namespace {

using Request = grpc::health::v1::HealthCheckRequest;
using Response = grpc::health::v1::HealthCheckResponse;
using Wire = grpc::health::v1::Health;

// Sends the status now and after every change; what changes during a write is sent after it.
class WatchReactor final : public grpc::ServerWriteReactor<Response>,
                           public HealthWatcher,
                           public OpenCall,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  WatchReactor(HealthState* health, OpenCalls* open_calls, std::string name)
      : health_(health), open_calls_(open_calls), name_(std::move(name)) {}

  void Start() {
    self_ = shared_from_this();
    health_->Add(self_);
    open_calls_->Add(self_);
    Pump();
  }

  void OnHealthChanged() override { Pump(); }
  void End() override { EndWith(grpc::Status(grpc::UNAVAILABLE, "the server is going away")); }

  void OnWriteDone(bool ok) override {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      writing_ = false;
    }
    if (!ok) EndWith(grpc::Status::CANCELLED);
    Pump();
  }
  void OnCancel() override { EndWith(grpc::Status::CANCELLED); }
  void OnDone() override {
    health_->Remove(this);
    open_calls_->Remove(this);
    self_.reset();  // may destroy this
  }

 private:
  void EndWith(grpc::Status status) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!end_.has_value()) end_ = std::move(status);
    }
    Pump();
  }

  void Pump() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (writing_ || finished_) return;
    if (end_.has_value()) {
      finished_ = true;
      Finish(*end_);
      return;
    }
    const std::optional<bool> serving = health_->Get(name_);
    const Response::ServingStatus status = !serving.has_value() ? Response::SERVICE_UNKNOWN
                                           : *serving           ? Response::SERVING
                                                                : Response::NOT_SERVING;
    if (sent_ == status) return;
    sent_ = status;
    response_.set_status(status);
    writing_ = true;
    StartWrite(&response_);
  }

  HealthState* const health_;
  OpenCalls* const open_calls_;
  const std::string name_;
  std::mutex mutex_;
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> end_;
  std::optional<Response::ServingStatus> sent_;
  Response response_;
  std::shared_ptr<WatchReactor> self_;  // until OnDone
};

class HealthGrpcService final : public Wire::CallbackService {
 public:
  HealthGrpcService(HealthState* health, OpenCalls* open_calls)
      : health_(health), open_calls_(open_calls) {}

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* call, const Request* request,
                                  Response* response) override {
    grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
    const std::optional<bool> serving = health_->Get(request->service());
    if (serving.has_value()) {
      response->set_status(*serving ? Response::SERVING : Response::NOT_SERVING);
      reactor->Finish(grpc::Status::OK);
    } else {
      reactor->Finish(grpc::Status(grpc::NOT_FOUND, "no such service"));
    }
    return reactor;
  }

  grpc::ServerWriteReactor<Response>* Watch(grpc::CallbackServerContext*,
                                            const Request* request) override {
    const auto reactor = std::make_shared<WatchReactor>(health_, open_calls_, request->service());
    reactor->Start();
    return reactor.get();
  }

 private:
  HealthState* const health_;
  OpenCalls* const open_calls_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeHealthService(HealthState* health, OpenCalls* open_calls) {
  return std::make_unique<HealthGrpcService>(health, open_calls);
}

}  // namespace octavo
