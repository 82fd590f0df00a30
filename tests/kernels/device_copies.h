// Runs kernels of any backend on a test's host memory: copies in the device's memory stand for it
// while a kernel runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace octavo {

// Where a kernel runs: a row's backend and a stream of it. Refers to both.
struct DeviceStream {
  const Backend& backend;
  Stream& stream;
};

// The CPU backend; by default on the calling thread.
DeviceStream OnCpu();
DeviceStream OnCpu(Stream& stream);

// Device 0 of every backend of this build, opened once for the process. `stream` is null where a
// device cannot be opened, and `reason` then says why.
struct OpenedDevice {
  const Backend* backend = nullptr;
  Stream* stream = nullptr;
  std::string reason;
};
const std::vector<OpenedDevice>& OpenedDevices();

// The memory that one call of a kernel touches. A copy lies in the device's memory between guards
// of 0xff (NaN in every float, -1 in int8), at an address that is the host's modulo 16. The CPU's
// kernels get the host's memory itself, where a sanitizer sees what is read around it.
//
//   DeviceCopies copies(device);
//   args.input.values = copies.In(input.data(), bytes);
//   args.output.values = copies.Out(output.data(), bytes);
//   kernel.run(args, device.stream);
//   EXPECT_EQ(copies.Finish(), "");  // output holds what the kernel wrote
class DeviceCopies {
 public:
  explicit DeviceCopies(const DeviceStream& device) : device_(device) {}

  // Null stays null. A range that lies in one copied before is a part of that copy: an output over
  // its residual is given first. Host memory must live until Finish().
  template <typename T>
  T* In(T* host, int64_t bytes) {
    return static_cast<T*>(Copy(const_cast<void*>(static_cast<const void*>(host)), bytes, false));
  }
  // The same, and Finish() copies it back.
  template <typename T>
  T* Out(T* host, int64_t bytes) {
    return static_cast<T*>(Copy(host, bytes, true));
  }

  // Waits for the device and copies back. "" or what went wrong: memory out, the device failed, a
  // guard was written.
  std::string Finish();

 private:
  struct Range {
    uint8_t* host;
    int64_t bytes;
    bool written;   // by the kernel
    Buffer buffer;  // guard, copy, guard
    uint8_t* copy;
  };

  void* Copy(void* host, int64_t bytes, bool written);

  const DeviceStream device_;
  std::vector<Range> ranges_;
  std::string wrong_;
};

}  // namespace octavo
