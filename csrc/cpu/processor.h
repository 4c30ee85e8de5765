// SPDX-License-Identifier: MIT
// What this processor can do and does well.
#pragma once

#include <string>

namespace fused_rnn::cpu {

struct Processor {
  bool avx2, avx512, avx512_vnni, avx512_bf16, amx, amx_int8, neon_bf16;
  // Whether a bfloat16 dot product takes no longer than the float32 multiply-add that does half of
  // its work. It takes twice as long on Intel's x86 processors and half as long on AMD's. Decided
  // by the maker, not by a measurement: all processes on a machine are to give the same bits.
  bool fast_bf16;
  std::string why_not_amx;  // empty where there is AMX
};

// Asks once, and the kernel for the permission that AMX needs.
const Processor& processor();

}  // namespace fused_rnn::cpu
