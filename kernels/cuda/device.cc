#include "kernels/cuda/device.h"

#include <cuda_runtime_api.h>

#include <iterator>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/architectures.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/nvml.h"

namespace octavo::cuda {
namespace {

absl::Status FindDriver(int device) {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorNoDevice) devices = 0;
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return absl::UnavailableError("no NVIDIA driver is installed here");
    return absl::UnavailableError(absl::StrCat(
        "the NVIDIA driver is too old: it supports CUDA ", driver / 1000, ".", driver % 1000 / 10,
        ", this build needs ", runtime / 1000, ".", runtime % 1000 / 10, "; update the driver"));
  }
  if (error != cudaSuccess && error != cudaErrorNoDevice) return ToStatus(error, "CUDA");
  if (device < devices) return absl::OkStatus();
  return absl::UnavailableError(
      devices == 0
          ? std::string("no CUDA device is present (nvidia-smi shows what the driver sees)")
          : absl::StrCat("there is no device cuda:", device, "; there are ", devices,
                         ", from cuda:0"));
}

// Of dense products, by a multiprocessor in a cycle of its clock.
struct TensorRate {
  Architecture architecture;
  double flops_16_bit, flops_8_bit;
};
constexpr TensorRate kTensorRates[] = {{kSm90a, 4096, 8192}};

}  // namespace

absl::Status CheckDevice(int device) {
  if (absl::Status status = FindDriver(device); !status.ok()) return status;
  const uint32_t architecture = ArchitectureOf(device);
  if (architecture != kSm90a) {
    cudaDeviceProp properties;
    const bool known = cudaGetDeviceProperties(&properties, device) == cudaSuccess;
    return absl::UnavailableError(
        absl::StrCat("cuda:", device, " (", known ? properties.name : "unknown", ", ",
                     ArchitectureNames(architecture),
                     ") has no kernels in this build, only sm_90a (H100, H200) does"));
  }
  return CublasLt::Load().status();
}

DeviceCounters ReadCounters(int device) {
  static const Nvml* const nvml = Nvml::Load("libnvidia-ml.so.1");
  char bus[32] = {};
  // Numbers of devices follow CUDA_VISIBLE_DEVICES here and not there: the bus tells which it is.
  if (nvml == nullptr || cudaDeviceGetPCIBusId(bus, std::size(bus), device) != cudaSuccess) {
    return {};
  }
  return nvml->Read(bus);
}

double PeakFlops(int device, const Format& format) {
  int multiprocessors = 0, kilohertz = 0;
  if (cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) !=
          cudaSuccess ||
      cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, device) != cudaSuccess) {
    return 0;
  }
  const Element element = format.activation.element;
  const bool bytes = element == Element::kInt8 || element == Element::kE4m3;
  for (const TensorRate& rate : kTensorRates) {
    if (rate.architecture != ArchitectureOf(device)) continue;
    return (bytes ? rate.flops_8_bit : rate.flops_16_bit) * multiprocessors * kilohertz * 1e3;
  }
  return 0;
}

}  // namespace octavo::cuda
