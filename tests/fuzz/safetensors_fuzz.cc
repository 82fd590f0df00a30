// Any bytes as a safetensors file: parsed or refused, and what is parsed lies inside the buffer.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "runtime/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::StatusOr<octavo::TensorFile> file = octavo::ParseSafetensors({data, size});
  if (!file.ok()) return 0;
  size_t total = 0;
  for (const auto& [name, tensor] : file->tensors) {
    if (tensor.bytes.data() < data || tensor.bytes.data() + tensor.bytes.size() > data + size) {
      std::abort();
    }
    total += tensor.bytes.size();
    std::vector<float> values(tensor.elements());
    (void)octavo::ToFloat(tensor, values);
  }
  if (total > size) std::abort();  // tensors must not overlap
  return 0;
}
