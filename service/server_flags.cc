#include "service/server_flags.h"

#include <algorithm>
#include <thread>

#include "absl/flags/flag.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "service/http_server.h"

ABSL_FLAG(std::string, model, "", "Hugging Face model directory to serve (required)");
ABSL_FLAG(std::string, listen, "127.0.0.1:50051", "HOST:PORT of the gRPC service; port 0: any");
ABSL_FLAG(std::string, metrics_listen, "127.0.0.1:9464",
          "HOST:PORT of GET /metrics; empty: not served");
ABSL_FLAG(std::string, health_listen, "",
          "HOST:PORT that serves grpc.health.v1 alone, for probes; empty: only beside the service");
ABSL_FLAG(bool, insecure_listen_anywhere, false,
          "allow --listen beyond this machine, unencrypted and open to anyone who reaches it");
ABSL_FLAG(std::string, port_file, "", "write the ports listened on to this file, as JSON");

ABSL_FLAG(std::string, device, "auto",
          "device to compute on: auto, cpu, cuda:0; several: cuda:0,cuda:1");
ABSL_FLAG(int, threads, 0, "CPU threads of the engine; 0: every processor available");
ABSL_FLAG(std::string, kernel_plan, "",
          "file of the measured plan: reused if it fits, else written");
ABSL_FLAG(std::string, kernel, "", "force linear kernels by name, comma-separated");
ABSL_FLAG(std::string, attention_kernel, "", "force an attention kernel by name");
ABSL_FLAG(int, document_step_us, 0,
          "longest document work between looks for queries; 0: the device's default");
ABSL_FLAG(double, document_min_share, 0.2, "share of the device documents keep under queries");

ABSL_FLAG(std::string, query_format, "auto",
          "format of the query lane; auto: what answers soonest on the device (CPU a8w8_int8, CUDA "
          "a16w4_int4)");
ABSL_FLAG(std::string, query_method, "", "rounding of its weights: rtn, hqq; empty: the format's");
ABSL_FLAG(int64_t, query_max_batch_tokens, 0, "tokens in a query batch; 0: the default");
ABSL_FLAG(int64_t, query_max_queue_tokens, 0, "tokens the query lane admits; 0: the default");
ABSL_FLAG(std::string, document_format, "a8w8_int8", "format of the document lane");
ABSL_FLAG(std::string, document_method, "",
          "rounding of its weights: rtn, hqq; empty: the format's");
ABSL_FLAG(int64_t, document_max_batch_tokens, 0,
          "tokens in a document batch; 0: the device's default (CPU 2048, CUDA 32768)");
ABSL_FLAG(int64_t, document_max_queue_tokens, 0, "tokens the document lane admits; 0: the default");

ABSL_FLAG(int64_t, max_inputs, 1024, "inputs in a request");
ABSL_FLAG(int64_t, max_text_bytes, 1 << 20, "bytes of one text");
ABSL_FLAG(int64_t, max_message_bytes, 16 << 20, "bytes of one request");
ABSL_FLAG(int64_t, max_response_bytes, 4 << 20,
          "bytes of one response; clients refuse more than 4 MiB unless told otherwise");
ABSL_FLAG(int64_t, max_stream_tokens, 65536, "tokens of one stream admitted and not yet answered");
ABSL_FLAG(double, query_stream_share, 0.5, "share of the query lane one stream may fill");
ABSL_FLAG(double, write_timeout_seconds, 30,
          "cancel a stream whose client reads nothing this long");
ABSL_FLAG(int, tokenize_threads, 0, "threads that tokenize long texts; 0: by processors");

ABSL_FLAG(double, drain_grace_seconds, 5,
          "after SIGTERM, still accept calls this long while health says NOT_SERVING; without a "
          "device left, refuse them this long");
ABSL_FLAG(double, shutdown_seconds, 30, "then finish what was accepted within this time");

