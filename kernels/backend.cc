#include "kernels/backend.h"

#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/processors.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/tables.h"
#include "kernels/cpu/team.h"
#ifdef OCTAVO_WITH_CUDA
#include "kernels/cuda/tables.h"
#endif

namespace octavo {
namespace {

constexpr std::size_t kAlignment = 64;

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

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

absl::Status CheckProcessor(int index) {
  if (index == 0) return absl::OkStatus();
  return absl::InvalidArgumentError("the cpu backend has one device, cpu");
}

absl::StatusOr<std::unique_ptr<Stream>> OpenTeam(int index, const DeviceOptions& options) {
  if (absl::Status status = CheckProcessor(index); !status.ok()) return status;
  const int available = cpu::AvailableProcessors();
  const int threads = options.threads == 0 ? available : options.threads;
  if (threads < 0 || threads > 1024) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads must be 0 (every available processor, here ", available,
                     ") to 1024, not ", threads));
  }
  return std::make_unique<cpu::Team>(threads);
}

void Norm(const NormArgs& args, Stream&) {
  // In place: products of this backend add the residual.
  assert(args.input.values == args.hidden.values && args.residual.values == nullptr);
  float* hidden = static_cast<float*>(args.hidden.values);
  if (args.encoded.values == nullptr) {
    cpu::LayerNormRows(hidden, args.hidden.stride, args.rows, args.columns, args.gain, args.bias,
                       args.epsilon);
  } else {
    cpu::LayerNormEncodeRows(hidden, args.hidden.stride, args.rows, args.columns, args.gain,
                             args.bias, args.epsilon, args.encoded);
  }
}

void Embed(const EmbeddingTables& tables, const int32_t* ids, const int32_t* positions,
           const NormArgs& norm, Stream& stream) {
  cpu::EmbedRows(tables, ids, positions, norm.rows, norm.columns,
                 static_cast<float*>(norm.hidden.values), norm.hidden.stride);
  NormArgs in_place = norm;
  in_place.input = norm.hidden;
  Norm(in_place, stream);
}

void Encode(const EncodeArgs& args, Stream&) {
  cpu::EncodeRows(static_cast<const float*>(args.input.values), args.input.stride, args.rows,
                  args.columns, args.output);
}

void MeanPool(const PoolArgs& args, Stream&) {
  const float* hidden = static_cast<const float*>(args.hidden.values);
  for (int64_t s = 0; s < args.sequences; ++s) {
    cpu::MeanPool(hidden + args.offsets[s] * args.hidden.stride, args.hidden.stride,
                  args.offsets[s + 1] - args.offsets[s], args.columns,
                  args.output + s * args.columns);
  }
}

void FirstPool(const PoolArgs& args, Stream&) {
  const float* hidden = static_cast<const float*>(args.hidden.values);
  for (int64_t s = 0; s < args.sequences; ++s) {
    std::memcpy(args.output + s * args.columns, hidden + args.offsets[s] * args.hidden.stride,
                args.columns * sizeof(float));
  }
}

Element HiddenF32(const Format&) { return Element::kF32; }

constexpr Element kOutputs[] = {Element::kF32, Element::kBf16, Element::kInt8, Element::kE4m3};
constexpr int64_t kTimedTokens[] = {1, 2, 4, 8, 16, 32, 64, 128};
constexpr RowOperations kCpuRows = {Embed, Norm, Encode, MeanPool, FirstPool};

}  // namespace

std::span<const Backend> Backends() {
  static const Backend kBackends[] = {
#ifdef OCTAVO_WITH_CUDA
      cuda::kBackend,
#endif
      {.name = "cpu",
       .numbers_devices = false,
       .linear_kernels = cpu::LinearKernels,
       .attention_kernels = cpu::AttentionKernels,
       .instruction_sets = cpu::DetectedInstructionSets,
       .instruction_set_names = cpu::InstructionSetNames,
       .rows = kCpuRows,
       .hidden = HiddenF32,
       .product_adds_residual = true,
       .outputs = kOutputs,
       .allocate = AllocateHost,
       .allocate_host = AllocateHost,
       .check_device = CheckProcessor,
       .read_counters = [](int) { return DeviceCounters{}; },
       .peak_flops = [](int, const Format&) { return 0.0; },
       .open_stream = OpenTeam,
       .default_document_step_us = 1000,
       // A block's widest intermediate stays in the second-level cache beside the weights' panels.
       .document_unit = {.least = 16, .most = 96 * cpu::SecondLevelCacheBytes() >> 20},
       .document_batch_tokens = 2048,
       .timing = {.tokens = kTimedTokens, .most_weights = 384 << 10, .evicted_bytes = 2 << 20},
       .query_format = "a8w8_int8",
       .query_format_reason =
           "from 8 tokens on, products of 8 bits take less time than decoding 4"},
  };
  return kBackends;
}

