#include "tests/runtime/faulty_backend.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/team.h"

namespace octavo::testing {
namespace {

constexpr int kDevices = 4;
constexpr int64_t kWhole = std::numeric_limits<int64_t>::max();

std::atomic<int64_t> finishes_left[kDevices] = {kWhole, kWhole, kWhole, kWhole};
std::atomic<int64_t> memory_left{kWhole};

class FaultyTeam : public cpu::Team {
 public:
  FaultyTeam(int index, int threads) : cpu::Team(threads), index_(index) {}
  absl::Status Finish() override { return status(); }
  absl::Status status() const override {
    int64_t left = finishes_left[index_].load();
    while (left > 0 && left != kWhole &&
           !finishes_left[index_].compare_exchange_weak(left, left - 1)) {
    }
    if (left > 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("faulty:", index_, " failed: as told"));
  }

 private:
  const int index_;
};

absl::Status CheckDevice(int index) {
  if (index < kDevices) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("there is no device faulty:", index));
}

absl::StatusOr<std::unique_ptr<Stream>> OpenStream(int index, const DeviceOptions& options) {
  if (absl::Status status = CheckDevice(index); !status.ok()) return status;
  return std::make_unique<FaultyTeam>(index, std::max(options.threads, 1));
}

absl::StatusOr<Buffer> Allocate(int64_t bytes) {
  const int64_t left = memory_left.fetch_sub(bytes) - bytes;
  if (left >= 0) return (*FindBackend("cpu"))->allocate(bytes);
  return absl::ResourceExhaustedError(
      absl::StrCat("the device is out of memory: ", (bytes >> 20) + 1, " MiB more are needed"));
}

}  // namespace

const Backend& FaultyBackend() {
  static const Backend faulty = [] {
    Backend backend = **FindBackend("cpu");
    backend.name = "faulty";
    backend.numbers_devices = true;
    backend.check_device = CheckDevice;
    backend.open_stream = OpenStream;
    backend.allocate = Allocate;
    backend.read_counters = [](int index) {
      return DeviceCounters{.energy_joules = 100.0 + index, .power_watts = 10.0 + index};
    };
    backend.peak_flops = [](int, const Format&) { return 1e12; };
    return backend;
  }();
  return faulty;
}

void BreakDevice(int index, int64_t finishes) { finishes_left[index] = finishes; }

void MendDevices() {
  for (auto& left : finishes_left) left = kWhole;
  memory_left = kWhole;
}

void LimitMemory(int64_t bytes) { memory_left = bytes; }

int64_t AllocatedBytes() { return kWhole - memory_left; }

}  // namespace octavo::testing
