#include "service/server_run.h"

#include <google/protobuf/stubs/common.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "runtime/runtime.h"
#include "service/command_line.h"
#include "service/process_metrics.h"
#include "service/server.h"
#include "service/server_flags.h"

namespace octavo {
namespace {

constexpr int kBadFlags = 2;
constexpr Duration kHealthInterval = std::chrono::milliseconds(100);

double SecondsSince(Time begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <typename... Parts>
void Log(const Parts&... parts) {
  char when[32];
  const std::time_t now = std::time(nullptr);
  std::tm utc;
  gmtime_r(&now, &utc);
  std::strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &utc);
  std::fprintf(stderr, "%s %s\n", when, absl::StrCat(parts...).c_str());
}

// --- Signals. Blocked in every thread; the main thread takes them, as its state demands.
// ----------

sigset_t Termination() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

// From now on a termination signal ends the process at once, with `status` or, if that is
// negative, as signals do.
template <int status>
void ExitOnSignal() {
  struct sigaction action = {};
  action.sa_handler = [](int signal) { _exit(status >= 0 ? status : 128 + signal); };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  const sigset_t set = Termination();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void BlockSignals() {
  const sigset_t set = Termination();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

// The signal, or 0 after `wait`.
int WaitForSignal(Duration wait) {
  const sigset_t set = Termination();
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(wait).count();
  const timespec timeout = {ns / 1'000'000'000, ns % 1'000'000'000};
  return std::max(sigtimedwait(&set, nullptr, &timeout), 0);
}

// ---------------------------------------------------------------------------------------------------

// Also one line on standard output, for whoever started the server with port 0.
absl::Status WritePorts(const Server& server, const std::string& path) {
  const nlohmann::json ports = {{"pid", getpid()},
                                {"port", server.port()},
                                {"metrics_port", server.metrics_port()},
                                {"health_port", server.health_port()}};
  std::printf("%s\n", ports.dump().c_str());
  std::fflush(stdout);
  if (path.empty()) return absl::OkStatus();
  // Renamed into place: a reader never sees half of it.
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream file(temporary);
  file << ports.dump() << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write --port_file=", path));
  }
  return absl::OkStatus();
}

// Where the query lane's format stops paying against the document lane's, on this machine.
void LogCrossovers(const ModelInfo& info, const LaneDescription& queries) {
  const std::string other(info.lanes[static_cast<int>(Lane::kDocument)].format->name);
  std::vector<std::string> shapes;
  for (const LinearPlanner::Crossover& crossover : queries.crossovers) {
    const std::string shape = absl::StrCat(crossover.shape.n, " x ", crossover.shape.k);
    if (crossover.up_to == 0) {
      shapes.push_back(absl::StrCat(shape, " never"));
    } else if (crossover.up_to == std::numeric_limits<int64_t>::max()) {
      shapes.push_back(absl::StrCat(shape, " always"));
    } else {
      shapes.push_back(absl::StrCat(shape, " up to ", crossover.up_to, " tokens"));
    }
  }
  Log("crossover: ", std::string(queries.format->name), " is no slower than ", other, " at ",
      absl::StrJoin(shapes, ", "));
}

void LogModel(const ModelInfo& info, const ServiceOptions& options) {
  for (absl::string_view reason : absl::StrSplit(info.passed_over, '\n', absl::SkipEmpty())) {
    Log("device auto passed over ", reason);
  }
  Log("model ", info.name, " revision ", info.revision.substr(0, 16), " (", info.spec.architecture,
      ", ", info.spec.layers.size(), " x ", info.spec.hidden, ", ", info.spec.max_tokens,
      " tokens) on ",
      absl::StrJoin(info.devices, ", ", [](std::string* to, const DeviceDescription& device) {
        absl::StrAppend(to, device.FullName(), " ", device.memory_bytes >> 20, " MiB");
      }));
  for (Lane lane : kAllLanes) {
    const LaneDescription& description = info.lanes[static_cast<int>(lane)];
    Log("lane ", std::string(LaneName(lane)), ": ", std::string(description.format->name), " (",
        description.method, "), kernels ", absl::StrJoin(description.kernels, " "), ", batches of ",
        description.limits.max_batch_tokens, " tokens, queue of ",
        description.limits.max_queue_tokens);
    if (!description.format_reason.empty()) {
      Log("lane ", std::string(LaneName(lane)), ": chose ", std::string(description.format->name),
          " for ", info.devices.front().name, ": ", description.format_reason);
    }
    if (!description.crossovers.empty()) LogCrossovers(info, description);
  }
  Log("limits: ", options.limits.max_inputs, " inputs, ", options.limits.max_text_bytes,
      " bytes a text, ", options.limits.max_message_bytes, " a request, ",
      options.limits.max_response_bytes, " a response, ", options.max_stream_tokens,
      " tokens a stream");
}

std::unique_ptr<const ServedModel> Serve(Runtime* runtime) {
  auto model = std::make_unique<ServedModel>();
  model->info = runtime->info();
  model->tokenizer = runtime->tokenizer();
  model->scheduler = &runtime->scheduler();
  model->submit = [runtime](std::shared_ptr<Job> job) { runtime->Submit(std::move(job)); };
  model->healthy = [runtime] { return runtime->healthy(); };
  return model;
}

int Run(const ServerFlags& flags) {
  const Time begin = Clock::now();
  BlockSignals();
#if GOOGLE_PROTOBUF_VERSION < 4022000
  google::protobuf::SetLogHandler(nullptr);  // a line for each string that is not UTF-8
#endif
  ServiceContext context(flags.service);
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Start(flags.server, &context);
  if (!server.ok()) {
    Log("error: ", std::string(server.status().message()));
    return 1;
  }
  if (absl::Status status = WritePorts(**server, flags.port_file); !status.ok()) {
    Log("error: ", std::string(status.message()));
    return 1;
  }
  Log("octavo-server ", flags.service.version, " loads ", flags.runtime.model_directory,
      ", listens on port ", (*server)->port(), ", metrics on ", (*server)->metrics_port(),
      ", health on ", (*server)->health_port() == 0 ? (*server)->port() : (*server)->health_port());

  ExitOnSignal<0>();  // nothing has been accepted yet
  absl::StatusOr<std::unique_ptr<Runtime>> runtime =
      Runtime::Load(flags.runtime, &context.metrics());
  absl::Status status = runtime.ok() ? (*runtime)->Start() : runtime.status();
  BlockSignals();
  if (!status.ok()) {
    Log("error: ", std::string(status.message()));
    return 1;
  }
  context.metrics().SetModel((*runtime)->info());
  context.metrics().SampleQueues(&(*runtime)->scheduler());
  context.SetModel(Serve(runtime->get()));
  (*server)->SetServing();
  LogModel((*runtime)->info(), flags.service);
  Log("SERVING after ", SecondsSince(begin), " s, ", (*runtime)->memory_bytes() >> 20,
      " MiB of weights and workspaces, ", ResidentBytes() >> 20, " MiB resident");

  int signal = 0;
  bool healthy = true;
  while (signal == 0 && healthy) {
    signal = WaitForSignal(kHealthInterval);
    healthy = (*runtime)->healthy();
    for (const std::string& loss : (*runtime)->TakeLosses()) Log("error: lost ", loss);
  }
  ExitOnSignal<-1>();  // a second signal ends the process at once
  const double grace = std::chrono::duration<double>(flags.drain_grace).count();
  if (signal != 0) {
    Log("signal ", signal, ": NOT_SERVING, still accepting calls for ", grace, " s");
  } else {
    Log("error: no device is left: NOT_SERVING, refusing calls for ", grace, " s, then ending");
  }
  // Meanwhile callers hear of it and turn to another server.
  (*server)->SetNotReady();
  std::this_thread::sleep_for(flags.drain_grace);
  const Time deadline = Clock::now() + flags.shutdown_limit;
  (*server)->Shutdown(deadline);
  context.pool().Stop();  // texts of cancelled calls may still be in it
  (*runtime)->Stop(deadline);
  context.metrics().SampleQueues(nullptr);
  server->reset();
  runtime->reset();
  Log("ended");
  return signal != 0 ? 0 : 1;
}

}  // namespace

int RunServer(int argc, char** argv, const Backend* backend) {
  // gRPC prints a line for each request it refuses; whoever wants them sets the variable.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  bool help = false, version = false;
  const absl::Status parsed = ParseCommandLine(argc, argv, &help, &version);
  if (help) {
    std::printf("octavo-server: text in, embedding vectors out, over gRPC\n\n%s",
                FlagsHelp("service/server_flags").c_str());
    return 0;
  }
  if (version) {
    std::printf("octavo-server %s\n", OCTAVO_VERSION);
    return 0;
  }
  absl::StatusOr<ServerFlags> flags =
      parsed.ok() ? ReadServerFlags() : absl::StatusOr<ServerFlags>(parsed);
  if (!flags.ok()) {
    std::fprintf(stderr, "octavo-server: %s\n", std::string(flags.status().message()).c_str());
    return kBadFlags;
  }
  flags->runtime.backend = backend;
  return Run(*flags);
}

}  // namespace octavo
