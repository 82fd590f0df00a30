// Pushes what a bench timed out of a device's cache.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace octavo::bench {

// 256 MB of a device's memory: more than its cache holds.
class Evicting {
 public:
  static constexpr int64_t kRows = 43691, kColumns = 1024;
  static constexpr int64_t kBytes = kRows * kColumns * 6;  // 4 read, 2 written

  static absl::StatusOr<Evicting> Create(const Backend& backend);

  // Reads and writes all of it.
  void Touch(Stream& stream) const;

 private:
  explicit Evicting(const Backend& backend) : backend_(&backend) {}

  const Backend* backend_;
  Buffer read_, written_;
};

}  // namespace octavo::bench
