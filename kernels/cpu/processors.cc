#include "kernels/cpu/processors.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <string>

namespace octavo::cpu {
namespace {

// 0 where `quota` of `period` is no limit or not understood.
double Limit(const std::string& quota, int64_t period) {
  if (period <= 0 || quota.empty() || quota.find_first_not_of("0123456789") != std::string::npos) {
    return 0;
  }
  return static_cast<double>(std::strtoll(quota.c_str(), nullptr, 10)) / period;
}

double LimitV2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  int64_t period = 0;
  return file >> quota >> period ? Limit(quota, period) : 0;
}

double LimitV1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  std::string quota;
  int64_t period = 0;
  return quota_file >> quota && period_file >> period ? Limit(quota, period) : 0;
}

// The tightest limit of `group` ("/a/b") and its ancestors under `mount`; 0 for none. In a
// container the path may be the host's and not exist below the mount: then only the root counts.
double TightestLimit(const std::string& mount, std::string group,
                     double (*limit_of)(const std::string&)) {
  double tightest = 0;
  for (;;) {
    while (!group.empty() && group.back() == '/') group.pop_back();
    const double limit = limit_of(mount + group);
    if (limit > 0 && (tightest == 0 || limit < tightest)) tightest = limit;
    if (group.empty()) return tightest;
    const size_t slash = group.rfind('/');
    group.resize(slash == std::string::npos ? 0 : slash);
  }
}

bool ListsCpu(const std::string& controllers) {
  return ("," + controllers + ",").find(",cpu,") != std::string::npos;
}

}  // namespace

int CgroupProcessors(const std::string& root) {
  std::ifstream groups(root + "/proc/self/cgroup");
  const std::string mounts = root + "/sys/fs/cgroup";
  double tightest = 0;
  std::string line;  // "hierarchy:controllers:group"; "0::group" is v2
  while (std::getline(groups, line)) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    double limit = 0;
    if (controllers.empty()) {
      limit = TightestLimit(mounts, group, LimitV2);
    } else if (ListsCpu(controllers)) {
      limit = TightestLimit(mounts + "/" + controllers, group, LimitV1);
      if (limit == 0) limit = TightestLimit(mounts + "/cpu", group, LimitV1);
    }
    if (limit > 0 && (tightest == 0 || limit < tightest)) tightest = limit;
  }
  return tightest == 0 ? 0 : std::max(1, static_cast<int>(std::floor(tightest)));
}

int64_t SecondLevelCacheBytes() {
  int64_t bytes = 0;
#ifdef _SC_LEVEL2_CACHE_SIZE
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  return bytes > 0 ? bytes : int64_t{1} << 20;
}

std::string ProcessorModel() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0) {
      const size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace octavo::cpu
