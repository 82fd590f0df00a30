// What a processor has and a control group grants.
#pragma once

#include <cstdint>
#include <string>

namespace octavo::cpu {

// Whole processors the cgroup quota of this process amounts to, rounded down and at least 1; 0 if
// there is no quota. Reads proc/self/cgroup, and cpu.max (v2) or cpu.cfs_quota_us (v1) of the
// group and its ancestors under sys/fs/cgroup; `root` is "/" but in tests.
int CgroupProcessors(const std::string& root);

// A processor's second-level cache; 1 MiB where the system does not say.
int64_t SecondLevelCacheBytes();

// The model, as the operating system names it; "unknown" where it does not.
std::string ProcessorModel();

}  // namespace octavo::cpu
