#include "tests/bench/peak.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <iterator>
#include <map>
#include <thread>
#include <utility>

#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/tiles_amx.h"
#include "nlohmann/json.hpp"

namespace octavo::bench {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

#if defined(__x86_64__)

// Twelve independent accumulators hide four to five cycles of latency on two ports. Registers 12
// to 15 hold zeros, so that no float becomes slow. The loops are text for the assembler: a compiler
// would find the results unused, and needs no flag to assemble them.
#define OCTAVO_TIMES_12(before, r, after)                                              \
  before r "0" after before r "1" after before r "2" after before r "3" after before r \
           "4" after before r "5" after before r "6" after before r "7" after before r \
           "8" after before r "9" after before r "10" after before r "11" after
#define OCTAVO_CLOBBERS                                                                          \
  "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define OCTAVO_LOOP(zero, body)                                  \
  asm volatile(zero "1:\n" body "dec %0\n jnz 1b\n vzeroupper\n" \
               : "+r"(iterations)                                \
               :                                                 \
               : OCTAVO_CLOBBERS)
#define OCTAVO_ZERO_ALL "vzeroall\n"

void Int8Avx512Vnni(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL, OCTAVO_TIMES_12("vpdpbusd %%zmm12, %%zmm13, ", "%%zmm", "\n"));
}
void Int16Avx512Vnni(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL, OCTAVO_TIMES_12("vpdpwssd %%zmm12, %%zmm13, ", "%%zmm", "\n"));
}
void Int8AvxVnni(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL,
              OCTAVO_TIMES_12("%{vex%} vpdpbusd %%ymm12, %%ymm13, ", "%%ymm", "\n"));
}
// A multiply-add of 16-bit pairs and an addition, as the AVX2 row does.
void Int8Avx2(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL,
              OCTAVO_TIMES_12("vpmaddwd %%ymm12, %%ymm13, %%ymm14\n vpaddd %%ymm14, %%ymm15, ",
                              "%%ymm", "\n"));
}
void Bf16Avx512Bf16(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL, OCTAVO_TIMES_12("vdpbf16ps %%zmm12, %%zmm13, ", "%%zmm", "\n"));
}
void F32Avx512(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL, OCTAVO_TIMES_12("vfmadd231ps %%zmm12, %%zmm13, ", "%%zmm", "\n"));
}
void F32Avx2(int64_t iterations) {
  OCTAVO_LOOP(OCTAVO_ZERO_ALL, OCTAVO_TIMES_12("vfmadd231ps %%ymm12, %%ymm13, ", "%%ymm", "\n"));
}

// Six accumulators of 16 x 16 products on tiles of 16 x 64 bytes, all zeros.
#define OCTAVO_TILE_LOOP(dot)                                                             \
  asm volatile("ldtilecfg %1\n1:\n" dot "0\n" dot "1\n" dot "2\n" dot "3\n" dot "4\n" dot \
               "5\n"                                                                      \
               "dec %0\n jnz 1b\n tilerelease\n"                                          \
               : "+r"(iterations)                                                         \
               : "m"(kWholeTiles)                                                         \
               : "cc")

