#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

namespace octavo::cuda {
namespace {

template <typename Function>
void FindSymbol(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
}

}  // namespace

const Nvml* Nvml::Load(const char* library_name) {
  void* library = dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  int (*initialize)() = nullptr;
  std::unique_ptr<Nvml> nvml(new Nvml);
  FindSymbol(library, "nvmlInit_v2", &initialize);
  FindSymbol(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml->device_by_bus_id_);
  FindSymbol(library, "nvmlDeviceGetTotalEnergyConsumption", &nvml->total_energy_);
  FindSymbol(library, "nvmlDeviceGetPowerUsage", &nvml->power_);
  const bool complete = initialize != nullptr && nvml->device_by_bus_id_ != nullptr &&
                        nvml->total_energy_ != nullptr && nvml->power_ != nullptr;
  if (complete && initialize() == 0) return nvml.release();
  dlclose(library);
  return nullptr;
}

Nvml::Device Nvml::Find(const std::string& pci_bus_id) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto [entry, added] = devices_.emplace(pci_bus_id, nullptr);
  if (added && device_by_bus_id_(pci_bus_id.c_str(), &entry->second) != 0) {
    entry->second = nullptr;
  }
  return entry->second;
}

DeviceCounters Nvml::Read(const std::string& pci_bus_id) const {
  DeviceCounters counters;
  const Device device = Find(pci_bus_id);
  if (device == nullptr) return counters;
  unsigned long long millijoules = 0;
  unsigned int milliwatts = 0;
  if (total_energy_(device, &millijoules) == 0) {
    counters.energy_joules = static_cast<double>(millijoules) / 1e3;
  }
  if (power_(device, &milliwatts) == 0) {
    counters.power_watts = static_cast<double>(milliwatts) / 1e3;
  }
  return counters;
}

}  // namespace octavo::cuda
