// Which devices --device names.
#include "kernels/backend.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using testing::HasSubstr;

std::vector<const Format*> Formats(std::initializer_list<std::string_view> names) {
  std::vector<const Format*> formats;
  for (std::string_view name : names) formats.push_back(*FindFormat(name));
  return formats;
}

TEST(FindDevices, NamesEachDeviceAsOftenAsItStands) {
  const auto devices = FindDevices("cpu,cpu", {}, nullptr);
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 2u);
  for (const Device& device : *devices) {
    EXPECT_EQ(device.name, "cpu");
    EXPECT_EQ(device.index, 0);
    EXPECT_EQ(device.backend, *FindBackend("cpu"));
  }
}

TEST(FindDevices, RefusesWhatNoDeviceIsCalled) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "use auto or one of: "},     {"tpu", "use auto or one of: "},
      {"cpu,", "use auto or one of: "}, {"cpu:one", "a device number goes after the colon"},
      {"cpu:1", "has one device, cpu"}, {"auto,cpu", "auto stands alone"},
      {"cpu:-1", "after the colon"},
  };
  for (const auto& [name, message] : cases) {
    const absl::Status status = FindDevices(name, {}, nullptr).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message)) << name;
  }
}

TEST(FindDevices, AutoPassesOverWhatIsNotHereOrLacksAFormatAndSaysWhy) {
  std::string passed_over;
  // Only the processor computes f32.
  const auto devices = FindDevices("auto", Formats({"f32"}), &passed_over);
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 1u);
  EXPECT_EQ(devices->front().name, "cpu");
  for (const Backend& backend : Backends()) {
    if (backend.name == "cpu") break;
    const absl::Status status = backend.check_device(0);
    EXPECT_THAT(passed_over,
                HasSubstr(status.ok() ? "no kernel computes f32" : std::string(status.message())));
  }
}

TEST(FindDevices, ADeviceThatIsNotHereIsUnavailableAndSaidWhy) {
  for (const Backend& backend : Backends()) {
    if (!backend.numbers_devices) continue;
    const std::string name = std::string(backend.name) + ":99";
    const absl::Status status = FindDevices(name, {}, nullptr).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("--device=" + name + ": "));
    // Opening says the same.
    EXPECT_TRUE(absl::IsUnavailable(backend.open_stream(99, {}).status()));
  }
}

TEST(FindDevices, KindsDoNotMix) {
  for (const Backend& backend : Backends()) {
    if (!backend.numbers_devices || !backend.check_device(0).ok()) continue;
    const std::string name = "cpu," + std::string(backend.name) + ":0";
    EXPECT_THAT(std::string(FindDevices(name, {}, nullptr).status().message()),
                HasSubstr("mixes kinds"));
  }
}

}  // namespace
}  // namespace octavo
