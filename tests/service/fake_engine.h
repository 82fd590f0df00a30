// A served model without a model: the real scheduler and completion thread, an engine that returns
// vectors made from the ids, and knobs to make it misbehave. A tokenizer of space-separated words.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "runtime/completion.h"
#include "runtime/observer.h"
#include "runtime/runtime.h"
#include "service/service_context.h"

namespace octavo {

inline constexpr int kFakeHidden = 16;
inline constexpr int kFakeVocabulary = 1000;
inline constexpr int kFakeMaxTokens = 12;
inline constexpr int kFakeFirst = 1, kFakeLast = 2;  // special tokens

// Model "fake" of the sizes above, revision "abc123", normalized, prompts "query" ("query: ", the
// default of queries) and "code" ("code: "); query lane f32, document lane a8w8_int8.
ModelInfo FakeModelInfo();
// The id of a word; words may not be empty.
int32_t FakeId(std::string_view word);
// What Encode gives without a limit.
std::vector<int32_t> FakeIds(std::string_view text);
// The pooled row of some ids: [kFakeHidden], finite, not normalized.
std::vector<float> FakePooled(const std::vector<int32_t>& ids);
// FakePooled, normalized: what a default request is answered with.
std::vector<float> FakeVector(std::string_view prompted_text);

class FakeEngine {
 public:
  // `observer` may be null.
  explicit FakeEngine(const ModelInfo& info = FakeModelInfo(), Observer* observer = nullptr);
  ~FakeEngine();

  // This outlives what is returned.
  std::unique_ptr<const ServedModel> Serve();
  Scheduler& scheduler() { return scheduler_; }

  // Before a batch computes it waits here while the engine hangs.
  void SetHang(bool hang);
  // True once a batch waits in the hang.
  bool WaitUntilHung();
  void SetDelay(Duration delay) { delay_ns_ = delay.count(); }
  void SetFailing(bool failing) { failing_ = failing; }  // batches end UNAVAILABLE
  void SetNonfinite(bool bad) { nonfinite_ = bad; }      // their jobs end INTERNAL
  void SetHealthy(bool healthy) { healthy_ = healthy; }

  int64_t computed_inputs() const { return computed_inputs_; }
  int64_t dropped_jobs() const { return dropped_jobs_; }
  // The texts' ids ever computed, in batch order.
  std::vector<std::vector<int32_t>> computed() const;

  // No more submissions; what is queued is computed. Idempotent.
  void Stop();

 private:
  void Loop();
  void Compute(const Batch& batch);
  void Complete(std::vector<std::shared_ptr<Job>> jobs);

  const ModelInfo info_;
  Observer* const observer_;
  CompletionThread completion_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int64_t wakes_ = 0;
  bool hang_ = false;
  bool hung_ = false;
  bool stopping_ = false;
  std::vector<std::vector<int32_t>> computed_;
  Scheduler scheduler_;
  std::atomic<int64_t> delay_ns_{0};
  std::atomic<bool> failing_{false};
  std::atomic<bool> nonfinite_{false};
  std::atomic<bool> healthy_{true};
  std::atomic<int64_t> computed_inputs_{0};
  std::atomic<int64_t> dropped_jobs_{0};
  std::thread thread_;
};

}  // namespace octavo
