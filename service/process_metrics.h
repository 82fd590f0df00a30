// The usual process_* metrics, read from /proc.
#pragma once

#include <prometheus/metric_family.h>

#include <cstdint>
#include <vector>

namespace octavo {

// What cannot be read is left out. Thread-safe.
std::vector<prometheus::MetricFamily> CollectProcessMetrics();

// Resident memory in bytes; 0 if it cannot be read.
int64_t ResidentBytes();

}  // namespace octavo
