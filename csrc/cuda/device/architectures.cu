// SPDX-License-Identifier: MIT
// Which GPUs the kernels beside this file were compiled for.
#include "../kernels.h"

namespace fused_rnn {
namespace cuda {

const char* built_architectures() { return FUSED_RNN_ARCHITECTURES; }

}  // namespace cuda
}  // namespace fused_rnn
