// What is known of a GPU before a stream is opened on it, and what its sensors say.
#pragma once

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace octavo::cuda {

// As Backend::check_device, Backend::read_counters and Backend::peak_flops.
absl::Status CheckDevice(int device);
DeviceCounters ReadCounters(int device);
double PeakFlops(int device, const Format& format);

}  // namespace octavo::cuda
