#include "service/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "service/process_metrics.h"
#include "tests/service/fake_engine.h"
#include "tests/service/metric_text.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

TEST(Metrics, EveryFamilyOfAProcessorIsThereFromTheStart) {
  Metrics metrics("1.2.3");
  metrics.SetModel(FakeModelInfo());
  const MetricText text(metrics.Text());
  const std::pair<const char*, const char*> expected[] = {
      {"octavo_requests_total", "counter"},
      {"octavo_request_duration_seconds", "histogram"},
      {"octavo_requests_in_flight", "gauge"},
      {"octavo_streams_active", "gauge"},
      {"octavo_stream_duration_seconds", "histogram"},
      {"octavo_stream_tokens_in_flight", "gauge"},
      {"octavo_stage_duration_seconds", "histogram"},
      {"octavo_queue_requests", "gauge"},
      {"octavo_queue_tokens", "gauge"},
      {"octavo_queue_limit_tokens", "gauge"},
      {"octavo_queue_oldest_seconds", "gauge"},
      {"octavo_inputs_total", "counter"},
      {"octavo_tokens_total", "counter"},
      {"octavo_batch_inputs", "histogram"},
      {"octavo_batch_tokens", "histogram"},
      {"octavo_compute_seconds_total", "counter"},
      {"octavo_flops_total", "counter"},
      {"octavo_device_memory_bytes", "gauge"},
      {"octavo_device_errors_total", "counter"},
      {"octavo_rejected_total", "counter"},
      {"octavo_cancelled_total", "counter"},
      {"octavo_truncated_inputs_total", "counter"},
      {"octavo_nonfinite_outputs_total", "counter"},
      {"octavo_model_info", "gauge"},
      {"octavo_build_info", "gauge"},
      {"octavo_ready", "gauge"},
      {"process_cpu_seconds_total", "counter"},
      {"process_resident_memory_bytes", "gauge"},
      {"process_virtual_memory_bytes", "gauge"},
      {"process_open_fds", "gauge"},
      {"process_max_fds", "gauge"},
      {"process_start_time_seconds", "gauge"},
  };
  for (const auto& [name, type] : expected) {
    EXPECT_EQ(text.type(name), type) << name;
    EXPECT_TRUE(text.HasSamples(name)) << name << " has no child yet";
  }
  EXPECT_EQ(text.types(), std::size(expected)) << "a family this test does not know";

  const char* lane = "octavo_queue_tokens{lane=\"query\"}";
  EXPECT_EQ(text.value(lane), 0);
  EXPECT_EQ(text.value("octavo_requests_total{code=\"RESOURCE_EXHAUSTED\",lane=\"document\","
                       "method=\"octavo.v1.EmbeddingService/EmbedStream\"}"),
            0);
  EXPECT_EQ(text.value("octavo_requests_total{code=\"INVALID_ARGUMENT\",lane=\"none\","
                       "method=\"octavo.v1.EmbeddingService/Embed\"}"),
            0);
  EXPECT_EQ(text.value("octavo_rejected_total{lane=\"query\",reason=\"LANE_FULL\"}"), 0);
  EXPECT_EQ(text.value("octavo_tokens_total{format=\"a8w8_int8\",lane=\"document\"}"), 0);
  EXPECT_EQ(text.value("octavo_device_memory_bytes{device=\"cpu\"}"), 4096);
  EXPECT_EQ(text.value("octavo_build_info{version=\"1.2.3\"}"), 1);
  EXPECT_EQ(text.value("octavo_model_info{model=\"fake\",revision=\"abc123\"}"), 1);
}

TEST(Metrics, BucketEdgesAreTheContract) {
  Metrics metrics("1");
  const std::string edges[] = {"0.0001", "0.00025", "0.0005", "0.001", "0.002", "0.003",
                               "0.005",  "0.0075",  "0.01",   "0.015", "0.02",  "0.03",
                               "0.05",   "0.075",   "0.1",    "0.15",  "0.25",  "0.5",
                               "1",      "2.5",     "5",      "10",    "+Inf"};
  std::vector<std::string> found;
  std::istringstream lines(metrics.Text());
  const std::string prefix =
      "octavo_stage_duration_seconds_bucket{lane=\"query\",stage=\"queue\",le=\"";
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(prefix, 0) != 0) continue;
    found.push_back(line.substr(prefix.size(), line.find('"', prefix.size()) - prefix.size()));
  }
  EXPECT_THAT(found, ::testing::ElementsAreArray(edges));
}

