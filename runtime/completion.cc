#include "runtime/completion.h"

#include <utility>

namespace octavo {

void CallDone(std::shared_ptr<Job> job) {
  // Moved out: what `done` holds (a call, its buffers) goes with it, even if the job lives on.
  const std::function<void(Job&)> done = std::exchange(job->done, nullptr);
  if (done) done(*job);
}

CompletionThread::CompletionThread() : thread_([this] { Run(); }) {}

CompletionThread::~CompletionThread() { Stop(); }

void CompletionThread::Complete(std::shared_ptr<Job> job) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_) {
      jobs_.push_back(std::move(job));
      job = nullptr;
    }
  }
  if (job == nullptr) {
    work_.notify_one();
  } else {
    CallDone(std::move(job));
  }
}

void CompletionThread::Complete(std::vector<std::shared_ptr<Job>> jobs) {
  if (jobs.empty()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_) {
      for (std::shared_ptr<Job>& job : jobs) jobs_.push_back(std::move(job));
      jobs.clear();
    }
  }
  if (jobs.empty()) {
    work_.notify_one();
    return;
  }
  for (std::shared_ptr<Job>& job : jobs) CallDone(std::move(job));
}

void CompletionThread::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    work_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) break;
    std::deque<std::shared_ptr<Job>> jobs = std::exchange(jobs_, {});
    lock.unlock();
    for (std::shared_ptr<Job>& job : jobs) CallDone(std::move(job));
    lock.lock();
  }
  ended_ = true;
}

void CompletionThread::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  std::lock_guard<std::mutex> lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

}  // namespace octavo