constexpr cpu::TileConfig kWholeTiles = {.row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                         .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

void Int8Amx(int64_t iterations) { OCTAVO_TILE_LOOP("tdpbsud %%tmm7, %%tmm6, %%tmm"); }
void Bf16Amx(int64_t iterations) { OCTAVO_TILE_LOOP("tdpbf16ps %%tmm7, %%tmm6, %%tmm"); }

// Loads of `bytes`, a multiple of kReadStep, and nothing else: 512 bytes an iteration.
#define OCTAVO_READ(load, width, r)                                                            \
  asm volatile("1:\n" load " 0*" width "(%0), " r "0\n" load " 1*" width "(%0), " r "1\n" load \
               " 2*" width "(%0), " r "2\n" load " 3*" width "(%0), " r "3\n" load " 4*" width \
               "(%0), " r "4\n" load " 5*" width "(%0), " r "5\n" load " 6*" width "(%0), " r  \
               "6\n" load " 7*" width "(%0), " r                                               \
               "7\n"                                                                           \
               "add $8*" width ", %0\n sub $8*" width ", %1\n jnz 1b\n vzeroupper\n"           \
               : "+r"(data), "+r"(bytes)                                                       \
               :                                                                               \
               : "memory", OCTAVO_CLOBBERS)

void ReadAvx512(const uint8_t* data, int64_t bytes) { OCTAVO_READ("vmovups", "64", "%%zmm"); }
void ReadAvx2(const uint8_t* data, int64_t bytes) { OCTAVO_READ("vmovups", "32", "%%ymm"); }

#undef OCTAVO_READ
#undef OCTAVO_TILE_LOOP
#undef OCTAVO_ZERO_ALL
#undef OCTAVO_LOOP
#undef OCTAVO_CLOBBERS
#undef OCTAVO_TIMES_12

constexpr int64_t kAccumulators = 12;
constexpr int64_t kTileFlops = 6 * 16 * 16 * 64 * 2;  // of bytes
constexpr PeakLoop kLoops[] = {
    {"int8_amx", Element::kInt8, cpu::kAmxInt8, kTileFlops, Int8Amx},
    {"int8_avx512vnni", Element::kInt8, cpu::kAvx512 | cpu::kAvx512Vnni, kAccumulators * 128,
     Int8Avx512Vnni},
    {"int16_avx512vnni", Element::kInt16, cpu::kAvx512 | cpu::kAvx512Vnni, kAccumulators * 64,
     Int16Avx512Vnni},
    {"int8_avxvnni", Element::kInt8, cpu::kAvx2 | cpu::kAvxVnni, kAccumulators * 64, Int8AvxVnni},
    {"int8_avx2", Element::kInt8, cpu::kAvx2, kAccumulators * 32, Int8Avx2},
    {"bf16_amx", Element::kBf16, cpu::kAmxBf16, kTileFlops / 2, Bf16Amx},
    {"bf16_avx512bf16", Element::kBf16, cpu::kAvx512 | cpu::kAvx512Bf16, kAccumulators * 64,
     Bf16Avx512Bf16},
    {"f32_avx512", Element::kF32, cpu::kAvx512, kAccumulators * 32, F32Avx512},
    {"f32_avx2", Element::kF32, cpu::kAvx2, kAccumulators * 16, F32Avx2},
};

std::vector<PeakLoop> AllLoops() { return {std::begin(kLoops), std::end(kLoops)}; }

#else

std::vector<PeakLoop> AllLoops() { return {}; }

#endif

constexpr int64_t kReadStep = 512;        // bytes that every read loop can do in whole iterations
constexpr int64_t kReadBytes = 16 << 20;  // a thread reads at least so much in one timing
using ReadLoop = void (*)(const uint8_t* data, int64_t bytes);

void ReadWords(const uint8_t* data, int64_t bytes) {
  uint64_t sums[8] = {};
  for (int64_t i = 0; i < bytes; i += sizeof(sums)) {
    uint64_t words[8];
    std::memcpy(words, data + i, sizeof(words));
    for (int j = 0; j < 8; ++j) sums[j] += words[j];
  }
  for (uint64_t sum : sums) asm volatile("" : : "r"(sum));
}

ReadLoop UsableReadLoop() {
#if defined(__x86_64__)
  const uint32_t here = cpu::DetectedInstructionSets();
  if ((here & cpu::kAvx512) != 0) return ReadAvx512;
  if ((here & cpu::kAvx2) != 0) return ReadAvx2;
#endif
  return ReadWords;
}

// Runs body(thread) on `threads` threads, released together; returns the seconds until the last has
// finished.
template <typename Body>
double TimeTogether(int threads, const Body& body) {
  std::atomic<int> waiting{0};
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) {
    others.emplace_back([&, t] {
      waiting.fetch_add(1);
      while (waiting.load() < threads) std::this_thread::yield();
      body(t);
    });
  }
  while (waiting.load() < threads - 1) std::this_thread::yield();
  const Clock::time_point start = Clock::now();
  waiting.fetch_add(1);
  body(0);
  for (std::thread& other : others) other.join();
  return Since(start);
}

}  // namespace