TEST(Metrics, CountsWhatItIsTold) {
  Metrics metrics("1");
  metrics.SetModel(FakeModelInfo());
  metrics.RequestBegan(Rpc::kEmbed);
  metrics.RequestBegan(Rpc::kEmbed);
  metrics.RequestEnded(Rpc::kEmbed, Lane::kQuery, absl::StatusCode::kOk,
                       std::chrono::milliseconds(4));
  metrics.StreamBegan();
  metrics.StreamTokens(Lane::kDocument, 70);
  metrics.StreamTokens(Lane::kDocument, -20);
  metrics.Rejected(Lane::kQuery, Reason::kLaneFull);
  metrics.Rejected(std::nullopt, Reason::kLoading);
  metrics.Cancelled(Lane::kQuery, Stage::kRespond);
  metrics.TruncatedInputs(Lane::kDocument, 3);
  metrics.OnDropped(Lane::kDocument, absl::CancelledError(""));
  metrics.OnDropped(Lane::kDocument, absl::DeadlineExceededError(""));
  metrics.OnDeviceError("cpu", absl::UnavailableError(""));
  metrics.OnDeviceError("nowhere", absl::UnavailableError(""));
  BatchReport report;
  report.lane = Lane::kDocument;
  report.device = "cpu";
  report.inputs = 5;
  report.tokens = 100;
  report.compute_seconds = 0.25;
  report.flops = 1e9;
  report.nonfinite_outputs = 1;
  metrics.OnBatch(report);
  metrics.OnBatch(report);
  metrics.SetReady(true);

  const MetricText text(metrics.Text());
  const std::string embed = "method=\"octavo.v1.EmbeddingService/Embed\"}";
  EXPECT_EQ(text.value("octavo_requests_total{code=\"OK\",lane=\"query\"," + embed), 1);
  EXPECT_EQ(text.value("octavo_requests_in_flight{" + embed), 1);
  EXPECT_EQ(text.value("octavo_request_duration_seconds_count{lane=\"query\"," + embed), 1);
  EXPECT_EQ(text.value("octavo_stream_tokens_in_flight{lane=\"document\"}"), 50);
  EXPECT_EQ(text.value("octavo_rejected_total{lane=\"query\",reason=\"LANE_FULL\"}"), 1);
  EXPECT_EQ(text.value("octavo_rejected_total{lane=\"none\",reason=\"LOADING\"}"), 1);
  EXPECT_EQ(text.value("octavo_cancelled_total{lane=\"query\",stage=\"respond\"}"), 1);
  EXPECT_EQ(text.value("octavo_cancelled_total{lane=\"document\",stage=\"queue\"}"), 1);
  EXPECT_EQ(text.value("octavo_truncated_inputs_total{lane=\"document\"}"), 3);
  EXPECT_EQ(text.value("octavo_device_errors_total{device=\"cpu\",reason=\"lost\"}"), 1);
  const std::string document = "{format=\"a8w8_int8\",lane=\"document\"}";
  EXPECT_EQ(text.value("octavo_inputs_total" + document), 10);
  EXPECT_EQ(text.value("octavo_tokens_total" + document), 200);
  EXPECT_EQ(text.value("octavo_batch_inputs_count" + document), 2);
  EXPECT_EQ(text.value("octavo_batch_tokens_sum" + document), 200);
  EXPECT_EQ(text.value("octavo_nonfinite_outputs_total{format=\"a8w8_int8\"}"), 2);
  EXPECT_EQ(text.value("octavo_compute_seconds_total{device=\"cpu\",format=\"a8w8_int8\","
                       "lane=\"document\"}"),
            0.5);
  EXPECT_EQ(text.value("octavo_flops_total{device=\"cpu\",format=\"a8w8_int8\",lane=\"document\"}"),
            2e9);
  EXPECT_EQ(text.value("octavo_ready"), 1);
}

ModelInfo TwoGpus() {
  ModelInfo info = FakeModelInfo();
  info.devices.clear();
  for (const double number : {0, 1}) {
    info.devices.push_back({.name = "cuda:" + std::to_string(static_cast<int>(number)),
                            .processor = "NVIDIA H200",
                            .memory_bytes = 1000 + static_cast<int64_t>(number),
                            .peak_flops = {1e15, 2e15},
                            .read_counters = [number] {
                              return DeviceCounters{40 + number, 300 + number};
                            }});
  }
  return info;
}

