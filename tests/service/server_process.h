// octavo-server in a process of its own: started, asked, signalled, and what it left behind.
#pragma once

#include <fcntl.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/embedding.grpc.pb.h"
#include "runtime/job.h"

extern char** environ;

namespace octavo {

// A process whose output goes to a file. Killed when this goes.
class Process {
 public:
  Process(const std::string& program, std::vector<std::string> arguments) {
    static int count = 0;
    log_ = absl::StrCat(::testing::TempDir(), "octavo_server_", getpid(), "_", count++, ".log");
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Process() {
    if (!status_.has_value()) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    std::filesystem::remove(log_);
  }

  void Signal(int signal) { kill(pid_, signal); }
  // The exit code, 128 + the signal that ended it, or -1 if it has not ended in time.
  int Wait(std::chrono::milliseconds limit) {
    const Time end = Clock::now() + limit;
    while (!status_.has_value()) {
      int status = 0;
      if (waitpid(pid_, &status, WNOHANG) == pid_) {
        status_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      } else if (Clock::now() > end) {
        return -1;
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    return *status_;
  }
  std::string Log() const {
    std::ifstream file(log_);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // A line of /proc/PID/status in KiB: "VmHWM", "VmRSS".
  int64_t StatusKib(const std::string& name) const {
    std::ifstream file(absl::StrCat("/proc/", pid_, "/status"));
    for (std::string line; std::getline(file, line);) {
      if (line.rfind(name + ":", 0) == 0) return std::atoll(line.c_str() + name.size() + 1);
    }
    return -1;
  }
  // Forgets the peak so far.
  void ResetPeak() const { std::ofstream(absl::StrCat("/proc/", pid_, "/clear_refs")) << "5"; }

 private:
  pid_t pid_ = -1;
  std::string log_;
  std::optional<int> status_;
};

struct Outcome {
  int code;
  std::string log;
};
inline Outcome RunToEnd(const std::string& program, std::vector<std::string> arguments) {
  Process process(program, std::move(arguments));
  const int code = process.Wait(std::chrono::seconds(60));
  return {code, process.Log()};
}

// A server in a process of its own, and stubs for it.
class ServerProcessFixture : public ::testing::Test {
 protected:
  // Starts `program` with a model on free ports and waits until it is SERVING.
  void StartProcess(const std::string& program, const std::string& model,
                    std::vector<std::string> more) {
    const std::string ports = absl::StrCat(::testing::TempDir(), "octavo_ports_", getpid());
    std::filesystem::remove(ports);
    std::vector<std::string> arguments = {"--model=" + model,
                                          "--listen=127.0.0.1:0",
                                          "--metrics_listen=127.0.0.1:0",
                                          "--health_listen=127.0.0.1:0",
                                          "--port_file=" + ports,
                                          "--drain_grace_seconds=0.5"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    process_ = std::make_unique<Process>(program, arguments);
    const Time limit = Clock::now() + std::chrono::seconds(120);
    while (!std::filesystem::exists(ports) && Clock::now() < limit) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    std::ifstream file(ports);
    ASSERT_TRUE(file) << process_->Log();
    const nlohmann::json json = nlohmann::json::parse(file);
    metrics_port_ = json["metrics_port"];
    grpc::ChannelArguments channel_arguments;
    channel_arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    channel_arguments.SetMaxSendMessageSize(-1);
    const auto connect = [&](int port) {
      return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                       grpc::InsecureChannelCredentials(), channel_arguments);
    };
    channel_ = connect(json["port"]);
    probes_ = connect(json["health_port"]);
    stub_ = v1::EmbeddingService::NewStub(channel_);
    while (Health(probes_, "") != "SERVING" && Clock::now() < limit) {
      ASSERT_EQ(process_->Wait(std::chrono::milliseconds(5)), -1) << process_->Log();
    }
    ASSERT_EQ(Health(probes_, ""), "SERVING") << process_->Log();
  }

  std::string Health(const std::shared_ptr<grpc::Channel>& channel, const std::string& name) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(name);
    grpc::health::v1::HealthCheckResponse response;
    const grpc::Status status =
        grpc::health::v1::Health::NewStub(channel)->Check(&context, request, &response);
    if (!status.ok()) return status.error_message();
    return grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response.status());
  }
  grpc::Status Embed(const v1::EmbedRequest& request, v1::EmbedResponse* response) {
    grpc::ClientContext context;
    return stub_->Embed(&context, request, response);
  }

  // Closes the connections: an idle client hears late that the server wants to go.
  void Disconnect() {
    stub_.reset();
    channel_.reset();
    probes_.reset();
  }

  std::unique_ptr<Process> process_;
  int metrics_port_ = 0;
  std::shared_ptr<grpc::Channel> channel_, probes_;
  std::unique_ptr<v1::EmbeddingService::Stub> stub_;
};

}  // namespace octavo
