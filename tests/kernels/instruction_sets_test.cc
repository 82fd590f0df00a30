#include "kernels/cpu/instruction_sets.h"

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace octavo::cpu {
namespace {

TEST(InstructionSetsTest, NamesAreListedInOrder) {
  EXPECT_EQ(InstructionSetNames(kPortable), "portable");
  EXPECT_EQ(InstructionSetNames(kAvx2 | kAvx512 | kAvx512Vnni), "avx2 avx512 avx512_vnni");
  EXPECT_EQ(InstructionSetNames(0x7f),
            "avx2 avx_vnni avx512 avx512_vnni avx512_bf16 amx_int8 amx_bf16");
}

// The kernel's own list of what it found and enabled, read from another place than ours.
TEST(InstructionSetsTest, AgreesWithProcCpuinfo) {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  std::set<std::string> flags;
  while (std::getline(cpuinfo, line)) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    std::string word;
    while (words >> word) flags.insert(word);
    break;
  }
  if (flags.empty()) GTEST_SKIP() << "/proc/cpuinfo lists no flags on this machine";
  const auto has = [&](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      if (flags.count(name) == 0) return false;
    }
    return true;
  };
  const uint32_t sets = DetectedInstructionSets();
  const bool avx2 = has({"avx2", "fma", "f16c"});
  const bool avx512 = avx2 && has({"avx512f", "avx512bw", "avx512dq", "avx512vl"});
  EXPECT_EQ((sets & kAvx2) != 0, avx2);
  EXPECT_EQ((sets & kAvx512) != 0, avx512);
  EXPECT_EQ((sets & kAvx512Vnni) != 0, avx512 && has({"avx512_vnni"}));
  EXPECT_EQ((sets & kAvx512Bf16) != 0, avx512 && has({"avx512_bf16"}));
  EXPECT_EQ((sets & kAvxVnni) != 0, avx2 && has({"avx_vnni"}));
  // Tiles may still be refused by the kernel: what we report must be a subset.
  EXPECT_TRUE((sets & kAmxInt8) == 0 || has({"amx_tile", "amx_int8"}));
  EXPECT_TRUE((sets & kAmxBf16) == 0 || has({"amx_tile", "amx_bf16"}));
  EXPECT_EQ(sets, DetectedInstructionSets());
}

}  // namespace
}  // namespace octavo::cpu
