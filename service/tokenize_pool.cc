#include "service/tokenize_pool.h"

#include <algorithm>
#include <utility>

namespace octavo {

TokenizePool::TokenizePool(int threads) {
  for (int i = 0; i < std::max(threads, 1); ++i) {
    threads_.emplace_back([this] { Run(/*queries_only=*/false); });
  }
  threads_.emplace_back([this] { Run(/*queries_only=*/true); });
}

TokenizePool::~TokenizePool() { Stop(); }

void TokenizePool::Post(Lane lane, std::function<void()> task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!stopping_) {
      tasks_[static_cast<int>(lane)].push_back(std::move(task));
      task = nullptr;
    }
  }
  if (task != nullptr) {
    task();
  } else {
    work_.notify_all();
  }
}

void TokenizePool::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void TokenizePool::Run(bool queries_only) {
  auto& queries = tasks_[static_cast<int>(Lane::kQuery)];
  auto& documents = tasks_[static_cast<int>(Lane::kDocument)];
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    work_.wait(lock, [&] {
      return stopping_ || !queries.empty() || (!queries_only && !documents.empty());
    });
    auto& tasks = queries.empty() && !queries_only ? documents : queries;
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
