// SPDX-License-Identifier: MIT
#include "memory.h"

#include <sys/mman.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

namespace fused_rnn::cpu {
namespace {

constexpr size_t kHugePage = 2 << 20;
// What the C library gives back to the system when it is freed.
constexpr size_t kWorthKeeping = 128 << 10;

// Asks for huge pages where memory not yet touched holds some.
void prefer_huge_pages(void* memory, size_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & -kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) & -kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Bytes that allocate() takes for so many.
size_t rounded(size_t bytes) {
  const size_t page = bytes < kHugePage ? 64 : kHugePage;
  return (bytes + page - 1) / page * page;
}

char* allocate(size_t bytes) {
  const size_t page = bytes < kHugePage ? 64 : kHugePage;
  char* memory = static_cast<char*>(std::aligned_alloc(page, rounded(bytes)));
  if (!memory) throw std::bad_alloc();
  prefer_huge_pages(memory, rounded(bytes));
  return memory;
}

// Memory that grows as it is asked for.
class Block {
 public:
  Block() = default;
  ~Block() { std::free(memory_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  // At least `bytes`; what it held before is lost.
  char* reserve(size_t bytes) {
    if (bytes <= size_) return memory_;
    std::free(memory_);
    memory_ = nullptr;
    size_ = 0;
    memory_ = allocate(bytes);
    size_ = rounded(bytes);
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

// Freed memory, kept for the next tensors of about its size. Nobody waits for it: whoever finds it
// in use, as may be after a fork for ever, goes to the system.
class Shelf {
 public:
  // At least `bytes`, which then holds how many.
  char* take(size_t& bytes) {
    bytes = rounded(bytes);
    std::unique_lock lock(mutex_, std::try_to_lock);
    for (size_t i = 0; lock.owns_lock() && i < kept_.size(); ++i) {
      if (kept_[i].bytes < bytes || kept_[i].bytes > bytes + bytes / 4) continue;
      const Kept found = kept_[i];
      kept_.erase(kept_.begin() + ptrdiff_t(i));
      total_ -= found.bytes;
      bytes = found.bytes;
      return found.memory;
    }
    return allocate(bytes);
  }

  void give(char* memory, size_t bytes) {
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || bytes > kMost) return std::free(memory);
    for (; total_ + bytes > kMost; kept_.erase(kept_.begin())) {
      total_ -= kept_.front().bytes;
      std::free(kept_.front().memory);
    }
    kept_.push_back({memory, bytes});
    total_ += bytes;
  }

 private:
  static constexpr size_t kMost = 256 << 20;
  struct Kept {
    char* memory;
    size_t bytes;
  };
  std::mutex mutex_;
  std::vector<Kept> kept_;  // the oldest first
  size_t total_ = 0;
};

// Never destroyed: tensors may outlive all else.
Shelf& shelf() {
  static Shelf* const shelf = new Shelf;
  return *shelf;
}

struct Form {
  std::array<int64_t, 5> strides;
  size_t bytes;

  Form(Sizes shape, ScalarType dtype) {
    int64_t stride = 1;
    for (size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= std::max<int64_t>(shape[i], 1);
    }
    bytes = size_t(stride) * aoti_torch_dtype_element_size(int32_t(dtype));
  }
};

}  // namespace

// The shim is called directly: finding an operator by its name takes longer than a small layer.
Tensor make(Sizes shape, ScalarType dtype) {
  const Form form(shape, dtype);
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.data(),
                                                  form.strides.data(), int32_t(dtype),
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  Tensor tensor(handle);
  if (form.bytes >= kHugePage) prefer_huge_pages(tensor.mutable_data_ptr(), form.bytes);
  return tensor;
}

Tensor make_recycled(Sizes shape, ScalarType dtype) {
  const Form form(shape, dtype);
  if (form.bytes < kWorthKeeping) return make(shape, dtype);
  size_t bytes = form.bytes;
  char* memory = shelf().take(bytes);
  const auto give = [bytes](void* memory) { shelf().give(static_cast<char*>(memory), bytes); };
  return torch::stable::from_blob(memory, shape, {form.strides.data(), shape.size()},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), dtype,
                                  give);
}

Tensor copy_on_write(const Tensor& tensor) {
  const size_t bytes = size_t(tensor.numel()) * tensor.element_size();
  if (bytes < kWorthKeeping) {
    Tensor copy = make(tensor.sizes(), tensor.scalar_type());
    if (bytes > 0) std::memcpy(copy.mutable_data_ptr(), tensor.const_data_ptr(), bytes);
    return copy;
  }
  std::array<StableIValue, 1> stack{torch::stable::detail::from(tensor)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::_lazy_clone", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Workspace::Workspace(size_t bytes) {
  constexpr size_t kKept = 64 << 20;
  thread_local Block kept;
  if (bytes > kKept) own_ = allocate(bytes);
  memory_ = own_ ? own_ : kept.reserve(bytes);
}

Workspace::~Workspace() { std::free(own_); }

}  // namespace fused_rnn::cpu
