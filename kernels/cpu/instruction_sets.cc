#include "kernels/cpu/instruction_sets.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace octavo::cpu {
namespace {

struct Name {
  InstructionSet set;
  const char* name;
};

constexpr Name kNames[] = {
    {kAvx2, "avx2"},
    {kAvxVnni, "avx_vnni"},
    {kAvx512, "avx512"},
    {kAvx512Vnni, "avx512_vnni"},
    {kAvx512Bf16, "avx512_bf16"},
    {kAmxInt8, "amx_int8"},
    {kAmxBf16, "amx_bf16"},
};

#if defined(__x86_64__)

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros for a leaf the processor does not have.
Registers Cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

constexpr bool Bit(uint32_t word, int bit) { return (word >> bit & 1) != 0; }

// Register states the operating system saves (XCR0).
uint64_t EnabledStates() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

// Linux lends tile registers only to a process that asks, which holds for all its threads, and
// refuses one in which a thread has an alternate signal stack too small to save them on. From then
// on it takes no such stack either.
bool RequestTiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr int kRequestStatePermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestStatePermission, kTileData) == 0;
#else
  return false;
#endif
}

uint32_t Detect() {
  const Registers basic = Cpuid(1, 0);
  const Registers features = Cpuid(7, 0);
  const Registers more = features.eax >= 1 ? Cpuid(7, 1) : Registers{};
  const bool xsave_on = Bit(basic.ecx, 27);
  if (!xsave_on) return kPortable;
  const uint64_t states = EnabledStates();
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

  uint32_t sets = kPortable;
  const bool fma = Bit(basic.ecx, 12), f16c = Bit(basic.ecx, 29), avx = Bit(basic.ecx, 28);
  if ((states & kYmm) != kYmm || !avx || !fma || !f16c || !Bit(features.ebx, 5)) return sets;
  sets |= kAvx2;
  if (Bit(more.eax, 4)) sets |= kAvxVnni;

  const bool f = Bit(features.ebx, 16), dq = Bit(features.ebx, 17);
  const bool bw = Bit(features.ebx, 30), vl = Bit(features.ebx, 31);
  if ((states & kZmm) != kZmm || !f || !dq || !bw || !vl) return sets;
  sets |= kAvx512;
  if (Bit(features.ecx, 11)) sets |= kAvx512Vnni;
  if (Bit(more.eax, 5)) sets |= kAvx512Bf16;

  if ((states & kTiles) == kTiles && Bit(features.edx, 24) && RequestTiles()) {
    if (Bit(features.edx, 25)) sets |= kAmxInt8;
    if (Bit(features.edx, 22)) sets |= kAmxBf16;
  }
  return sets;
}

#else

uint32_t Detect() { return kPortable; }

#endif

}  // namespace

uint32_t DetectedInstructionSets() {
  static const uint32_t sets = Detect();
  return sets;
}

std::string InstructionSetNames(uint32_t sets) {
  std::string names;
  for (const Name& row : kNames) {
    if ((sets & row.set) == 0) continue;
    if (!names.empty()) names += ' ';
    names += row.name;
  }
  return names.empty() ? "portable" : names;
}

}  // namespace octavo::cpu
