#include "kernels/backend.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"

namespace octavo {
namespace {

constexpr std::size_t kAlignment = 64;

absl::StatusOr<Buffer> AllocateHost(int64_t bytes) {
  const int64_t rounded = (bytes + 63) / 64 * 64;
  void* data = std::aligned_alloc(kAlignment, rounded == 0 ? kAlignment : rounded);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("out of memory: ", rounded >> 20, " MiB more are needed"));
  }
  std::memset(data, 0, rounded);
  return Buffer(data, rounded, std::free);
}

absl::StatusOr<std::unique_ptr<Stream>> OpenTeam(int index, const DeviceOptions& options) {
  if (index != 0) return absl::InvalidArgumentError("the cpu backend has one device, cpu");
  const int available = cpu::AvailableProcessors();
  const int threads = options.threads == 0 ? available : options.threads;
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be 0 (every available processor, here ", available,
                     ") to 1024, not ", threads));
  }
  return std::make_unique<cpu::Team>(threads);
}

void Embed(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
           int64_t rows, int64_t columns, float* hidden, Stream&) {
  cpu::EmbedRows(tables, ids, positions, rows, columns, hidden, columns);
}

void LayerNorm(float* x, int64_t rows, int64_t columns, const float* gain, const float* bias,
               float epsilon, Stream&) {
  cpu::LayerNormRows(x, columns, rows, columns, gain, bias, epsilon);
}

void Encode(const float* input, int64_t rows, int64_t columns, const Matrix& output, Stream&) {
  cpu::EncodeRows(input, columns, rows, columns, output);
}

void MeanPool(const float* hidden, const int32_t* offsets, int64_t sequences, int64_t columns,
              float* output, Stream&) {
  for (int64_t s = 0; s < sequences; ++s) {
    cpu::MeanPool(hidden + offsets[s] * columns, columns, offsets[s + 1] - offsets[s], columns,
                  output + s * columns);
  }
}

void FirstPool(const float* hidden, const int32_t* offsets, int64_t sequences, int64_t columns,
               float* output, Stream&) {
  for (int64_t s = 0; s < sequences; ++s) {
    std::memcpy(output + s * columns, hidden + offsets[s] * columns, columns * sizeof(float));
  }
}

constexpr RowOperations kCpuRows = {Embed, LayerNorm, Encode, MeanPool, FirstPool};

}  // namespace

std::span<const Backend> Backends() {
  // Fastest first: "auto" takes the first whose stream opens.
  static const Backend kBackends[] = {
      {"cpu", cpu::LinearKernels, cpu::AttentionKernels, cpu::DetectedInstructionSets,
       cpu::InstructionSetNames, kCpuRows, AllocateHost, OpenTeam,
       /*default_document_step_us=*/1000},
  };
  return kBackends;
}

absl::StatusOr<const Backend*> FindBackend(std::string_view device) {
  const std::string_view kind = device.substr(0, device.find(':'));
  std::string names;
  for (const Backend& backend : Backends()) {
    if (kind == "auto") {
      if (backend.open_stream(0, DeviceOptions{.threads = 1}).ok()) return &backend;
    } else if (kind == backend.name) {
      return &backend;
    }
    absl::StrAppend(&names, names.empty() ? "" : ", ",
                    absl::string_view(backend.name.data(), backend.name.size()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--device=", absl::string_view(device.data(), device.size()),
                   " is not a device of this build; use auto or one of: ", names));
}

}  // namespace octavo
