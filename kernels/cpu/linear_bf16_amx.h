// bf16 by tdpbf16ps on the panels of pairs that all bf16 rows share.
#pragma once

#include "kernels/cpu/linear_amx.h"

namespace octavo::cpu {
namespace {

template <class TileInstructions>
struct Bf16Tiles {
  using Tiles = TileInstructions;
  static constexpr int64_t kElementBytes = 2;

  static WeightTiles Weights(const LinearBlock& block, int64_t column, int64_t) {
    const PanelWeight& weight = *static_cast<const PanelWeight*>(block.weight);
    return {.words = weight.panels + column / kPanelColumns * weight.panel_bytes,
            .stride = kPanelColumns * 4,
            .pair_step = weight.panel_bytes};
  }

  template <int kSum, int kA, int kB>
  static void Dot() {
    Tiles::template DotBf16<kSum, kA, kB>();
  }

  static void Scale(const LinearBlock&, float*, int64_t, int64_t, int64_t, int64_t, int64_t) {}
};

}  // namespace
}  // namespace octavo::cpu
