// Traces of whole servers through the scheduler: seeded arrivals, virtual time.
#include "tests/runtime/scheduler_simulation.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Time kStart{seconds(100)};

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

Scenario Base(const std::string& name, uint64_t seed, double share = 0.2, int engines = 1) {
  Scenario scenario;
  scenario.name = name;
  scenario.seed = seed;
  scenario.options.lanes[static_cast<int>(Lane::kQuery)] = {2048, 128};
  scenario.options.lanes[static_cast<int>(Lane::kDocument)] = {4096, 512};
  scenario.options.document_min_share = share;
  scenario.options.engines = engines;
  scenario.end = kStart + seconds(5);
  return scenario;
}

// Random traffic of one client, drawn from a scenario's seed.
class Traffic {
 public:
  explicit Traffic(uint64_t seed) : random_(seed * 7919 + 17) {}

  int Int(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  double Real(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  bool Chance(double probability) { return Real(0, 1) < probability; }

  Arrival Query() {
    Arrival arrival;
    arrival.lane = Lane::kQuery;
    arrival.lengths = {Int(5, 30)};
    arrival.estimate = Real(1, 1.5);
    arrival.tokenizing = microseconds(Int(5, 200));
    return arrival;
  }
  Arrival Documents(int most_inputs = 4) {
    Arrival arrival;
    arrival.lane = Lane::kDocument;
    for (int i = Int(1, most_inputs); i > 0; --i) arrival.lengths.push_back(Int(20, 250));
    arrival.estimate = Real(1, 1.5);
    arrival.tokenizing = microseconds(Int(20, 2000));
    return arrival;
  }

  // Appends arrivals made by `make` at `rate` a second.
  template <typename Make>
  void Poisson(Scenario* scenario, double rate, Make make) {
    std::exponential_distribution<double> gap(rate);
    for (double t = gap(random_);; t += gap(random_)) {
      const Time at =
          kStart + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(t));
      if (at >= scenario->end) return;
      Arrival arrival = make();
      arrival.at = at;
      scenario->arrivals.push_back(arrival);
    }
  }

 private:
  std::mt19937_64 random_;
};

Greedy Saturating(Arrival job, int window) {
  job.at = kStart;
  job.estimate = 1.2;
  job.tokenizing = microseconds(10);
  return {window, job};
}

bool Lossless(const Simulation& simulation) {
  return std::all_of(simulation.outcomes().begin(), simulation.outcomes().end(),
                     [](const auto& outcome) { return outcome->job->status.ok(); });
}

// Nothing lost, nothing answered twice, every answer the right one.
void CheckAnswers(const Scenario& scenario, const Simulation& simulation) {
  for (const auto& outcome : simulation.outcomes()) {
    const Job& job = *outcome->job;
    ASSERT_EQ(outcome->answers, 1);
    if (!outcome->submitted) continue;
    switch (job.status.code()) {
      case absl::StatusCode::kOk:
        EXPECT_THAT(outcome->computed, ::testing::Each(1));
        EXPECT_LE(outcome->begun_at, outcome->answered_at);
        break;
      case absl::StatusCode::kCancelled:
        EXPECT_TRUE(job.cancelled);
        break;
      case absl::StatusCode::kDeadlineExceeded:
        EXPECT_LE(job.deadline, outcome->answered_at);
        break;
      case absl::StatusCode::kUnavailable:
        EXPECT_GE(outcome->answered_at, std::min(scenario.stop, scenario.drain));
        break;
      default:
        ADD_FAILURE() << job.status;
    }
    if (!job.status.ok()) {
      EXPECT_THAT(outcome->computed, ::testing::Contains(0)) << "all computed, yet not OK";
    }
  }
  for (Lane lane : kAllLanes) {
    const LaneSnapshot snapshot = simulation.scheduler().Snapshot(lane, simulation.now());
    EXPECT_EQ(snapshot.queue_tokens, 0);
    EXPECT_EQ(snapshot.queue_requests, 0);
  }
  EXPECT_FALSE(simulation.scheduler().QueryWaiting());
}

double Ratio(const Scenario& scenario) {
  const double share = scenario.options.document_min_share;
  return share / (1 - share);
}

// A query waits for the unit under way, the queries before it, and what those owe to documents.
// Holds on one engine.
void CheckQueryWaits(const Scenario& scenario, const Simulation& simulation) {
  const double unit = Seconds(simulation.longest(Lane::kDocument));
  const double batch = Seconds(simulation.longest(Lane::kQuery));
  for (const auto& outcome : simulation.outcomes()) {
    if (outcome->arrival.lane != Lane::kQuery || outcome->begun_at == Time::max()) continue;
    double spent[kLanes];
    for (int l = 0; l < kLanes; ++l) {
      spent[l] = Seconds(outcome->spent_at_begin[l] - outcome->spent_at_submit[l]);
    }
    EXPECT_NEAR(Seconds(outcome->begun_at - outcome->submitted_at), spent[0] + spent[1], 1e-8)
        << "the device was idle while a query waited";
    EXPECT_LE(spent[static_cast<int>(Lane::kDocument)],
              Ratio(scenario) * (spent[static_cast<int>(Lane::kQuery)] + batch) + 3 * unit);
  }
}

// While both lanes have work documents get their share, and no more than that. Holds on one engine.
void CheckShare(const Scenario& scenario, const Simulation& simulation) {
  const double unit = Seconds(simulation.longest(Lane::kDocument));
  const double batch = Seconds(simulation.longest(Lane::kQuery));
  for (const Contention& contention : simulation.contentions()) {
    const double earned = Ratio(scenario) * Seconds(contention.spent[0]);
    const double spent = Seconds(contention.spent[1]);
    EXPECT_GE(spent, earned - Ratio(scenario) * batch - 2 * unit);
    // Units are dealt by their mean length: one that turns out longer is not charged back.
    EXPECT_LE(spent, 1.03 * earned + Ratio(scenario) * batch + 3 * unit);
  }
}

// No document waits longer than the whole queue takes at the documents' share. Holds for jobs no
// larger than the queue.
void CheckNoStarvation(const Scenario& scenario, const Simulation& simulation) {
  const double rate = static_cast<double>(scenario.costs.document_unit_tokens) /
                      Seconds(scenario.costs.document_unit);
  const double queue =
      static_cast<double>(
          scenario.options.lanes[static_cast<int>(Lane::kDocument)].max_queue_tokens) /
      rate;
  const double bound = queue / scenario.options.document_min_share * 1.3 + 0.1;
  for (const auto& outcome : simulation.outcomes()) {
    if (outcome->arrival.lane != Lane::kDocument || outcome->begun_at == Time::max()) continue;
    EXPECT_LE(Seconds(outcome->begun_at - outcome->submitted_at), bound);
  }
}

std::unique_ptr<Simulation> RunChecked(const Scenario& scenario) {
  SCOPED_TRACE(scenario.name + ", seed " + std::to_string(scenario.seed));
  auto simulation = std::make_unique<Simulation>(scenario);
  simulation->Run();
  CheckAnswers(scenario, *simulation);
  if (scenario.options.engines == 1) {
    CheckQueryWaits(scenario, *simulation);
    if (Lossless(*simulation)) CheckShare(scenario, *simulation);
  }
  CheckNoStarvation(scenario, *simulation);
  return simulation;
}

class SchedulerSimulationTest : public ::testing::TestWithParam<uint64_t> {
 protected:
  uint64_t seed() const { return GetParam(); }
  Traffic traffic{GetParam()};
};

TEST_P(SchedulerSimulationTest, ALoneQueryWaitsForOneUnitAtMost) {
  Scenario scenario = Base("lone queries beside saturating documents", seed());
  scenario.greedy = {Saturating(traffic.Documents(), 32)};
  for (Time at = kStart + milliseconds(100); at < scenario.end; at += milliseconds(20)) {
    Arrival query = traffic.Query();
    query.at = at + microseconds(traffic.Int(0, 5000));
    scenario.arrivals.push_back(query);
  }
  const auto simulation = RunChecked(scenario);
  int queries = 0;
  for (const auto& outcome : simulation->outcomes()) {
    if (outcome->arrival.lane != Lane::kQuery) continue;
    ++queries;
    EXPECT_EQ(outcome->verdict, Verdict::kAdmitted);
    EXPECT_LE(outcome->begun_at - outcome->submitted_at, simulation->longest(Lane::kDocument));
  }
  EXPECT_GE(queries, 200);
  // Documents have all the rest of the device.
  EXPECT_GE(simulation->spent(Lane::kQuery) + simulation->spent(Lane::kDocument),
            scenario.end - kStart);
}

TEST_P(SchedulerSimulationTest, SaturatedLanesKeepTheShare) {
  for (double share : {0.05, 0.2, 0.5, 0.8}) {
    Scenario scenario = Base("both lanes saturated, share " + std::to_string(share), seed(), share);
    scenario.greedy = {Saturating(traffic.Documents(), 32), Saturating(traffic.Query(), 64)};
    const auto simulation = RunChecked(scenario);
    double spent[kLanes] = {0, 0};
    for (const Contention& contention : simulation->contentions()) {
      for (int l = 0; l < kLanes; ++l) spent[l] += Seconds(contention.spent[l]);
    }
    EXPECT_GT(spent[0] + spent[1], 4.5) << "of five seconds";
    EXPECT_NEAR(spent[1] / (spent[0] + spent[1]), share, 0.01);
  }
}

TEST_P(SchedulerSimulationTest, PoissonTrafficUpToOverload) {
  for (double load : {0.3, 0.8, 1.5}) {
    Scenario scenario = Base("Poisson, load " + std::to_string(load), seed());
    traffic.Poisson(&scenario, 500 * load, [&] { return traffic.Query(); });
    traffic.Poisson(&scenario, 50 * load, [&] { return traffic.Documents(); });
    const auto simulation = RunChecked(scenario);
    int64_t full = 0;
    for (const auto& outcome : simulation->outcomes()) {
      full += outcome->verdict == Verdict::kFull;
    }
    if (load < 0.5) {
      EXPECT_EQ(full, 0);
    } else if (load > 1) {
      EXPECT_GT(full, 0) << "overload must be refused, not queued without end";
    }
  }
}

TEST_P(SchedulerSimulationTest, BurstsOfQueries) {
  Scenario scenario = Base("bursts", seed());
  for (Time at = kStart; at < scenario.end; at += milliseconds(250)) {
    for (int i = traffic.Int(50, 200); i > 0; --i) {
      Arrival query = traffic.Query();
      query.at = at;
      scenario.arrivals.push_back(query);
    }
  }
  scenario.greedy = {Saturating(traffic.Documents(), 16)};
  RunChecked(scenario);
}

TEST_P(SchedulerSimulationTest, AGreedyStreamDoesNotLockOthersOut) {
  Scenario scenario = Base("a greedy stream", seed());
  Arrival bulk = traffic.Documents();
  bulk.lengths.assign(30, 100);  // six batches each
  bulk.stream = true;
  scenario.greedy = {Saturating(bulk, 8)};
  traffic.Poisson(&scenario, 5, [&] {
    Arrival polite = traffic.Documents();
    polite.stream = true;
    polite.client = 1;
    return polite;
  });
  traffic.Poisson(&scenario, 100, [&] { return traffic.Query(); });
  const auto simulation = RunChecked(scenario);
  for (const auto& outcome : simulation->outcomes()) {
    EXPECT_TRUE(outcome->job->status.ok());
    if (outcome->arrival.client != 1) continue;
    // Before it: a full queue, eight bulk messages and the polite ones, 32 tokens a ms.
    EXPECT_LE(outcome->begun_at - outcome->arrival.at, milliseconds(1300));
  }
}

TEST_P(SchedulerSimulationTest, BulkStreamsDoNotShutOutSingleCalls) {
  Scenario scenario = Base("single calls beside streams that wait", seed());
  Arrival bulk = traffic.Documents();
  bulk.lengths.assign(10, 70);
  bulk.stream = true;
  scenario.greedy = {Saturating(bulk, 16)};
  Arrival single = traffic.Documents();
  single.lengths = {60};
  single.client = 1;
  scenario.greedy.push_back(Saturating(single, 2));
  const auto simulation = RunChecked(scenario);
  int answered[2] = {0, 0};
  for (const auto& outcome : simulation->outcomes()) {
    answered[outcome->arrival.client] +=
        outcome->verdict == Verdict::kAdmitted && outcome->job->status.ok();
  }
  EXPECT_GT(answered[0], 100);
  EXPECT_GT(answered[1], 30);
}

TEST_P(SchedulerSimulationTest, AJobLargerThanTheQueueIsServed) {
  Scenario scenario = Base("oversized jobs", seed());
  for (bool stream : {false, true}) {
    Arrival oversized = traffic.Documents();
    oversized.lengths.assign(60, 100);
    oversized.stream = stream;
    oversized.at = kStart + (stream ? seconds(2) : seconds(0));
    scenario.arrivals.push_back(oversized);
  }
  traffic.Poisson(&scenario, 20, [&] {
    Arrival documents = traffic.Documents();
    documents.stream = true;
    return documents;
  });
  scenario.arrivals.front().at = kStart;
  const auto simulation = std::make_unique<Simulation>(scenario);
  simulation->Run();
  CheckAnswers(scenario, *simulation);
  EXPECT_TRUE(Lossless(*simulation));
}

// Everything at once, in overload.
Scenario Storm(Traffic* traffic, const std::string& name, uint64_t seed, int engines) {
  Scenario scenario = Base(name, seed, 0.2, engines);
  scenario.end = kStart + seconds(2);
  const auto spoil = [traffic](Arrival arrival) {
    // From microseconds, within tokenizing, to longer than any wait.
    if (traffic->Chance(0.3)) {
      arrival.cancel_after = microseconds(static_cast<int>(std::pow(10, traffic->Real(0, 5.5))));
    }
    if (traffic->Chance(0.4)) {
      arrival.deadline = microseconds(static_cast<int>(std::pow(10, traffic->Real(3, 5.5))));
    }
    arrival.release_if_cancelled = traffic->Chance(0.5);
    arrival.stream = traffic->Chance(0.5);
    return arrival;
  };
  traffic->Poisson(&scenario, 1500 * engines, [&] { return spoil(traffic->Query()); });
  traffic->Poisson(&scenario, 80 * engines,
                   [&] { return spoil(traffic->Documents(traffic->Chance(0.1) ? 25 : 4)); });
  return scenario;
}

TEST_P(SchedulerSimulationTest, StormOfCancelsDeadlinesAndStreams) {
  for (int engines : {1, 2, 5}) {
    Scenario scenario =
        Storm(&traffic, "storm on engines: " + std::to_string(engines), seed(), engines);
    const auto simulation = RunChecked(scenario);
    // The trace must reach every way a job can end.
    std::map<std::string, int> ends;
    for (const auto& outcome : simulation->outcomes()) {
      if (outcome->wait_cancelled) {
        ++ends["wait cancelled"];
      } else if (outcome->released) {
        ++ends["released"];
      } else if (!outcome->submitted) {
        ++ends[outcome->verdict == Verdict::kFull ? "full" : "unreachable"];
      } else {
        ++ends[std::string(absl::StatusCodeToString(outcome->job->status.code()))];
        const bool part = ::testing::Value(outcome->computed, ::testing::Contains(1)) &&
                          !outcome->job->status.ok();
        if (part) ++ends["dropped in part"];
        if (outcome->ticket != 0) ++ends["waited"];
      }
    }
    for (const char* end : {"wait cancelled", "released", "full", "unreachable", "OK", "CANCELLED",
                            "DEADLINE_EXCEEDED", "waited"}) {
      EXPECT_GT(ends[end], 0) << end << " on " << engines;
    }
    RecordProperty("dropped_in_part_" + std::to_string(engines), ends["dropped in part"]);
  }
}

TEST_P(SchedulerSimulationTest, StopAndDrainInAStormAnswerEveryone) {
  for (int engines : {1, 3}) {
    Scenario scenario =
        Storm(&traffic, "stop and drain, engines: " + std::to_string(engines), seed(), engines);
    scenario.stop = kStart + seconds(1);
    scenario.drain = scenario.stop + milliseconds(traffic.Int(0, 60));
    const auto simulation = RunChecked(scenario);
    int draining = 0;
    for (const auto& outcome : simulation->outcomes()) {
      if (outcome->arrival.at > scenario.stop) {
        EXPECT_FALSE(outcome->job->status.ok() && outcome->submitted);
        draining += outcome->verdict == Verdict::kDraining;
      }
      EXPECT_LE(outcome->answered_at, std::max(outcome->arrival.at, scenario.drain) + seconds(1));
    }
    EXPECT_GT(draining, 100);
  }
}

TEST_P(SchedulerSimulationTest, WithoutDrainEverythingQueuedIsComputedAfterStop) {
  Scenario scenario = Base("stop alone", seed());
  scenario.greedy = {Saturating(traffic.Documents(), 16), Saturating(traffic.Query(), 32)};
  scenario.end = scenario.stop = kStart + seconds(1);
  const auto simulation = RunChecked(scenario);
  for (const auto& outcome : simulation->outcomes()) {
    if (outcome->submitted_at < scenario.stop && outcome->submitted) {
      EXPECT_TRUE(outcome->job->status.ok());
    }
  }
}

TEST_P(SchedulerSimulationTest, EstimatedWaitsAreOfTheRightSize) {
  Scenario scenario = Base("estimates in overload", seed());
  scenario.greedy = {Saturating(traffic.Documents(), 32)};
  traffic.Poisson(&scenario, 2500, [&] { return traffic.Query(); });
  const auto simulation = RunChecked(scenario);
  double estimated = 0;
  double waited = 0;
  for (const auto& outcome : simulation->outcomes()) {
    if (outcome->arrival.lane != Lane::kQuery || !outcome->submitted) continue;
    if (outcome->arrival.at < kStart + milliseconds(500)) continue;
    estimated += Seconds(outcome->estimated_wait);
    waited += Seconds(outcome->begun_at - outcome->submitted_at);
  }
  EXPECT_GT(waited, 0);
  EXPECT_NEAR(estimated / waited, 1, 0.35);
}

TEST_P(SchedulerSimulationTest, EqualCallsGiveEqualDecisions) {
  Traffic first(seed());
  Traffic second(seed());
  Simulation a(Storm(&first, "a", seed(), 2));
  Simulation b(Storm(&second, "b", seed(), 2));
  a.Run();
  b.Run();
  EXPECT_GT(a.batches(), 100);
  EXPECT_EQ(a.log(), b.log());
}

// One thread runs all of this: a sanitizer of threads learns little from it and takes long.
#if defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 1;
#else
constexpr uint64_t kSeeds = 5;
#endif
INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerSimulationTest, ::testing::Range<uint64_t>(1, 1 + kSeeds));

}  // namespace
}  // namespace octavo