absl::StatusOr<const Backend*> FindBackend(std::string_view device) {
  const std::string_view kind = device.substr(0, device.find(':'));
  std::string names;
  for (const Backend& backend : Backends()) {
    if (kind == "auto") {
      if (backend.check_device(0).ok()) return &backend;
    } else if (kind == backend.name) {
      return &backend;
    }
    absl::StrAppend(&names, names.empty() ? "" : ", ", View(backend.name));
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "--device=", View(device), " is not a device of this build; use auto or one of: ", names));
}

absl::StatusOr<int> DeviceIndex(std::string_view device) {
  const size_t colon = device.find(':');
  if (colon == std::string_view::npos) return 0;
  const absl::string_view digits(device.data() + colon + 1, device.size() - colon - 1);
  int index = 0;
  if (absl::SimpleAtoi(digits, &index) && index >= 0) return index;
  return absl::InvalidArgumentError(absl::StrCat(
      "--device=", View(device), ": a device number goes after the colon, as in cuda:0"));
}

namespace {

Device MakeDevice(const Backend& backend, int index) {
  const std::string name(backend.name);
  return {&backend, index, backend.numbers_devices ? absl::StrCat(name, ":", index) : name};
}

// OK if some row computes `format` here, whatever the shape.
absl::Status CheckFormat(const Backend& backend, const Format& format) {
  const uint32_t here = backend.instruction_sets();
  for (const LinearKernel& kernel : backend.linear_kernels()) {
    if (kernel.accepts(format) && (kernel.instruction_sets & ~here) == 0) return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat("no kernel computes ", View(format.name)));
}

absl::StatusOr<Device> FindAnyDevice(std::span<const Format* const> formats,
                                     std::string* passed_over) {
  std::string reasons;
  for (const Backend& backend : Backends()) {
    absl::Status status = backend.check_device(0);
    for (const Format* format : formats) {
      if (status.ok()) status = CheckFormat(backend, *format);
    }
    if (status.ok()) {
      if (passed_over != nullptr) passed_over->append(reasons);
      return MakeDevice(backend, 0);
    }
    absl::StrAppend(&reasons, View(backend.name), ": ", status.message(), "\n");
  }
  return absl::UnavailableError(absl::StrCat("--device=auto found none to compute on:\n", reasons));
}

absl::StatusOr<Device> FindOneDevice(std::string_view name) {
  if (name == "auto") return absl::InvalidArgumentError("--device=auto stands alone");
  absl::StatusOr<const Backend*> backend = FindBackend(name);
  if (!backend.ok()) return backend.status();
  absl::StatusOr<int> index = DeviceIndex(name);
  if (!index.ok()) return index.status();
  if (absl::Status status = (*backend)->check_device(*index); !status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat("--device=", View(name), ": ", status.message()));
  }
  return MakeDevice(**backend, *index);
}

}  // namespace

absl::StatusOr<std::vector<Device>> FindDevices(std::string_view names,
                                                std::span<const Format* const> formats,
                                                std::string* passed_over) {
  std::vector<Device> devices;
  for (absl::string_view name : absl::StrSplit(View(names), ',')) {
    absl::StatusOr<Device> device = names == "auto" ? FindAnyDevice(formats, passed_over)
                                                    : FindOneDevice({name.data(), name.size()});
    if (!device.ok()) return device.status();
    if (!devices.empty() && device->backend != devices.front().backend) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--device=", View(names), " mixes kinds of device; name devices of one kind"));
    }
    devices.push_back(*std::move(device));
  }
  return devices;
}

}  // namespace octavo
