#include "tests/kernels/device_copies.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/team.h"

namespace octavo {
namespace {

constexpr int64_t kGuard = 512;
constexpr int64_t kAlignment = 16;
constexpr uint8_t kGuardByte = 0xff;

bool SharesHostMemory(const Backend& backend) { return backend.name == "cpu"; }

std::vector<OpenedDevice> Open() {
  std::vector<OpenedDevice> opened;
  for (const Backend& backend : Backends()) {
    absl::StatusOr<std::unique_ptr<Stream>> stream =
        backend.open_stream(0, DeviceOptions{.threads = 1});
    if (stream.ok()) {
      opened.push_back({&backend, stream->release(), ""});
    } else {
      opened.push_back({&backend, nullptr, std::string(stream.status().message())});
    }
  }
  return opened;
}

}  // namespace

DeviceStream OnCpu() { return OnCpu(cpu::Inline()); }
DeviceStream OnCpu(Stream& stream) { return {**FindBackend("cpu"), stream}; }

const std::vector<OpenedDevice>& OpenedDevices() {
  // Lives as long as the process: a device's library may be gone when statics are destroyed.
  static const auto* opened = new std::vector<OpenedDevice>(Open());
  return *opened;
}

void* DeviceCopies::Copy(void* host, int64_t bytes, bool written) {
  if (host == nullptr || SharesHostMemory(device_.backend)) return host;
  auto* from = static_cast<uint8_t*>(host);
  for (Range& range : ranges_) {
    if (from < range.host || from + bytes > range.host + range.bytes) continue;
    range.written |= written;
    return range.copy + (from - range.host);
  }
  const int64_t offset = kGuard + reinterpret_cast<uintptr_t>(host) % kAlignment;
  absl::StatusOr<Buffer> buffer = device_.backend.allocate(offset + bytes + kGuard);
  if (!buffer.ok()) {
    wrong_ = std::string(buffer.status().message());
    return nullptr;
  }
  std::vector<uint8_t> guarded(buffer->bytes(), kGuardByte);
  std::copy_n(from, bytes, guarded.data() + offset);
  device_.stream.Upload(buffer->as<void>(), guarded.data(), buffer->bytes());
  ranges_.push_back({from, bytes, written, *std::move(buffer), nullptr});
  ranges_.back().copy = ranges_.back().buffer.as<uint8_t>() + offset;
  return ranges_.back().copy;
}

std::string DeviceCopies::Finish() {
  for (Range& range : ranges_) {
    std::vector<uint8_t> guarded(range.buffer.bytes());
    device_.stream.Download(guarded.data(), range.buffer.as<void>(), range.buffer.bytes());
    if (absl::Status status = device_.stream.Finish(); !status.ok()) {
      return std::string(status.message());
    }
    const auto begin = guarded.begin() + (range.copy - range.buffer.as<uint8_t>());
    const auto end = begin + range.bytes;
    const auto guard = [](uint8_t byte) { return byte == kGuardByte; };
    if (!std::all_of(guarded.begin(), begin, guard) || !std::all_of(end, guarded.end(), guard)) {
      wrong_ = "wrote outside of an operand's memory";
    }
    if (range.written) {
      std::copy(begin, end, range.host);
    } else if (!std::equal(begin, end, range.host)) {
      wrong_ = "wrote to an operand that it only reads";
    }
  }
  ranges_.clear();
  return std::exchange(wrong_, "");
}

}  // namespace octavo
