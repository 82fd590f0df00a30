// NVIDIA's management library: sensors. Opened at run time, since containers often lack it.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "kernels/backend.h"

namespace octavo::cuda {

// Thread-safe.
class Nvml {
 public:
  // Opens the library of that name, for the life of the process. Null where it is not there or
  // cannot be initialised.
  static const Nvml* Load(const char* library);

  // Of the device at a PCI bus id, "0000:1b:00.0". What the device has no sensor for stays unset.
  DeviceCounters Read(const std::string& pci_bus_id) const;

 private:
  // Opaque here; numbers as the library defines them (nvml.h). 0 is success.
  using Device = void*;

  Nvml() = default;
  Device Find(const std::string& pci_bus_id) const;

  int (*device_by_bus_id_)(const char* pci_bus_id, Device* device) = nullptr;
  int (*total_energy_)(Device device, unsigned long long* millijoules) = nullptr;
  int (*power_)(Device device, unsigned int* milliwatts) = nullptr;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Device> devices_;  // guarded by mutex_; null: there is none
};

}  // namespace octavo::cuda
