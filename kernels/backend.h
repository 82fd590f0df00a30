// The kinds of device Octavo computes on. To see which exist, open backend.cc.
//
// A backend is a table row: its kernels, the row operations Forward needs, memory, and how to open
// a device. Forward knows nothing else of a device.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/linear.h"
#include "kernels/rows.h"
#include "kernels/stream.h"

namespace octavo {

// Memory of a device, 64-byte aligned, zeroed. Move-only; frees itself.
class Buffer {
 public:
  Buffer() = default;
  Buffer(void* data, int64_t bytes, void (*free)(void*)) : data_(data, free), bytes_(bytes) {}

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::unique_ptr<void, void (*)(void*)> data_{nullptr, [](void*) {}};
  int64_t bytes_ = 0;
};

struct DeviceOptions {
  int threads = 0;  // CPU: threads of a stream; 0: every available processor
};

// Rows of a document unit.
struct UnitRows {
  int64_t least = 0;
  int64_t most = 0;
};

// How plans time rows here (kernels/plan_timing.h).
struct PlanTiming {
  // Counts at which rows are timed, ascending; each stands for the counts above the one before it,
  // the last for all above.
  std::span<const int64_t> tokens;
  // Larger weights are cut to fewer output channels. 0: none is.
  int64_t most_weights = 0;
  // What is read between two calls with few tokens, so that weights are as cold as they are between
  // two layers: more than the cache nearest to a core. 0: nothing.
  int64_t evicted_bytes = 0;
  // Calls in one timing: more than one where work is submitted and done later.
  int calls = 1;
};

// What a device's sensors say, unset where it has none.
struct DeviceCounters {
  std::optional<double> energy_joules;  // since some moment in the past
  std::optional<double> power_watts;    // now, or over the last moments
};

struct Backend {
  std::string_view name;  // what --device says: "cpu"
  // "cuda:0", "cuda:1"; a backend without numbers is one device.
  bool numbers_devices;
  std::span<const LinearKernel> (*linear_kernels)();
  std::span<const AttentionKernel> (*attention_kernels)();
  // Instruction sets usable now, in the bits the tables' rows ask for, and their names.
  uint32_t (*instruction_sets)();
  std::string (*instruction_set_names)(uint32_t sets);
  RowOperations rows;
  // The element of hidden states between layers (residuals, norms, products that feed them).
  Element (*hidden)(const Format& format);
  // Who adds the residual: the product's epilogue, or the norm after it.
  bool product_adds_residual;
  // Elements a product's output can be written in.
  std::span<const Element> outputs;
  // On the device that the calling thread's last opened or bound stream is on.
  // RESOURCE_EXHAUSTED says how much was asked for and how much there is.
  absl::StatusOr<Buffer> (*allocate)(int64_t bytes);
  // Host memory that the device copies from and to without waiting, and that kernels may write.
  absl::StatusOr<Buffer> (*allocate_host)(int64_t bytes);
  // OK if device `index` is here and this build computes on it; UNAVAILABLE says what is missing.
  // Opens nothing.
  absl::Status (*check_device)(int index);
  // Thread-safe. Takes milliseconds.
  DeviceCounters (*read_counters)(int index);
  // Multiply-adds times two a second that the device does at most in `format`'s arithmetic; 0 where
  // that is not known.
  double (*peak_flops)(int index, const Format& format);
  // A stream on device `index`; UNAVAILABLE says what is missing.
  absl::StatusOr<std::unique_ptr<Stream>> (*open_stream)(int index, const DeviceOptions& options);
  int64_t default_document_step_us;
  UnitRows document_unit;
  int64_t document_batch_tokens;  // by default: enough that a batch's fixed costs do not show
  PlanTiming timing;
  // The format that answers queries of some ten tokens soonest here, and why that is
  // (--query_format =auto).
  std::string_view query_format = "a16w4_int4";
  std::string_view query_format_reason = "a query waits for its weights";
};

// The fastest first.
std::span<const Backend> Backends();

// The backend of one device as --device names it: "auto" (the first backend with a device here),
// "cpu", "cuda:0". INVALID_ARGUMENT names the backends of this build.
absl::StatusOr<const Backend*> FindBackend(std::string_view device);

// The device's number, 0 unless --device names one: "cuda:1" is 1.
absl::StatusOr<int> DeviceIndex(std::string_view device);

struct Device {
  const Backend* backend = nullptr;
  int index = 0;
  std::string name;  // "cpu", "cuda:0": how reports and metrics call it
};

// Every device that --device names: "cpu", "cuda:0,cuda:1", all of one backend; one named twice is
// there twice. "auto" is the first device of the first backend that has one here and rows for all
// of `formats`; why others were not taken is appended to `passed_over`, one line each, if it is not
// null. INVALID_ARGUMENT for names that this build does not know, UNAVAILABLE says what is missing.
absl::StatusOr<std::vector<Device>> FindDevices(std::string_view names,
                                                std::span<const Format* const> formats,
                                                std::string* passed_over);

}  // namespace octavo
