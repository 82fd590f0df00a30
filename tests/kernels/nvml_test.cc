#include "kernels/cuda/nvml.h"

#include "gtest/gtest.h"

namespace octavo::cuda {
namespace {

TEST(Nvml, ALibraryThatIsNotThereHasNoSensors) {
  EXPECT_EQ(Nvml::Load("libnvidia-ml-absent.so.1"), nullptr);
  // One that is something else.
  EXPECT_EQ(Nvml::Load("libc.so.6"), nullptr);
}

TEST(Nvml, ReadsJoulesAndWattsOfTheDeviceOnTheBus) {
  const Nvml* nvml = Nvml::Load(OCTAVO_FAKE_NVML);
  ASSERT_NE(nvml, nullptr);
  const DeviceCounters first = nvml->Read("0000:1b:00.0");
  EXPECT_EQ(first.energy_joules, 1.5);
  EXPECT_EQ(first.power_watts, std::nullopt) << "a sensor the device lacks";
  const DeviceCounters second = nvml->Read("0000:1b:00.0");
  EXPECT_EQ(second.energy_joules, 1.75);
  EXPECT_EQ(second.power_watts, 345.678);
  for (int i = 0; i < 2; ++i) {
    const DeviceCounters other = nvml->Read("0000:1c:00.0");
    EXPECT_EQ(other.energy_joules, std::nullopt);
    EXPECT_EQ(other.power_watts, std::nullopt);
  }
}

}  // namespace
}  // namespace octavo::cuda
