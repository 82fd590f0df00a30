// Calls that stay open for as long as their client likes and have nothing to finish (health Watch,
// reflection): ended at shutdown, so that they do not hold it for its whole deadline.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace octavo {

class OpenCall {
 public:
  virtual ~OpenCall() = default;
  // Ends the call UNAVAILABLE, soon. Any thread, any number of times.
  virtual void End() = 0;
};

// Thread-safe.
class OpenCalls {
 public:
  // After EndAll the call is ended at once.
  void Add(const std::shared_ptr<OpenCall>& call) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!ended_) {
        calls_.emplace(call.get(), call);
        return;
      }
    }
    call->End();
  }

  void Remove(OpenCall* call) {
    std::lock_guard<std::mutex> lock(mutex_);
    calls_.erase(call);
  }

  void EndAll() {
    std::vector<std::shared_ptr<OpenCall>> calls;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ended_ = true;
      for (const auto& [key, weak] : calls_) {
        if (std::shared_ptr<OpenCall> call = weak.lock()) calls.push_back(std::move(call));
      }
    }
    for (const std::shared_ptr<OpenCall>& call : calls) call->End();
  }

 private:
  std::mutex mutex_;
  std::map<OpenCall*, std::weak_ptr<OpenCall>> calls_;
  bool ended_ = false;
};

}  // namespace octavo
