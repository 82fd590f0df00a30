#include "service/tokenize_pool.h"

#include <algorithm>
#include <utility>

namespace octavo {

TokenizePool::TokenizePool(int threads) {
  for (int i = 0; i < std::max(threads, 1); ++i) threads_.emplace_back([this] { Run(); });
}

TokenizePool::~TokenizePool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TokenizePool::Post(Lane lane, std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    tasks_[static_cast<int>(lane)].push_back(std::move(task));
  }
  work_.notify_one();
}

void TokenizePool::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    work_.wait(lock, [&] { return stopping_ || !tasks_[0].empty() || !tasks_[1].empty(); });
    static_assert(static_cast<int>(Lane::kQuery) == 0, "queries first");
    auto& tasks = tasks_[0].empty() ? tasks_[1] : tasks_[0];
    if (tasks.empty()) return;
    std::function<void()> task = std::move(tasks.front());
    tasks.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // what it holds is released without the lock
    lock.lock();
  }
}

}  // namespace octavo
