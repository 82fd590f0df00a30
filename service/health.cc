#include "service/health.h"

#include <utility>

namespace octavo {

HealthState::HealthState() {
  for (std::string_view name : {kHealthOverall, kHealthService, kHealthLiveness}) {
    serving_.emplace(name, false);
  }
}

void HealthState::Set(std::string_view name, bool serving) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto entry = serving_.find(name);
    if (entry == serving_.end() || entry->second == serving) return;
    entry->second = serving;
  }
  Notify();
}

void HealthState::SetAll(bool serving) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [name, value] : serving_) value = serving;
  }
  Notify();
}

std::optional<bool> HealthState::Get(std::string_view name) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto entry = serving_.find(name);
  if (entry == serving_.end()) return std::nullopt;
  return entry->second;
}

void HealthState::Add(const std::shared_ptr<HealthWatcher>& watcher) {
  std::lock_guard<std::mutex> lock(mutex_);
  watchers_.emplace(watcher.get(), watcher);
}

void HealthState::Remove(HealthWatcher* watcher) {
  std::lock_guard<std::mutex> lock(mutex_);
  watchers_.erase(watcher);
}

void HealthState::Notify() {
  std::vector<std::shared_ptr<HealthWatcher>> watchers;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [key, weak] : watchers_) {
      if (std::shared_ptr<HealthWatcher> watcher = weak.lock()) {
        watchers.push_back(std::move(watcher));
      }
    }
  }
  for (const std::shared_ptr<HealthWatcher>& watcher : watchers) watcher->OnHealthChanged();
}

}  // namespace octavo