namespace octavo {
namespace {

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

absl::Status Bad(std::string_view flag, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("--", std::string(flag), ": ", std::string(why)));
}

template <typename T>
absl::Status CheckRange(std::string_view flag, T value, T low, T high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Bad(flag, absl::StrCat(value, " is not between ", low, " and ", high));
}

absl::Status CheckRanges() {
  constexpr int64_t kMost = int64_t{1} << 30;
  constexpr double kDay = 86400;
  for (const absl::Status& status : {
           CheckRange("threads", absl::GetFlag(FLAGS_threads), 0, 1024),
           CheckRange("tokenize_threads", absl::GetFlag(FLAGS_tokenize_threads), 0, 256),
           CheckRange("document_step_us", absl::GetFlag(FLAGS_document_step_us), 0, 1'000'000),
           CheckRange("document_min_share", absl::GetFlag(FLAGS_document_min_share), 0.0, 0.95),
           CheckRange("query_stream_share", absl::GetFlag(FLAGS_query_stream_share), 0.01, 1.0),
           CheckRange<int64_t>("query_max_batch_tokens",
                               absl::GetFlag(FLAGS_query_max_batch_tokens), 0, kMost),
           CheckRange<int64_t>("query_max_queue_tokens",
                               absl::GetFlag(FLAGS_query_max_queue_tokens), 0, kMost),
           CheckRange<int64_t>("document_max_batch_tokens",
                               absl::GetFlag(FLAGS_document_max_batch_tokens), 0, kMost),
           CheckRange<int64_t>("document_max_queue_tokens",
                               absl::GetFlag(FLAGS_document_max_queue_tokens), 0, kMost),
           CheckRange<int64_t>("max_inputs", absl::GetFlag(FLAGS_max_inputs), 1, 1'000'000),
           CheckRange<int64_t>("max_text_bytes", absl::GetFlag(FLAGS_max_text_bytes), 1, kMost),
           CheckRange<int64_t>("max_message_bytes", absl::GetFlag(FLAGS_max_message_bytes), 1024,
                               kMost),
           CheckRange<int64_t>("max_response_bytes", absl::GetFlag(FLAGS_max_response_bytes), 4096,
                               kMost),
           CheckRange<int64_t>("max_stream_tokens", absl::GetFlag(FLAGS_max_stream_tokens), 1,
                               kMost),
           CheckRange("write_timeout_seconds", absl::GetFlag(FLAGS_write_timeout_seconds), 0.1,
                      kDay),
           CheckRange("drain_grace_seconds", absl::GetFlag(FLAGS_drain_grace_seconds), 0.0, kDay),
           CheckRange("shutdown_seconds", absl::GetFlag(FLAGS_shutdown_seconds), 0.0, kDay),
       }) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status CheckAddress(std::string_view flag, const std::string& address, bool only_loopback) {
  if (address.empty()) return absl::OkStatus();
  std::string host;
  int port = 0;
  if (absl::Status status = SplitAddress(address, &host, &port); !status.ok()) {
    return Bad(flag, std::string(status.message()));
  }
  if (only_loopback && !IsLoopback(host)) {
    return Bad(flag, absl::StrCat(address,
                                  " is reachable from other machines and connections are not "
                                  "encrypted; --insecure_listen_anywhere allows that"));
  }
  return absl::OkStatus();
}

void ReadLane(Lane lane, const std::string& format, const std::string& method, int64_t batch,
              int64_t queue, RuntimeOptions* options) {
  LaneOptions& out = options->lanes[static_cast<int>(lane)];
  out.format = format;
  out.method = method;
  if (batch > 0) out.max_batch_tokens = batch;
  if (queue > 0) out.max_queue_tokens = queue;
}

}  // namespace

absl::StatusOr<ServerFlags> ReadServerFlags() {
  ServerFlags flags;
  if (absl::GetFlag(FLAGS_model).empty()) {
    return Bad("model", "a model directory is needed; deploy/fetch_model.sh downloads one");
  }
  if (absl::GetFlag(FLAGS_listen).empty()) return Bad("listen", "must be HOST:PORT");
  const bool anywhere = absl::GetFlag(FLAGS_insecure_listen_anywhere);
  for (const absl::Status& status :
       {CheckRanges(), CheckAddress("listen", absl::GetFlag(FLAGS_listen), !anywhere),
        CheckAddress("metrics_listen", absl::GetFlag(FLAGS_metrics_listen), false),
        CheckAddress("health_listen", absl::GetFlag(FLAGS_health_listen), false)}) {
    if (!status.ok()) return status;
  }
  flags.server = {absl::GetFlag(FLAGS_listen), absl::GetFlag(FLAGS_metrics_listen),
                  absl::GetFlag(FLAGS_health_listen)};

  flags.runtime = DefaultRuntimeOptions();
  flags.runtime.model_directory = absl::GetFlag(FLAGS_model);
  ReadLane(Lane::kQuery, absl::GetFlag(FLAGS_query_format), absl::GetFlag(FLAGS_query_method),
           absl::GetFlag(FLAGS_query_max_batch_tokens), absl::GetFlag(FLAGS_query_max_queue_tokens),
           &flags.runtime);
  ReadLane(Lane::kDocument, absl::GetFlag(FLAGS_document_format),
           absl::GetFlag(FLAGS_document_method), absl::GetFlag(FLAGS_document_max_batch_tokens),
           absl::GetFlag(FLAGS_document_max_queue_tokens), &flags.runtime);
  flags.runtime.document_min_share = absl::GetFlag(FLAGS_document_min_share);
  flags.runtime.device = absl::GetFlag(FLAGS_device);
  flags.runtime.threads = absl::GetFlag(FLAGS_threads);
  flags.runtime.document_step_us = absl::GetFlag(FLAGS_document_step_us);
  flags.runtime.kernel_plan = absl::GetFlag(FLAGS_kernel_plan);
  flags.runtime.kernel = absl::GetFlag(FLAGS_kernel);
  flags.runtime.attention_kernel = absl::GetFlag(FLAGS_attention_kernel);

  ServiceOptions& service = flags.service;
  service.limits = {absl::GetFlag(FLAGS_max_inputs), absl::GetFlag(FLAGS_max_text_bytes),
                    absl::GetFlag(FLAGS_max_message_bytes),
                    absl::GetFlag(FLAGS_max_response_bytes)};
  service.max_stream_tokens = absl::GetFlag(FLAGS_max_stream_tokens);
  service.query_stream_share = absl::GetFlag(FLAGS_query_stream_share);
  service.write_timeout = Seconds(absl::GetFlag(FLAGS_write_timeout_seconds));
  service.tokenize_threads = absl::GetFlag(FLAGS_tokenize_threads);
  if (service.tokenize_threads == 0) {
    // One core tokenizes for several that compute.
    service.tokenize_threads = std::clamp<int>(std::thread::hardware_concurrency() / 8, 1, 8);
  }
  service.version = OCTAVO_VERSION;

  flags.drain_grace = Seconds(absl::GetFlag(FLAGS_drain_grace_seconds));
  flags.shutdown_limit = Seconds(absl::GetFlag(FLAGS_shutdown_seconds));
  flags.port_file = absl::GetFlag(FLAGS_port_file);
  return flags;
}

}  // namespace octavo
