// wgmma with A in registers, one function an instruction, and what goes with it.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace octavo::cuda {

// The descriptor of a matrix in shared memory, less its address / 16. `mode`: 1: 128-byte swizzle,
// 2: 64-byte swizzle. `group`: bytes from one 8 rows to the next; `panel`: bytes from one panel of
// columns to the next (for matrices read transposed).
constexpr uint64_t WgmmaDescriptor(uint32_t panel, uint32_t group, uint64_t mode) {
  return static_cast<uint64_t>(panel >> 4) << 16 | static_cast<uint64_t>(group >> 4) << 32 |
         mode << 62;
}

// With an address, both in units of 16 bytes: only the lower word changes.
__device__ inline uint64_t Advance(uint64_t descriptor, uint32_t address) {
  return (descriptor >> 32 << 32) | (static_cast<uint32_t>(descriptor) + address);
}

// d[64, 2 * kValues] = a[64, 16] b[16, 2 * kValues] + (accumulate ? d : 0). kTransposed: b's 16
// rows lie one after another in shared memory (values); otherwise its columns do (keys).
#define OCTAVO_WGMMA_N32(type)                                                                  \
  asm volatile(                                                                                 \
      "{.reg .pred p; setp.ne.b32 p, %21, 0;"                                                   \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." type "." type                               \
      " {"                                                                                      \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"                    \
      "}, {%16, %17, %18, %19}, %20, p, 1, 1, %22;}"                                            \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),     \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), \
        "+f"(d[14]), "+f"(d[15])                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kTransposed))
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[16], const uint32_t* a, uint64_t b, int accumulate,
                             __half) {
  OCTAVO_WGMMA_N32("f16");
}
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[16], const uint32_t* a, uint64_t b, int accumulate,
                             __nv_bfloat16) {
  OCTAVO_WGMMA_N32("bf16");
}
#undef OCTAVO_WGMMA_N32

#define OCTAVO_WGMMA_N64(type)                                                                     \
  asm volatile(                                                                                    \
      "{.reg .pred p; setp.ne.b32 p, %37, 0;"                                                      \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                  \
      " {"                                                                                         \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "      \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"                            \
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;}"                                               \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                         \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kTransposed))
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[32], const uint32_t* a, uint64_t b, int accumulate,
                             __half) {
  OCTAVO_WGMMA_N64("f16");
}
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[32], const uint32_t* a, uint64_t b, int accumulate,
                             __nv_bfloat16) {
  OCTAVO_WGMMA_N64("bf16");
}
#undef OCTAVO_WGMMA_N64

#define OCTAVO_WGMMA_N128(type)                                                                    \
  asm volatile(                                                                                    \
      "{.reg .pred p; setp.ne.b32 p, %69, 0;"                                                      \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                 \
      " {"                                                                                         \
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "      \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "      \
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "      \
      "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"                                      \
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, %70;}"                                               \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
        "+f"(d[63])                                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(kTransposed))
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[64], const uint32_t* a, uint64_t b, int accumulate,
                             __half) {
  OCTAVO_WGMMA_N128("f16");
}
template <int kTransposed>
__device__ inline void Wgmma(float (&d)[64], const uint32_t* a, uint64_t b, int accumulate,
                             __nv_bfloat16) {
  OCTAVO_WGMMA_N128("bf16");
}
#undef OCTAVO_WGMMA_N128

}  // namespace octavo::cuda
