#include "kernels/cuda/architectures.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/stream.h"
#include "kernels/cuda/tables.h"

namespace octavo::cuda {
namespace {

absl::StatusOr<std::unique_ptr<Stream>> OpenStream(int index, const DeviceOptions&) {
  return CudaStream::Open(index);
}

Element Hidden(const Format& format) {
  return format.weight.element == Element::kBf16 ? Element::kBf16 : Element::kF16;
}

constexpr Element kOutputs[] = {Element::kF32, Element::kF16, Element::kBf16, Element::kInt8,
                                Element::kE4m3};

// Up to where every multiprocessor has many tiles: the fastest row changes no more.
constexpr int64_t kTimedTokens[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};

}  // namespace

const Backend kBackend = {
    .name = "cuda",
    .numbers_devices = true,
    .linear_kernels = LinearKernels,
    .attention_kernels = AttentionKernels,
    .instruction_sets = DetectedArchitectures,
    .instruction_set_names = ArchitectureNames,
    .rows = kRows,
    .hidden = Hidden,
    .product_adds_residual = false,
    .outputs = kOutputs,
    .allocate = Allocate,
    .allocate_host = AllocatePinned,
    .check_device = CheckDevice,
    .read_counters = ReadCounters,
    .peak_flops = PeakFlops,
    .open_stream = OpenStream,
    .default_document_step_us = 150,
    // Fewer rows do not fill the multiprocessors.
    .document_unit = {.least = 1024, .most = 65536},
    .document_batch_tokens = 32768,
    .timing = {.tokens = kTimedTokens, .calls = 16},
};

}  // namespace octavo::cuda
