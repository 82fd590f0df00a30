#include "service/service_context.h"

#include <utility>

#include "service/embed_stream.h"

namespace octavo {

bool StreamSet::Add(const std::shared_ptr<EmbedStream>& stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (draining_) return false;
  streams_.emplace(stream.get(), stream);
  return true;
}

void StreamSet::Remove(EmbedStream* stream) {
  std::lock_guard<std::mutex> lock(mutex_);
  streams_.erase(stream);
}

std::vector<std::shared_ptr<EmbedStream>> StreamSet::Alive() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<EmbedStream>> alive;
  alive.reserve(streams_.size());
  for (const auto& [key, weak] : streams_) {
    if (std::shared_ptr<EmbedStream> stream = weak.lock()) alive.push_back(std::move(stream));
  }
  return alive;
}

void StreamSet::Drain() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    draining_ = true;
  }
  for (const std::shared_ptr<EmbedStream>& stream : Alive()) stream->Drain();
}

void StreamSet::CheckWriteTimeouts(Time now) {
  for (const std::shared_ptr<EmbedStream>& stream : Alive()) stream->CheckWriteTimeout(now);
}

size_t StreamSet::size() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return streams_.size();
}

ServiceContext::ServiceContext(const ServiceOptions& options)
    : options_(options), metrics_(options.version), pool_(options.tokenize_threads) {}

void ServiceContext::SetModel(std::unique_ptr<const ServedModel> model) {
  owned_model_ = std::move(model);
  model_.store(owned_model_.get(), std::memory_order_release);
}

void ServiceContext::Drain() {
  draining_.store(true, std::memory_order_relaxed);
  streams_.Drain();
}

std::optional<RequestError> ServiceContext::NotReady() const {
  RequestError error;
  const ServedModel* model = this->model();
  if (draining()) {
    error.reason = Reason::kDraining;
    error.message = "the server is going away; try another";
  } else if (model == nullptr) {
    error.reason = Reason::kLoading;
    error.message = "the model is still loading; try again soon";
  } else if (!model->healthy()) {
    error.reason = Reason::kNoDevice;
    error.message = "no device is left to compute on";
  } else {
    return std::nullopt;
  }
  return error;
}

}  // namespace octavo
