// SPDX-License-Identifier: MIT
#include "prepacked.h"

#include <cstring>
#include <string>

#include "../check.h"
#include "memory.h"

namespace fused_rnn {
namespace {

// Keeps what is behind it aligned for vectors.
struct Header {
  char set[48];
  int64_t kind;
  int64_t unused;
};
constexpr int64_t kHeader = sizeof(Header);
static_assert(kHeader == 64);

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

std::string_view prepacked_bytes(PackOf kind, const Kernels& kernels, const Tensor& prepacked) {
  const int64_t given = prepacked.numel();
  check_tensor("prepacked", prepacked, ScalarType::Byte, {given});
  Header header{};
  if (given >= kHeader) std::memcpy(&header, prepacked.const_data_ptr(), sizeof header);
  STD_TORCH_CHECK(header.kind == int64_t(kind), "prepacked: expected what ",
                  kind == PackOf::kLayer ? "prepack" : "prepack_linear", " returns, got others");
  const std::string_view set = header.set;
  STD_TORCH_CHECK(set == kernels.name, "prepacked: expected weights for ", kernels.name,
                  ", got them for ", header.set);
  return {static_cast<const char*>(prepacked.const_data_ptr()) + kHeader, size_t(given - kHeader)};
}

void check_prepacked(std::string_view bytes, int64_t expected) {
  STD_TORCH_CHECK(int64_t(bytes.size()) == expected, "prepacked: expected ", expected,
                  " bytes behind their header, got ", bytes.size());
}

}  // namespace fused_rnn
