#include "tests/bench/serve_load.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "service/client/vectors.h"
#include "tests/eval/metrics.h"

namespace octavo::bench {
namespace {

constexpr double kLeastCosine = 0.9999;

double Milliseconds(ServeClock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

// The reason of an error's ErrorInfo, or the number of its code.
std::string FailureReason(const grpc::Status& status) {
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const auto& detail : details.details()) {
      google::rpc::ErrorInfo info;
      if (detail.UnpackTo(&info)) return info.reason();
    }
  }
  return std::string(absl::StatusCodeToString(static_cast<absl::StatusCode>(status.error_code())));
}

}  // namespace

std::unique_ptr<octavo::v1::EmbeddingService::Stub> ConnectAlone(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return octavo::v1::EmbeddingService::NewStub(
      grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments));
}

bool AnswerCheck::Agrees(const octavo::v1::EmbedResponse& response, int64_t row, size_t text) {
  if (response.vectors_size() != 1 || response.vectors(0).dimensions() != dimensions_ ||
      !client::CheckVectors(response.vectors(0), response.results_size()).ok() ||
      row >= response.results_size() || response.results(static_cast<int>(row)).has_error()) {
    return false;
  }
  std::vector<float> vector = client::DecodeRow(response.vectors(0), row);
  if (!std::all_of(vector.begin(), vector.end(), [](float v) { return std::isfinite(v); })) {
    return false;
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  if (first_[text].empty()) first_[text] = vector;
  return first_[text] == vector || eval::Cosine(first_[text], vector) >= kLeastCosine;
}

struct QueryLoad::Call {
  size_t text = 0;
  ServeClock::time_point scheduled;
  grpc::ClientContext context;
  octavo::v1::EmbedResponse response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<octavo::v1::EmbedResponse>> reader;
};

QueryLoad::QueryLoad(const std::string& server, std::vector<std::string> texts, uint32_t dimensions,
                     uint32_t seed)
    : texts_(std::move(texts)),
      check_(texts_.size(), dimensions),
      seed_(seed),
      stub_(ConnectAlone(server)) {}

QueryLoad::~QueryLoad() {
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) delete static_cast<Call*>(tag);
}

void QueryLoad::Send(ServeClock::time_point scheduled, std::chrono::milliseconds limit) {
  auto call = std::make_unique<Call>();
  call->text = next_text_++ % texts_.size();
  call->scheduled = scheduled;
  call->context.set_deadline(std::chrono::system_clock::now() + limit);
  octavo::v1::EmbedRequest request;
  request.add_inputs()->set_text(texts_[call->text]);
  request.mutable_options()->set_input_type(octavo::v1::INPUT_TYPE_QUERY);
  call->reader = stub_->AsyncEmbed(&call->context, request, &queue_);
  Call* tag = call.release();  // Receive deletes it
  tag->reader->Finish(&tag->response, &tag->status, tag);
}

void QueryLoad::Receive(QueryRun* run) {
  void* tag = nullptr;
  bool ok = false;
  if (!queue_.Next(&tag, &ok)) return;
  const ServeClock::time_point now = ServeClock::now();
  const std::unique_ptr<Call> call(static_cast<Call*>(tag));
  if (!call->status.ok()) {
    ++run->failures[FailureReason(call->status)];
    return;
  }
  run->milliseconds.push_back(Milliseconds(now - call->scheduled));
  const auto& execution = call->response.execution();
  run->queue_milliseconds.push_back(static_cast<double>(execution.queue_us()) / 1e3);
  run->compute_milliseconds.push_back(static_cast<double>(execution.compute_us()) / 1e3);
  run->wrong += !check_.Agrees(call->response, 0, call->text);
  if (call->response.results_size() == 1) run->tokens += call->response.results(0).tokens();
}

QueryRun QueryLoad::RunOpenLoop(double rate, double seconds, int64_t least_queries,
                                std::chrono::milliseconds limit) {
  // The schedule is made before the first query: nothing the server does can move it.
  std::mt19937 random(seed_);
  std::exponential_distribution<double> gap(rate);
  std::vector<double> starts;
  for (double at = gap(random); at < seconds || static_cast<int64_t>(starts.size()) < least_queries;
       at += gap(random)) {
    starts.push_back(at);
  }
  QueryRun run;
  run.scheduled = static_cast<int64_t>(starts.size());
  run.seconds = starts.empty() ? 0 : starts.back();
  int64_t late = 0;
  std::thread sender([&] {
    const ServeClock::time_point begin = ServeClock::now();
    for (const double start : starts) {
      const auto at = begin + std::chrono::duration_cast<ServeClock::duration>(
                                  std::chrono::duration<double>(start));
      std::this_thread::sleep_until(at);
      late += ServeClock::now() - at > std::chrono::milliseconds(1);
      Send(at, limit);
    }
  });
  for (int64_t i = 0; i < run.scheduled; ++i) Receive(&run);
  sender.join();
  run.late = late;
  return run;
}

