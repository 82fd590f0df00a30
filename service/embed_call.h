// The life of one unary Embed call, apart from gRPC.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "service/embed_work.h"
#include "service/errors.h"
#include "service/service_context.h"

namespace octavo {

// The transport's side of a unary call.
class UnaryCall {
 public:
  virtual ~UnaryCall() = default;
  virtual Time deadline() const = 0;  // Time::max(): none
  // Exactly one of these, once, from any thread; the object may be gone when it returns.
  virtual void Respond(std::string response) = 0;
  virtual void Fail(const RequestError& error) = 0;
};

// Receives a call's bytes, admits, tokenizes, submits and finishes. Embed is all or nothing.
class EmbedCall : public std::enable_shared_from_this<EmbedCall> {
 public:
  // `context` and, until it has been finished, `call` outlive this.
  EmbedCall(ServiceContext* context, UnaryCall* call);

  // Once. `bytes` are not kept. May finish the call before it returns.
  void Start(std::string_view bytes);
  // The caller has gone or its deadline passed: finishes the call, and work not begun is dropped.
  // Any thread, any number of times.
  void OnCancel();

 private:
  std::optional<RequestError> Prepare(std::string_view bytes);
  void Tokenize();
  void OnJobDone(const Job& job);
  // False if the call had been finished already.
  bool Finish(const std::optional<RequestError>& error, std::string response);

  ServiceContext* const context_;
  UnaryCall* const call_;
  const Time received_;
  const std::shared_ptr<Job> job_;
  std::optional<EmbedWork> work_;
  std::atomic<int> lane_{-1};  // for metrics, once known
  int64_t admitted_tokens_ = 0;
  std::atomic<bool> finished_{false};
};

// GetInfo: the serialized response, or why not.
std::optional<RequestError> GetInfo(const ServiceContext& context, std::string_view bytes,
                                    std::string* response);

}  // namespace octavo
