// A scheduler driven through virtual time by virtual clients and virtual engines, with every
// invariant that holds at all times checked at every step. Nothing here reads a clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "runtime/scheduler.h"

namespace octavo {

// What one client sends at one time.
struct Arrival {
  Time at{};
  Lane lane = Lane::kQuery;
  std::vector<int> lengths;           // tokens of each input
  double estimate = 1;                // admitted tokens over real ones, at least 1
  Duration tokenizing{0};             // admission until Submit
  Duration deadline{0};               // after `at`; 0: none
  Duration cancel_after{0};           // after `at`; 0: never
  bool release_if_cancelled = false;  // a cancel before Submit ends in Release, else in Submit
  bool stream = false;                // waits for room
  int client = 0;
};

// How long virtual devices take.
struct Costs {
  Duration document_unit = std::chrono::milliseconds(1);
  int64_t document_unit_tokens = 32;
  double document_jitter = 0.1;  // a unit takes up to that much more or less
  Duration query_batch = std::chrono::microseconds(400);
  Duration query_token = std::chrono::microseconds(15);
};

// A client that keeps `window` jobs in flight: it sends the next as soon as one is answered, or
// after the retry delay when one is refused.
struct Greedy {
  int window = 0;
  Arrival job;
};

struct Scenario {
  std::string name;
  SchedulerOptions options;
  Costs costs;
  uint64_t seed = 1;
  std::vector<Arrival> arrivals;
  std::vector<Greedy> greedy;
  Time end{};                // greedy clients send nothing after this
  Time stop = Time::max();   // Scheduler::Stop
  Time drain = Time::max();  // Scheduler::Drain
};

// What became of an arrival.
struct Outcome {
  Arrival arrival;
  std::shared_ptr<Job> job;
  Verdict verdict = Verdict::kAdmitted;
  Duration estimated_wait{0};
  Duration retry_delay{0};
  uint64_t ticket = 0;  // not 0: waited for room
  bool wait_cancelled = false;
  bool admitted = false;
  bool submitted = false;
  bool released = false;
  int answers = 0;  // refusals, cancelled waits, releases and `done` together
  Time admitted_at{};
  Time submitted_at{};
  Time begun_at = Time::max();
  Time answered_at{};
  std::vector<int> computed;  // times each input was in a batch
  // Device time each lane had spent when the job was submitted and when it began.
  Duration spent_at_submit[kLanes]{};
  Duration spent_at_begin[kLanes]{};
};

// A stretch in which, whenever an engine looked, queries were queued and documents had work.
struct Contention {
  Duration spent[kLanes]{};
};

class Simulation {
 public:
  explicit Simulation(Scenario scenario);
  ~Simulation();

  // Runs until nothing is left to happen.
  void Run();

  const std::vector<std::unique_ptr<Outcome>>& outcomes() const { return outcomes_; }
  const std::vector<Contention>& contentions() const { return contentions_; }
  Duration spent(Lane lane) const { return spent_[static_cast<int>(lane)]; }
  Duration longest(Lane lane) const { return longest_[static_cast<int>(lane)]; }
  Time now() const { return now_; }
  const Scheduler& scheduler() const { return scheduler_; }
  int batches() const { return batches_; }
  // Every decision, in order: equal for equal scenarios.
  const std::string& log() const { return log_; }

 private:
  struct Engine {
    bool busy = false;
    std::optional<Batch> documents;
    int64_t tokens_left = 0;
    Duration document_compute{0};
    // The step now running.
    Lane lane = Lane::kQuery;
    Time begun{};
  };
  struct Event {
    Time at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Event& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  void At(Time time, std::function<void()> run);
  void Arrive(const Arrival& arrival, const Greedy* greedy);
  void Admitted(Outcome* outcome);
  void Cancel(Outcome* outcome);
  void Submit(Outcome* outcome);
  void Answer(Outcome* outcome);
  void AnswerJobs(const std::vector<std::shared_ptr<Job>>& jobs);
  void Turn(Engine* engine);
  void Begin(const Batch& batch);
  void RunQueries(Engine* engine, Batch batch);
  void RunDocumentUnit(Engine* engine);
  void Spend(Engine* engine, Lane lane, Duration busy, std::function<void()> then);
  void SpentSoFar(Duration (&spent)[kLanes]) const;
  void CheckBounds();

  const Scenario scenario_;
  std::mt19937_64 random_;
  Time now_{};
  uint64_t next_order_ = 0;
  std::priority_queue<Event> events_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Engine>> engines_;
  std::vector<std::unique_ptr<Outcome>> outcomes_;
  std::map<const Job*, Outcome*> by_job_;
  std::map<const Outcome*, const Greedy*> greedy_of_;
  uint64_t last_ticket_[kLanes]{};                   // admitted after waiting
  std::pair<Time, size_t> last_begun_[kLanes]{};     // submit time, input
  std::vector<const Job*> submitted_order_[kLanes];  // FIFO still to begin
  size_t next_to_begin_[kLanes]{};
  int64_t largest_estimate_ = 0;
  bool stopped_ = false;
  Duration spent_[kLanes]{};
  Duration longest_[kLanes]{};
  bool contended_ = false;
  std::vector<Contention> contentions_;
  int batches_ = 0;
  std::string log_;
};

}  // namespace octavo
