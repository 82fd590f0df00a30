// A management library with one device, for nvml_test. Its power can be read from the second
// reading of its energy on.
#include <cstring>

namespace {

bool initialized = false;
int device = 0;
unsigned long long millijoules = 1500;

}  // namespace

extern "C" {

int nvmlInit_v2() {
  initialized = true;
  return 0;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* bus, void** handle) {
  if (!initialized || std::strcmp(bus, "0000:1b:00.0") != 0) return 6;  // NVML_ERROR_NOT_FOUND
  *handle = &device;
  return 0;
}

int nvmlDeviceGetTotalEnergyConsumption(void* handle, unsigned long long* energy) {
  if (handle != &device) return 2;  // NVML_ERROR_INVALID_ARGUMENT
  *energy = millijoules;
  millijoules += 250;
  return 0;
}

int nvmlDeviceGetPowerUsage(void* handle, unsigned int* milliwatts) {
  if (handle != &device) return 2;
  if (millijoules < 2000) return 3;  // NVML_ERROR_NOT_SUPPORTED
  *milliwatts = 345678;
  return 0;
}

}  // extern "C"
