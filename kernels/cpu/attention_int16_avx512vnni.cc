#include "kernels/cpu/attention_integer_avx512vnni.h"

namespace octavo::cpu {

void AttendInt16Avx512Vnni(const AttentionBlock& block) { AttendInIntegers<Int16Pairs>(block); }

}  // namespace octavo::cpu
