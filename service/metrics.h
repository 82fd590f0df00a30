// Every metric Octavo exports. Families and label values are fixed when this
// is built or when the model is known; children are resolved once and start at 0.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/observer.h"
#include "runtime/runtime.h"
#include "runtime/scheduler.h"
#include "service/errors.h"

namespace octavo {

enum class Rpc : uint8_t { kEmbed, kEmbedStream, kGetInfo };
inline constexpr int kRpcs = 3;
std::string_view RpcName(Rpc rpc);  // "octavo.v1.EmbeddingService/Embed"

// Where a request's time goes, and where it was when its caller cancelled.
enum class Stage : uint8_t { kTokenize, kQueue, kCompute, kRespond };
inline constexpr int kStages = 4;
std::string_view StageName(Stage stage);  // "tokenize", ...

// Edges, in seconds, of every duration histogram: part of the contract.
const prometheus::Histogram::BucketBoundaries& DurationBuckets();

// Thread-safe. All but Text and SetModel are cheap enough for the hot path.
class Metrics : public Observer {
 public:
  explicit Metrics(std::string_view version);
  ~Metrics() override;

  // Once, when the model has been loaded and warmed up: adds the children that name formats and
  // devices, whose sensors are read at each Text() from then on. Batches reported earlier are not
  // traffic and are not counted.
  void SetModel(const ModelInfo& info);
  void SetReady(bool ready);
  // Samples queue gauges at each Text(); `scheduler` outlives this or is replaced by null.
  void SampleQueues(const Scheduler* scheduler);

  // A unary call or a stream message; `lane` is unset where the request did not say a valid one.
  void RequestBegan(Rpc rpc);
  void RequestEnded(Rpc rpc, std::optional<Lane> lane, absl::StatusCode code, Duration duration);
  void StageTook(Stage stage, Lane lane, Duration duration);
  void StreamBegan();
  void StreamEnded(Duration duration);
  void StreamTokens(Lane lane, int64_t change);
  // Refused for want of room or of a server that is ready.
  void Rejected(std::optional<Lane> lane, Reason reason);
  void Cancelled(Lane lane, Stage stage);
  void TruncatedInputs(Lane lane, int64_t inputs);

  void OnBatch(const BatchReport& report) override;
  void OnDropped(Lane lane, const absl::Status& status) override;
  void OnDeviceError(std::string_view device, const absl::Status& status) override;

  // The Prometheus text format 0.0.4.
  std::string Text() const;

 private:
  struct Families;
  struct Children;

  // Called while this is built.
  void AddRequestMetrics();
  void AddLaneMetrics();

  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<Families> families_;
  std::unique_ptr<Children> children_;
  std::atomic<bool> model_known_{false};
  std::atomic<const Scheduler*> scheduler_{nullptr};
};

}  // namespace octavo
