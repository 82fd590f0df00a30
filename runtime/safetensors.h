// The safetensors container: a JSON header and raw little-endian tensors.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

enum class TensorType : uint8_t { kF32, kF16, kBf16, kI64, kI32, kI8, kU8 };

struct Tensor {
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  std::span<const uint8_t> bytes;  // points into the file's mapping or buffer

  int64_t elements() const;
};

// The parsed view of a safetensors buffer; tensors point into it. `buffer` must outlive the view.
// Every header field is checked: header length (at most 16 MiB) and depth, dtypes, shapes against
// byte counts (with overflow), bounds, overlaps and holes, number of tensors and of dimensions,
// duplicate names. INVALID_ARGUMENT says what and which tensor.
struct TensorFile {
  std::map<std::string, Tensor, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
};
absl::StatusOr<TensorFile> ParseSafetensors(std::span<const uint8_t> buffer);

// A regular file's bytes while loading, in a private anonymous mapping filled by pread. Mapping the
// file itself would raise SIGBUS where somebody truncates it, and would let what was checked change
// before it is used; reading costs about 30 ms per 100 MB. Unmapped when destroyed.
class MappedFile {
 public:
  // NOT_FOUND, FAILED_PRECONDITION (not a regular file), DATA_LOSS (shrank while it was read),
  // RESOURCE_EXHAUSTED (memory); each names the path.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();
  std::span<const uint8_t> bytes() const { return bytes_; }
  // Fails if the file's size or modification time changed since Open.
  absl::Status CheckUnchanged() const;

 private:
  MappedFile() = default;
  int descriptor_ = -1;
  std::string path_;
  std::span<const uint8_t> bytes_;
  int64_t modified_ns_ = 0;
};

// Fills `output` from `offset` of an open file. DATA_LOSS if the file ends first. `path` is for
// messages.
absl::Status ReadExactly(int descriptor, int64_t offset, std::span<uint8_t> output,
                         const std::string& path);

// Converts a F32, F16 or BF16 tensor to f32. INVALID_ARGUMENT for other types or when `elements`
// differs from the tensor's.
absl::Status ToFloat(const Tensor& tensor, std::span<float> output);

}  // namespace octavo
