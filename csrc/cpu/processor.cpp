// SPDX-License-Identifier: MIT
#include "processor.h"

#include <cerrno>
#include <cstring>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#ifdef __linux__
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "problem.h"

namespace fused_rnn::cpu {
namespace {

#ifdef __x86_64__

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;

  explicit Registers(unsigned leaf, unsigned part = 0) {
    if (!__get_cpuid_count(leaf, part, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};

bool bit(unsigned word, int index) { return word >> index & 1; }

// Which registers the operating system saves, by the bits of XCR0.
unsigned saved_registers() {
  if (!bit(Registers(1).c, 27)) return 0;
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

constexpr unsigned kAvxState = 0x6, kAvx512State = 0xE6, kTileState = 0x60000;

std::string why_not_amx(unsigned saved) {
  const unsigned d = Registers(7).d;
  if (!bit(d, 24) || !bit(d, 22)) return "the processor has no AMX with bfloat16";
  if ((saved & kTileState) != kTileState) return "the operating system does not save tiles";
#ifdef __linux__
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    return std::string("the kernel refuses tiles: ") + std::strerror(errno);
  }
  return "";
#else
  return "known on Linux only";
#endif
}

Processor ask() {
  Processor found{};
  const unsigned saved = saved_registers();
  const Registers base(1), extended(7), more(7, 1);
  const bool avx = (saved & kAvxState) == kAvxState;
  const bool wide = (saved & kAvx512State) == kAvx512State;
  found.avx2 = avx && bit(extended.b, 5) && bit(base.c, 12) && bit(base.c, 29);
  found.avx512 = found.avx2 && wide && bit(extended.b, 16) && bit(extended.b, 17) &&
                 bit(extended.b, 30) && bit(extended.b, 31);
  found.avx512_vnni = found.avx512 && bit(extended.c, 11);
  found.avx512_bf16 = found.avx512 && bit(more.a, 5);
  const Registers maker(0);
  found.fast_bf16 = !(maker.b == signature_INTEL_ebx && maker.c == signature_INTEL_ecx);
  found.why_not_amx = found.avx512 ? why_not_amx(saved) : "the processor has no AVX-512";
  found.amx = found.why_not_amx.empty();
  found.amx_int8 = found.amx && found.avx512_vnni && bit(extended.d, 25);
  return found;
}

#else

bool has_neon_bf16() {
#if defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kBf16Bit = 1 << 14;
  return getauxval(AT_HWCAP2) & kBf16Bit;
#elif defined(__aarch64__) && defined(__APPLE__)
  int has = 0;
  size_t size = sizeof has;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &has, &size, nullptr, 0) == 0 && has;
#else
  return false;
#endif
}

Processor ask() {
  Processor found{};
  found.neon_bf16 = found.fast_bf16 = has_neon_bf16();
  found.why_not_amx = "the processor is no x86-64";
  return found;
}

#endif

}  // namespace

int64_t near_cache_bytes() {
  constexpr int64_t kUnknown = 1 << 20;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : kUnknown;
#else
  return kUnknown;
#endif
}

const Processor& processor() {
  static const Processor found = ask();
  return found;
}

}  // namespace fused_rnn::cpu
