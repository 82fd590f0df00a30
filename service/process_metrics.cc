#include "service/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

namespace octavo {
namespace {

// The fields of /proc/self/stat from the third on: proc(5) numbers them from 1, and the second,
// the command in parentheses, may hold spaces.
std::vector<double> StatFields() {
  std::ifstream file("/proc/self/stat");
  std::string line;
  if (!std::getline(file, line)) return {};
  const size_t command_end = line.rfind(')');
  if (command_end == std::string::npos) return {};
  std::istringstream rest(line.substr(command_end + 1));
  std::vector<double> fields;
  std::string field;
  while (rest >> field) fields.push_back(std::strtod(field.c_str(), nullptr));
  return fields;
}

double BootTimeSeconds() {
  std::ifstream file("/proc/stat");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("btime ", 0) == 0) return std::strtod(line.c_str() + 6, nullptr);
  }
  return 0;
}

double OpenFiles() {
  DIR* directory = opendir("/proc/self/fd");
  if (directory == nullptr) return 0;
  int entries = 0;
  while (readdir(directory) != nullptr) ++entries;
  closedir(directory);
  return entries - 3;  // ".", ".." and the directory itself
}

void Add(std::vector<prometheus::MetricFamily>* families, const char* name, const char* help,
         prometheus::MetricType type, double value) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(std::move(metric));
  families->push_back(std::move(family));
}

// Indices into StatFields: proc(5)'s number less 3.
constexpr size_t kUserTicks = 11, kSystemTicks = 12, kStartTicks = 19, kVirtualBytes = 20,
                 kResidentPages = 21;

}  // namespace

std::vector<prometheus::MetricFamily> CollectProcessMetrics() {
  constexpr auto kCounter = prometheus::MetricType::Counter;
  constexpr auto kGauge = prometheus::MetricType::Gauge;
  std::vector<prometheus::MetricFamily> families;
  const std::vector<double> stat = StatFields();
  if (stat.size() > kResidentPages) {
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    const double page = static_cast<double>(sysconf(_SC_PAGESIZE));
    Add(&families, "process_cpu_seconds_total", "User and system CPU time spent.", kCounter,
        (stat[kUserTicks] + stat[kSystemTicks]) / ticks);
    Add(&families, "process_start_time_seconds", "Start time since the Unix epoch.", kGauge,
        BootTimeSeconds() + stat[kStartTicks] / ticks);
    Add(&families, "process_virtual_memory_bytes", "Virtual memory size.", kGauge,
        stat[kVirtualBytes]);
    Add(&families, "process_resident_memory_bytes", "Resident memory size.", kGauge,
        stat[kResidentPages] * page);
  }
  Add(&families, "process_open_fds", "Open file descriptors.", kGauge, OpenFiles());
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    Add(&families, "process_max_fds", "Limit of open file descriptors.", kGauge,
        static_cast<double>(limit.rlim_cur));
  }
  return families;
}

int64_t ResidentBytes() {
  const std::vector<double> stat = StatFields();
  if (stat.size() <= kResidentPages) return 0;
  return static_cast<int64_t>(stat[kResidentPages]) * sysconf(_SC_PAGESIZE);
}

}  // namespace octavo
