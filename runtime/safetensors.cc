#include "runtime/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/half.h"
#include "runtime/safetensors_header.h"

namespace octavo {
namespace {

struct TypeName {
  std::string_view name;
  TensorType type;
  int bytes;
};
constexpr TypeName kTypes[] = {
    {"F32", TensorType::kF32, 4}, {"F16", TensorType::kF16, 2}, {"BF16", TensorType::kBf16, 2},
    {"I64", TensorType::kI64, 8}, {"I32", TensorType::kI32, 4}, {"I8", TensorType::kI8, 1},
    {"U8", TensorType::kU8, 1},
};

absl::Status Invalid(std::string_view tensor, const std::string& problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors: tensor ", QuoteName(tensor), ": ", problem));
}

// Elements of `shape` times `element_bytes`, or -1 when it does not fit in 63 bits.
int64_t CheckedBytes(const std::vector<uint64_t>& shape, int element_bytes) {
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  // A zero anywhere makes the product zero, but each prefix must still fit: a reader multiplies
  // them in order.
  uint64_t product = static_cast<uint64_t>(element_bytes);
  for (uint64_t dimension : shape) {
    if (dimension > kLimit) return -1;
    if (dimension != 0 && product > kLimit / dimension) return -1;
    product *= dimension;
  }
  return static_cast<int64_t>(product);
}

absl::StatusOr<Tensor> MakeTensor(const HeaderEntry& entry, std::span<const uint8_t> data) {
  const TypeName* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                      [&](const TypeName& t) { return t.name == entry.dtype; });
  if (type == std::end(kTypes)) {
    return Invalid(entry.name, absl::StrCat("dtype ", QuoteName(entry.dtype),
                                            " is not supported; known are F32, F16, BF16, I64, "
                                            "I32, I8, U8"));
  }
  if (entry.begin > entry.end || entry.end > data.size()) {
    return Invalid(entry.name, absl::StrCat("data_offsets [", entry.begin, ", ", entry.end,
                                            "] are outside the ", data.size(),
                                            " bytes of data in the file (is it truncated?)"));
  }
  const int64_t bytes = CheckedBytes(entry.shape, type->bytes);
  if (bytes < 0) return Invalid(entry.name, "the shape's byte count overflows");
  if (static_cast<uint64_t>(bytes) != entry.end - entry.begin) {
    return Invalid(entry.name, absl::StrCat("the shape needs ", bytes, " bytes, data_offsets hold ",
                                            entry.end - entry.begin));
  }
  Tensor tensor;
  tensor.type = type->type;
  tensor.shape.assign(entry.shape.begin(), entry.shape.end());
  tensor.bytes = data.subspan(entry.begin, entry.end - entry.begin);
  return tensor;
}

// Sorted by offset, the tensors must tile the data exactly.
absl::Status CheckTiling(std::vector<const HeaderEntry*> entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const HeaderEntry* a, const HeaderEntry* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  uint64_t position = 0;
  std::string_view previous = "";
  for (const HeaderEntry* entry : entries) {
    if (entry->begin < position) {
      return Invalid(entry->name, absl::StrCat("overlaps tensor ", QuoteName(previous)));
    }
    if (entry->begin > position) {
      return Invalid(entry->name,
                     absl::StrCat("a hole of ", entry->begin - position, " bytes lies before it"));
    }
    position = entry->end;
    previous = entry->name;
  }
  if (position != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: ", data_bytes - position,
                                                   " bytes after the last tensor belong to none"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t Tensor::elements() const {
  int64_t product = 1;
  for (int64_t dimension : shape) product *= dimension;
  return product;
}

absl::StatusOr<TensorFile> ParseSafetensors(std::span<const uint8_t> buffer) {
  // Layout: header length (u64, little-endian), the JSON header, the data.
  constexpr uint64_t kLengthBytes = 8;
  if (buffer.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors: ", buffer.size(), " bytes cannot hold the header's length"));
  }
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | buffer[i];
  if (header_bytes > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: a header of ", header_bytes,
                                                   " bytes is over the limit of ", kMaxHeaderBytes,
                                                   " (is this a safetensors file?)"));
  }
  if (header_bytes > buffer.size() - kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors: a header of ", header_bytes,
                                                   " bytes in a file of ", buffer.size(),
                                                   " bytes: the file is truncated"));
  }
  absl::StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(
      std::string_view(reinterpret_cast<const char*>(buffer.data()) + kLengthBytes, header_bytes));
  if (!header.ok()) return header.status();

  const std::span<const uint8_t> data = buffer.subspan(kLengthBytes + header_bytes);
  TensorFile file;
  std::vector<const HeaderEntry*> entries;
  entries.reserve(header->entries.size());
  for (const HeaderEntry& entry : header->entries) {
    absl::StatusOr<Tensor> tensor = MakeTensor(entry, data);
    if (!tensor.ok()) return tensor.status();
    if (!file.tensors.emplace(entry.name, *std::move(tensor)).second) {
      return Invalid(entry.name, "the name appears twice");
    }
    entries.push_back(&entry);
  }
  if (absl::Status status = CheckTiling(std::move(entries), data.size()); !status.ok()) {
    return status;
  }
  file.metadata = std::move(header->metadata);
  return file;
}