std::vector<PeakLoop> UsablePeakLoops() {
  std::vector<PeakLoop> usable = AllLoops();
  const uint32_t here = cpu::DetectedInstructionSets();
  std::erase_if(usable, [&](const PeakLoop& loop) { return (loop.instruction_sets & ~here) != 0; });
  return usable;
}

double MeasurePeak(const PeakLoop& loop, int threads) {
  constexpr int64_t kIterations = 400'000;  // one to fifteen milliseconds
  double best = 1e9;
  for (int round = 0; round < 20; ++round) {
    best = std::min(best, TimeTogether(threads, [&](int) { loop.run(kIterations); }));
  }
  return static_cast<double>(loop.flops * kIterations) * threads / best;
}

double PeakFlops(Element element, int threads) {
  static std::map<std::pair<Element, int>, double> known;
  const std::vector<PeakLoop> loops = UsablePeakLoops();
  if (std::none_of(loops.begin(), loops.end(),
                   [&](const PeakLoop& loop) { return loop.element == element; })) {
    element = Element::kF32;
  }
  double& peak = known[{element, threads}];
  if (peak == 0.0) {
    for (const PeakLoop& loop : loops) {
      if (loop.element == element) peak = std::max(peak, MeasurePeak(loop, threads));
    }
  }
  return peak;
}

double MeasureReadRate(int64_t bytes, int threads) {
  const int64_t share =
      std::max((bytes / threads + kReadStep - 1) / kReadStep * kReadStep, kReadStep);
  const int64_t passes = std::max<int64_t>(kReadBytes / share, 1);
  std::vector<std::vector<uint8_t>> sets(threads, std::vector<uint8_t>(share, 1));
  const ReadLoop read = UsableReadLoop();
  double best = 1e9;
  for (int round = 0; round < 10; ++round) {
    best = std::min(best, TimeTogether(threads, [&](int thread) {
                      for (int64_t i = 0; i < passes; ++i) read(sets[thread].data(), share);
                    }));
  }
  return static_cast<double>(share * passes) * threads / best;
}

double ReadRate(int64_t bytes, int threads) {
  static std::map<std::pair<uint64_t, int>, double> known;
  const uint64_t rounded = std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(bytes, 1)));
  double& rate = known[{rounded, threads}];
  if (rate == 0.0) rate = MeasureReadRate(static_cast<int64_t>(rounded), threads);
  return rate;
}

void RunPeakBench(int threads, std::ostream* output) {
  std::vector<int> counts = {1};
  if (threads > 1) counts.push_back(threads);
  for (int count : counts) {
    for (const PeakLoop& loop : UsablePeakLoops()) {
      *output << nlohmann::json{{"bench", "peak"},
                                {"what", std::string(loop.name)},
                                {"threads", count},
                                {"gops", MeasurePeak(loop, count) / 1e9}}
                     .dump()
              << std::endl;
    }
    // From the first-level cache to memory: the last is far larger than any cache.
    for (int64_t kilobytes : {16, 512, 4096, 32768, 1 << 20}) {
      *output << nlohmann::json{{"bench", "peak"},
                                {"what", "read"},
                                {"kilobytes", kilobytes},
                                {"threads", count},
                                {"gbytes_per_second",
                                 MeasureReadRate(kilobytes << 10, count) / 1e9}}
                     .dump()
              << std::endl;
    }
  }
}

}  // namespace octavo::bench
