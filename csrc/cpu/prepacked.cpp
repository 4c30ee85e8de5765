// SPDX-License-Identifier: MIT
#include "prepacked.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "../check.h"
#include "dispatch.h"
#include "memory.h"

namespace fused_rnn {
namespace {

// Keeps what is behind it aligned for vectors.
constexpr int64_t kHeader = 64;

}  // namespace

Tensor make_prepacked(int64_t bytes) {
  Tensor prepacked = make_recycled({kHeader + bytes}, ScalarType::Byte);
  char* header = static_cast<char*>(prepacked.mutable_data_ptr());
  std::memset(header, 0, size_t(kHeader));
  instruction_set().copy(header, size_t(kHeader - 1));
  return prepacked;
}

char* prepacked_memory(Tensor& prepacked) {
  return static_cast<char*>(prepacked.mutable_data_ptr()) + kHeader;
}

const char* prepacked_memory(const Tensor& prepacked, int64_t bytes) {
  const int64_t given = prepacked.numel();
  check_tensor("prepacked", prepacked, ScalarType::Byte, {given});
  const char* header = static_cast<const char*>(prepacked.const_data_ptr());
  const std::string set(header, strnlen(header, size_t(std::min(given, kHeader))));
  STD_TORCH_CHECK(set == instruction_set(), "prepacked: expected weights for ", instruction_set(),
                  ", got them for ", set);
  check_tensor("prepacked", prepacked, ScalarType::Byte, {kHeader + bytes});
  return header + kHeader;
}

}  // namespace fused_rnn
