// What grpc.health.v1 answers, apart from gRPC.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace octavo {

inline constexpr std::string_view kHealthOverall = "";
inline constexpr std::string_view kHealthService = "octavo.v1.EmbeddingService";
inline constexpr std::string_view kHealthLiveness = "liveness";

// Told that a status may have changed; reads it itself, so that the last word is never overtaken.
class HealthWatcher {
 public:
  virtual ~HealthWatcher() = default;
  virtual void OnHealthChanged() = 0;
};

// The three names above, NOT_SERVING until told otherwise. Thread-safe.
class HealthState {
 public:
  HealthState();

  void Set(std::string_view name, bool serving);
  void SetAll(bool serving);
  // Unset: an unknown name.
  std::optional<bool> Get(std::string_view name) const;

  // Watchers are called without a lock held.
  void Add(const std::shared_ptr<HealthWatcher>& watcher);
  void Remove(HealthWatcher* watcher);

 private:
  void Notify();

  mutable std::mutex mutex_;
  std::map<std::string, bool, std::less<>> serving_;
  std::map<HealthWatcher*, std::weak_ptr<HealthWatcher>> watchers_;
};

}  // namespace octavo
