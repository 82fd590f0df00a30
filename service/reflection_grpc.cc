// grpc.reflection.v1alpha over gRPC's callback API.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <grpcpp/grpcpp.h>

#include <set>
#include <utility>

#include "grpc/reflection/v1alpha/reflection.grpc.pb.h"
#include "service/grpc_services.h"

namespace octavo {
namespace {

namespace wire = grpc::reflection::v1alpha;
using google::protobuf::DescriptorPool;
using google::protobuf::FileDescriptor;

void Fail(grpc::StatusCode code, std::string message, wire::ServerReflectionResponse* response) {
  response->mutable_error_response()->set_error_code(code);
  response->mutable_error_response()->set_error_message(std::move(message));
}

// The file and everything it imports, each once.
void AddFiles(const FileDescriptor* file, std::set<const FileDescriptor*>* seen,
              wire::FileDescriptorResponse* response) {
  if (!seen->insert(file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  proto.SerializeToString(response->add_file_descriptor_proto());
  for (int i = 0; i < file->dependency_count(); ++i) {
    AddFiles(file->dependency(i), seen, response);
  }
}

void AnswerFile(const FileDescriptor* file, wire::ServerReflectionResponse* response) {
  if (file == nullptr) {
    Fail(grpc::NOT_FOUND, "no such file or symbol", response);
    return;
  }
  std::set<const FileDescriptor*> seen;
  AddFiles(file, &seen, response->mutable_file_descriptor_response());
}

wire::ServerReflectionResponse Answer(const wire::ServerReflectionRequest& request,
                                      const std::vector<std::string>& services) {
  using Request = wire::ServerReflectionRequest;
  wire::ServerReflectionResponse response;
  response.set_valid_host(request.host());
  *response.mutable_original_request() = request;
  const DescriptorPool* pool = DescriptorPool::generated_pool();
  switch (request.message_request_case()) {
    case Request::kListServices:
      for (const std::string& name : services) {
        response.mutable_list_services_response()->add_service()->set_name(name);
      }
      break;
    case Request::kFileByFilename:
      AnswerFile(pool->FindFileByName(request.file_by_filename()), &response);
      break;
    case Request::kFileContainingSymbol:
      AnswerFile(pool->FindFileContainingSymbol(request.file_containing_symbol()), &response);
      break;
    case Request::kFileContainingExtension:
      Fail(grpc::NOT_FOUND, "proto3 has no extensions", &response);
      break;
    case Request::kAllExtensionNumbersOfType:
      if (pool->FindMessageTypeByName(request.all_extension_numbers_of_type()) == nullptr) {
        Fail(grpc::NOT_FOUND, "no such type", &response);
      } else {
        response.mutable_all_extension_numbers_response()->set_base_type_name(
            request.all_extension_numbers_of_type());
      }
      break;
    default:
      Fail(grpc::INVALID_ARGUMENT, "an empty request", &response);
      break;
  }
  return response;
}

class ReflectionReactor final
    : public grpc::ServerBidiReactor<wire::ServerReflectionRequest, wire::ServerReflectionResponse>,
      public OpenCall,
      public std::enable_shared_from_this<ReflectionReactor> {
 public:
  ReflectionReactor(const std::vector<std::string>* services, OpenCalls* open_calls)
      : services_(services), open_calls_(open_calls) {}

  void Start() {
    self_ = shared_from_this();
    StartRead(&request_);
    open_calls_->Add(self_);
  }

  void End() override {
    FinishOnce(grpc::Status(grpc::UNAVAILABLE, "the server is going away"), true);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      FinishOnce(grpc::Status::OK, false);
      return;
    }
    response_ = Answer(request_, *services_);
    std::lock_guard<std::mutex> lock(mutex_);
    if (finished_) return;
    writing_ = true;
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    writing_ = false;
    if (finished_) return;
    if (ok && !ending_) {
      StartRead(&request_);
      return;
    }
    finished_ = true;
    Finish(grpc::Status(grpc::UNAVAILABLE, "the server is going away"));
  }
  void OnCancel() override { FinishOnce(grpc::Status::CANCELLED, true); }
  void OnDone() override {
    open_calls_->Remove(this);
    self_.reset();  // may destroy this
  }

 private:
  // A write under way is waited for: OnWriteDone then finishes, if `ending`.
  void FinishOnce(const grpc::Status& status, bool ending) {
    std::lock_guard<std::mutex> lock(mutex_);
    ending_ = ending_ || ending;
    if (finished_ || writing_) return;
    finished_ = true;
    Finish(status);
  }

  const std::vector<std::string>* const services_;
  OpenCalls* const open_calls_;
  std::mutex mutex_;
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
  wire::ServerReflectionRequest request_;
  wire::ServerReflectionResponse response_;
  std::shared_ptr<ReflectionReactor> self_;  // until OnDone
};

class ReflectionGrpcService final : public wire::ServerReflection::CallbackService {
 public:
  ReflectionGrpcService(std::vector<std::string> services, OpenCalls* open_calls)
      : services_(std::move(services)), open_calls_(open_calls) {}

  grpc::ServerBidiReactor<wire::ServerReflectionRequest, wire::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext*) override {
    const auto reactor = std::make_shared<ReflectionReactor>(&services_, open_calls_);
    reactor->Start();
    return reactor.get();
  }

 private:
  const std::vector<std::string> services_;
  OpenCalls* const open_calls_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeReflectionService(std::vector<std::string> services,
                                                     OpenCalls* open_calls) {
  return std::make_unique<ReflectionGrpcService>(std::move(services), open_calls);
}

}  // namespace octavo