TEST(Metrics, EveryDeviceHasItsOwnChildrenFromTheStart) {
  Metrics metrics("1");
  metrics.SetModel(TwoGpus());
  metrics.OnDeviceError("cuda:1", absl::UnavailableError(""));
  metrics.OnDeviceError("cuda:1", absl::ResourceExhaustedError(""));
  BatchReport report;
  report.device = "cuda:1";
  report.compute_seconds = 0.5;
  metrics.OnBatch(report);
  const MetricText text(metrics.Text());
  for (const int number : {0, 1}) {
    const std::string device = "device=\"cuda:" + std::to_string(number) + "\"";
    EXPECT_EQ(text.value("octavo_device_memory_bytes{" + device + "}"), 1000 + number);
    EXPECT_EQ(text.value("octavo_device_peak_flops{" + device + ",format=\"f32\"}"), 1e15);
    EXPECT_EQ(text.value("octavo_device_peak_flops{" + device + ",format=\"a8w8_int8\"}"), 2e15);
    EXPECT_EQ(text.value("octavo_device_errors_total{" + device + ",reason=\"lost\"}"), number);
    EXPECT_EQ(text.value("octavo_device_errors_total{" + device + ",reason=\"out_of_memory\"}"),
              number);
    EXPECT_EQ(
        text.value("octavo_compute_seconds_total{" + device + ",format=\"f32\",lane=\"query\"}"),
        0.5 * number);
    EXPECT_EQ(text.value("octavo_energy_joules_total{" + device + "}"), 40 + number);
    EXPECT_EQ(text.value("octavo_device_power_watts{" + device + "}"), 300 + number);
  }
  EXPECT_EQ(text.type("octavo_energy_joules_total"), "counter");
  EXPECT_EQ(text.type("octavo_device_power_watts"), "gauge");
}

TEST(Metrics, ADeviceWithoutSensorsHasNoEnergy) {
  Metrics metrics("1");
  ModelInfo info = TwoGpus();
  info.devices[0].read_counters = [] { return DeviceCounters{}; };
  metrics.SetModel(info);
  const MetricText one(metrics.Text());
  EXPECT_FALSE(one.HasSamples("octavo_energy_joules_total{device=\"cuda:0\""));
  EXPECT_TRUE(one.HasSamples("octavo_energy_joules_total{device=\"cuda:1\""));
  Metrics cpu("1");
  cpu.SetModel(FakeModelInfo());
  const MetricText none(cpu.Text());
  for (const char* family :
       {"octavo_energy_joules_total", "octavo_device_power_watts", "octavo_device_peak_flops"}) {
    EXPECT_EQ(none.type(family), "absent") << family;
  }
}

TEST(Metrics, WarmUpIsNotTraffic) {
  Metrics metrics("1");
  BatchReport report;
  report.device = "cpu";
  report.inputs = 1;
  metrics.OnBatch(report);  // before SetModel
  metrics.SetModel(FakeModelInfo());
  const MetricText text(metrics.Text());
  EXPECT_EQ(text.value("octavo_inputs_total{format=\"f32\",lane=\"query\"}"), 0);
}

TEST(Metrics, QueuesAreSampledAtScrape) {
  FakeEngine engine;
  engine.SetHang(true);
  Metrics metrics("1");
  metrics.SampleQueues(&engine.scheduler());
  ASSERT_EQ(engine.scheduler().Admit(Lane::kQuery, 123, Time::max(), Clock::now()).verdict,
            Verdict::kAdmitted);
  const MetricText text(metrics.Text());
  EXPECT_EQ(text.value("octavo_queue_tokens{lane=\"query\"}"), 123);
  EXPECT_EQ(text.value("octavo_queue_limit_tokens{lane=\"query\"}"), 1000);
  EXPECT_EQ(text.value("octavo_queue_limit_tokens{lane=\"document\"}"), 4000);
  engine.scheduler().Release(Lane::kQuery, 123, Clock::now());
}

TEST(Metrics, ProcessFiguresArePlausible) {
  const MetricText text(Metrics("1").Text());
  EXPECT_GT(text.value("process_resident_memory_bytes"), 1 << 20);
  EXPECT_NEAR(text.value("process_resident_memory_bytes"), static_cast<double>(ResidentBytes()),
              64 << 20);
  EXPECT_GT(text.value("process_open_fds"), 2);
  EXPECT_LT(text.value("process_open_fds"), text.value("process_max_fds"));
  const double now = static_cast<double>(time(nullptr));
  EXPECT_NEAR(text.value("process_start_time_seconds"), now, 3600);
  EXPECT_GE(text.value("process_cpu_seconds_total"), 0);
}

TEST(Metrics, PassPromtool) {
  if (std::system("command -v promtool >/dev/null 2>&1") != 0) {
    GTEST_SKIP() << "promtool is not installed";
  }
  Metrics metrics("1");
  metrics.SetModel(TwoGpus());
  const std::string path = ::testing::TempDir() + "octavo_metrics.txt";
  std::ofstream(path) << metrics.Text();
  FILE* pipe = popen(("promtool check metrics < " + path + " 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  char buffer[256];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  EXPECT_EQ(pclose(pipe), 0) << output;
}

}  // namespace
}  // namespace octavo
