// SPDX-License-Identifier: MIT
// What the processor at hand has.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fused_rnn {

#if defined(__x86_64__)
inline bool has_avx2() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  // clang 14 has no name for this one, nor for avx512bf16.
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

inline bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

inline bool has_avx512_bf16() {
  constexpr unsigned kAvx512Bf16Bit = 1 << 5;
  unsigned a, b, c, d;
  return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & kAvx512Bf16Bit;
}
#elif defined(__aarch64__)
inline bool has_neon_bf16() {
#if defined(__linux__)
  constexpr unsigned long kBf16Bit = 1 << 14;
  return getauxval(AT_HWCAP2) & kBf16Bit;
#elif defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has;
#else
  return false;
#endif
}
#endif

}  // namespace fused_rnn
