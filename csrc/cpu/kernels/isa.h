// SPDX-License-Identifier: MIT
// What a source file of isa/ says of its instruction set before it includes the kernels:
//   FUSED_RNN_ISA           the namespace of all that is compiled for it
//   FUSED_RNN_VECTOR_BYTES  how wide its vectors are
//   FUSED_RNN_INTRINSICS    the header with its instructions, as vec.h finds it; or
//   FUSED_RNN_PLAIN:
//                           none, with FUSED_RNN_FUSED for multiply-adds that round once
//   FUSED_RNN_DOT_BF16      that it has dot products of bfloat16,
//   FUSED_RNN_MATRIX_BF16   and of two rows and two columns at once,
//   FUSED_RNN_DOT_INT8      or of int8, of which the first factor has no sign
//   FUSED_RNN_TILES         that products run on tiles; with FUSED_RNN_TILES_TWIN, in plain C++
//   FUSED_RNN_INTEGER_TILES that those of int8 do, and that nothing else is served
#pragma once

// A header that is opened by itself, as an editor does, has all of them and a namespace of its own.
#ifndef FUSED_RNN_ISA
#define FUSED_RNN_ISA alone
#define FUSED_RNN_VECTOR_BYTES 64
#define FUSED_RNN_PLAIN
#define FUSED_RNN_FUSED
#define FUSED_RNN_DOT_BF16
#define FUSED_RNN_DOT_INT8
#define FUSED_RNN_TILES
#define FUSED_RNN_TILES_TWIN
#define FUSED_RNN_INTEGER_TILES
#endif
