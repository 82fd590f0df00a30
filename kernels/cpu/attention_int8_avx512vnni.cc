#include "kernels/cpu/attention_integer_avx512vnni.h"

namespace octavo::cpu {

void AttendInt8Avx512Vnni(const AttentionBlock& block) { AttendInIntegers<Int8Quads>(block); }

}  // namespace octavo::cpu