absl::Status ReadExactly(int descriptor, int64_t offset, std::span<uint8_t> output,
                         const std::string& path) {
  constexpr size_t kChunk = size_t{1} << 30;  // below the 2 GiB limit of one read
  size_t done = 0;
  while (done < output.size()) {
    const ssize_t count = pread(descriptor, output.data() + done,
                                std::min(kChunk, output.size() - done), offset + done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
    if (count == 0) {
      return absl::DataLossError(absl::StrCat(path, " was truncated while it was read: it ends at ",
                                              offset + done, " of ", offset + output.size(),
                                              " bytes"));
    }
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

namespace {

int64_t ModifiedNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  std::unique_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  // O_NONBLOCK: opening a FIFO must not wait for a writer.
  file->descriptor_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->descriptor_ < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat info;
  if (fstat(file->descriptor_, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is not a regular file"));
  }
  file->modified_ns_ = ModifiedNs(info);
  const size_t size = static_cast<size_t>(info.st_size);
  if (size == 0) return file;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for the ", size, " bytes of ", path));
  }
  const std::span<uint8_t> bytes(static_cast<uint8_t*>(memory), size);
  file->bytes_ = bytes;
  madvise(memory, size, MADV_HUGEPAGE);  // fewer faults where huge pages are to be had
  posix_fadvise(file->descriptor_, 0, 0, POSIX_FADV_SEQUENTIAL);
  if (absl::Status status = ReadExactly(file->descriptor_, 0, bytes, path); !status.ok()) {
    return status;
  }
  mprotect(memory, size, PROT_READ);
  if (absl::Status status = file->CheckUnchanged(); !status.ok()) return status;
  return file;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
  if (descriptor_ >= 0) close(descriptor_);
}

absl::Status MappedFile::CheckUnchanged() const {
  struct stat info;
  if (fstat(descriptor_, &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path_));
  }
  if (static_cast<uint64_t>(info.st_size) != bytes_.size() || ModifiedNs(info) != modified_ns_) {
    return absl::DataLossError(absl::StrCat(path_, " changed while it was being loaded"));
  }
  return absl::OkStatus();
}

absl::Status ToFloat(const Tensor& tensor, std::span<float> output) {
  if (tensor.type != TensorType::kF32 && tensor.type != TensorType::kF16 &&
      tensor.type != TensorType::kBf16) {
    return absl::InvalidArgumentError("the tensor is not F32, F16 or BF16");
  }
  const size_t element_bytes = tensor.type == TensorType::kF32 ? 4 : 2;
  if (tensor.bytes.size() != output.size() * element_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensor has ", tensor.bytes.size() / element_bytes, " elements where ",
                     output.size(), " are expected"));
  }
  // Tensors need not be aligned in the file, hence memcpy. Both sides are little-endian.
  static_assert(std::endian::native == std::endian::little);
  if (output.empty()) return absl::OkStatus();
  if (tensor.type == TensorType::kF32) {
    std::memcpy(output.data(), tensor.bytes.data(), tensor.bytes.size());
    return absl::OkStatus();
  }
  for (size_t i = 0; i < output.size(); ++i) {
    uint16_t value;
    std::memcpy(&value, tensor.bytes.data() + 2 * i, 2);
    output[i] = tensor.type == TensorType::kF16 ? F16ToFloat(value) : Bf16ToFloat(value);
  }
  return absl::OkStatus();
}

}  // namespace octavo
