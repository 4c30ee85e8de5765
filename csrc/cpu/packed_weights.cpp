// SPDX-License-Identifier: MIT
#include "packed_weights.h"

#include <cstring>
#include <string>

#include "../check.h"
#include "memory.h"

namespace fused_rnn::cpu {
namespace {

// Keeps what is behind it aligned for vectors.
struct Header {
  char set[48];
  int64_t kind;
  int64_t unused;
};
constexpr int64_t kHeader = sizeof(Header);
static_assert(kHeader == 64);

Header header_of(const Tensor& prepacked) {
  Header header{};
  std::memcpy(&header, prepacked.const_data_ptr(), sizeof header);
  return header;
}

}  // namespace

Tensor make_prepacked(PackOf kind, const Kernels& kernels, int64_t bytes) {
  Tensor prepacked = make_recycled({kHeader + bytes}, ScalarType::Byte);
  Header header{{}, int64_t(kind), 0};
  std::strncpy(header.set, kernels.name, sizeof header.set - 1);
  std::memcpy(prepacked.mutable_data_ptr(), &header, sizeof header);
  return prepacked;
}

char* prepacked_memory(Tensor& prepacked) {
  return static_cast<char*>(prepacked.mutable_data_ptr()) + kHeader;
}

std::string_view prepacked_bytes(PackOf kind, const Tensor& prepacked) {
  const int64_t given = prepacked.numel();
  check_tensor("prepacked", prepacked, ScalarType::Byte, {given});
  FUSED_RNN_CHECK(given >= kHeader && header_of(prepacked).kind == int64_t(kind),
                  "prepacked: expected what ",
                  kind == PackOf::kLayer ? "prepack" : "prepack_linear", " returns, got others");
  return {static_cast<const char*>(prepacked.const_data_ptr()) + kHeader, size_t(given - kHeader)};
}

void check_prepacked(const Tensor& prepacked, const Kernels& kernels, int64_t expected) {
  const Header header = header_of(prepacked);
  FUSED_RNN_CHECK(std::string_view(header.set) == kernels.name, "prepacked: expected weights for ",
                  kernels.name, ", got them for ", header.set);
  FUSED_RNN_CHECK(prepacked.numel() == kHeader + expected, "prepacked: expected ", expected,
                  " bytes behind their header, got ", prepacked.numel() - kHeader);
}

}  // namespace fused_rnn::cpu
