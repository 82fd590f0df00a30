// Documents through EmbedStream: several messages in flight, each answered exactly once, sent
// again when a server goes away, and handed back in the order they came.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "service/client/connection.h"
#include "service/client/documents.h"

namespace octavo::client {

struct BulkOptions {
  int inputs_per_message = 32;
  int messages_in_flight = 32;
  int64_t message_bytes = 1 << 20;  // of text in one message, unless a single text is larger
  uint32_t dimensions = 0;          // 0: the model's
  std::string revision;             // that every answer must carry; empty: the first answer's
  std::string format;               // likewise
  // How long to keep trying while nothing is answered.
  std::chrono::milliseconds retry_limit{60000};
  std::chrono::milliseconds first_backoff{100};
  // Set by anyone, a signal handler too: the run ends CANCELLED soon. May be null.
  const std::atomic<bool>* interrupted = nullptr;
};

// What became of one document: a vector of unit length, or a rejection.
struct BulkOutcome {
  Document document;
  std::vector<float> vector;  // empty if rejected
  int64_t tokens = 0;
  std::optional<Rejection> rejection;
};

struct BulkResult {
  std::string model;
  std::string revision;
  std::string format;  // of the document lane, as the answers name it
};

// Embeds every document `next` gives until it gives none, and calls `finished` once for each, in
// that order. `next` is called by another thread than `finished`; each by one thread at a time.
// Memory is bounded by a few messages in flight. An error of `next` or `finished` ends the run.
//
// A message that ends UNAVAILABLE or RESOURCE_EXHAUSTED, and whatever is unanswered when the stream
// does, is sent again with growing delays. A message the server refuses for another reason is cut
// in two, until the documents to blame stand alone and are rejected. FAILED_PRECONDITION if the
// answers' revision or format changes: an index never mixes them.
absl::StatusOr<BulkResult> EmbedInBulk(
    const Connection& connection, const BulkOptions& options,
    const std::function<absl::StatusOr<std::optional<Document>>()>& next,
    const std::function<absl::Status(BulkOutcome)>& finished);

}  // namespace octavo::client
