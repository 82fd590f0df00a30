#include <bit>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/checkpoint.h"
#include "runtime/tensor_names.h"

namespace octavo {
namespace {

// SplitMix64 (Steele, Lea and Flood 2014, figure 17).
class Random64 {
 public:
  explicit Random64(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  // Mean 0, deviation 1, near normal and never beyond +-3.47: the sum of four uniform 16-bit
  // numbers, integer until the last step so that every machine gives the same bits.
  float Normal() {
    const uint64_t bits = Next();
    const int sum = static_cast<int>((bits & 0xffff) + (bits >> 16 & 0xffff) +
                                     (bits >> 32 & 0xffff) + (bits >> 48));
    constexpr float kDeviation = 65536.0f * 0.57735027f;  // of the sum: 2^16 * sqrt(4 / 12)
    return static_cast<float>(sum - 2 * 65535) / kDeviation;
  }

 private:
  uint64_t state_;
};

struct Distribution {
  float mean, deviation;
};

Distribution DistributionOf(TensorRole role) {
  switch (role) {
    case TensorRole::kNormGain:
      return {1.0f, 0.014f};
    case TensorRole::kBias:
    case TensorRole::kNormBias:
      return {0.0f, 0.02f};
    case TensorRole::kEmbedding:
    case TensorRole::kWeight:
      return {0.0f, 0.03f};
  }
  return {0.0f, 0.0f};
}

}  // namespace

std::unique_ptr<Checkpoint> Checkpoint::Random(const ModelSpec& spec, uint64_t seed) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->name_ = absl::StrCat("random-", spec.hidden, "x", spec.layers.size());
  checkpoint->spec_ = spec;
  size_t elements = 0;
  ForEachTensor(&checkpoint->spec_,
                [&](std::string& name, TensorRole, const std::vector<int64_t>& shape) {
                  Tensor& tensor = checkpoint->tensors_.tensors[name];
                  tensor.shape = shape;
                  elements += tensor.elements();
                });
  checkpoint->random_.resize(elements);
  Random64 random(seed);
  float* next = checkpoint->random_.data();
  ForEachTensor(&checkpoint->spec_,
                [&](std::string& name, TensorRole role, const std::vector<int64_t>&) {
                  Tensor& tensor = checkpoint->tensors_.tensors[name];
                  const Distribution distribution = DistributionOf(role);
                  const int64_t count = tensor.elements();
                  for (int64_t i = 0; i < count; ++i) {
                    next[i] = distribution.mean + distribution.deviation * random.Normal();
                  }
                  tensor.bytes = std::span(reinterpret_cast<const uint8_t*>(next),
                                           static_cast<size_t>(count) * sizeof(float));
                  next += count;
                });
  return checkpoint;
}

}  // namespace octavo