QueryRun QueryLoad::RunOneByOne(int64_t queries, int64_t warm_up) {
  const std::chrono::milliseconds limit(30000);
  QueryRun run;
  next_text_ = 0;
  for (int64_t i = 0; i < warm_up + queries; ++i) {
    if (i == warm_up) run = QueryRun{.wrong = run.wrong};
    Send(ServeClock::now(), limit);
    Receive(&run);
  }
  run.scheduled = queries;
  return run;
}

double QueryLoad::RunClosedLoop(int outstanding, double seconds) {
  QueryRun run;
  const std::chrono::milliseconds limit(30000);
  const ServeClock::time_point begin = ServeClock::now();
  const auto end = begin + std::chrono::duration_cast<ServeClock::duration>(
                               std::chrono::duration<double>(seconds));
  for (int i = 0; i < outstanding; ++i) Send(begin, limit);
  for (int left = outstanding; left > 0;) {
    Receive(&run);
    if (ServeClock::now() < end) {
      Send(ServeClock::now(), limit);
    } else {
      --left;
    }
  }
  return static_cast<double>(run.milliseconds.size()) /
         (Milliseconds(ServeClock::now() - begin) / 1e3);
}

DocumentLoad::DocumentLoad(const std::string& server, std::vector<std::string> texts,
                           uint32_t dimensions, Options options)
    : texts_(std::move(texts)),
      options_(options),
      check_(texts_.size(), dimensions),
      stub_(ConnectAlone(server)),
      stream_(stub_->EmbedStream(&context_)),
      writer_([this] { Write(); }),
      reader_([this] { Read(); }) {}

DocumentLoad::~DocumentLoad() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  context_.TryCancel();
  writer_.join();
  reader_.join();
}

DocumentLoad::Count DocumentLoad::count() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return count_;
}

absl::Status DocumentLoad::status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return status_;
}

// Message k holds the texts from k * inputs_per_message on, round and round.
void DocumentLoad::Write() {
  octavo::v1::EmbedStreamRequest message;
  for (int64_t id = 0;; ++id) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock,
                    [&] { return stopping_ || sent_ - answered_ < options_.messages_in_flight; });
      if (stopping_) return;
      ++sent_;
    }
    message.Clear();
    message.set_id(static_cast<uint64_t>(id));
    auto* request = message.mutable_request();
    request->mutable_options()->set_input_type(octavo::v1::INPUT_TYPE_DOCUMENT);
    for (int i = 0; i < options_.inputs_per_message; ++i) {
      const size_t text = static_cast<size_t>(id * options_.inputs_per_message + i);
      request->add_inputs()->set_text(texts_[text % texts_.size()]);
    }
    if (!stream_->Write(message)) return;
  }
}

void DocumentLoad::Read() {
  octavo::v1::EmbedStreamResponse answer;
  while (stream_->Read(&answer)) {
    Count taken;
    for (int i = 0; i < options_.inputs_per_message; ++i) {
      const size_t text =
          answer.id() * static_cast<size_t>(options_.inputs_per_message) + static_cast<size_t>(i);
      if (answer.has_response() && check_.Agrees(answer.response(), i, text % texts_.size())) {
        ++taken.documents;
        taken.tokens += answer.response().results(i).tokens();
      } else {
        ++taken.wrong;
      }
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    ++answered_;
    count_.documents += taken.documents;
    count_.tokens += taken.tokens;
    count_.wrong += taken.wrong;
    changed_.notify_all();
  }
  const grpc::Status status = stream_->Finish();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!stopping_) {
    status_ = absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                           absl::StrCat("the document stream ended: ", status.error_message()));
    if (status_.ok()) status_ = absl::InternalError("the server ended the document stream");
  }
  stopping_ = true;
  changed_.notify_all();
}

}  // namespace octavo::bench
