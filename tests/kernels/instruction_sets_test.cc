#include "kernels/cpu/instruction_sets.h"

#if defined(__x86_64__) && defined(__linux__)
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "gtest/gtest.h"

namespace octavo::cpu {
namespace {

#if defined(__x86_64__) && defined(__linux__)
// Whether this process has asked for tile registers and got them.
bool TilesArePermitted() {
  constexpr int kGetStatePermission = 0x1022;  // ARCH_GET_XCOMP_PERM
  constexpr int kTileData = 18;
  uint64_t permitted = 0;
  return syscall(SYS_arch_prctl, kGetStatePermission, &permitted) == 0 &&
         (permitted >> kTileData & 1) != 0;
}

// Linux gives no tiles to a process that could not save them when a signal comes.
TEST(InstructionSetsDeathTest, TilesThatAreRefusedAreNotReported) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // in a process that has not asked yet
  const auto detect_on_a_small_signal_stack = [] {
    static char memory[4096];
    const stack_t small = {.ss_sp = memory, .ss_flags = 0, .ss_size = sizeof(memory)};
    if (sigaltstack(&small, nullptr) != 0) std::exit(0);  // already refused
    const bool reported = (DetectedInstructionSets() & (kAmxInt8 | kAmxBf16)) != 0;
    std::exit(reported || TilesArePermitted() ? 1 : 0);
  };
  EXPECT_EXIT(detect_on_a_small_signal_stack(), testing::ExitedWithCode(0), "");
}
#else
bool TilesArePermitted() { return false; }
#endif

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
  // The kernel may list tiles and refuse them: a sandbox, say.
  const bool tiles = TilesArePermitted();
  EXPECT_EQ((sets & kAmxInt8) != 0, tiles && has({"amx_tile", "amx_int8"}));
  EXPECT_EQ((sets & kAmxBf16) != 0, tiles && has({"amx_tile", "amx_bf16"}));
  EXPECT_EQ(sets, DetectedInstructionSets());
}

}  // namespace
}  // namespace octavo::cpu
