#include "reuse.h"

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>
#include <torch/library.h>

#include <limits>
#include <list>
#include <mutex>

namespace perfsuite {
namespace {

// Smaller blocks come from malloc's heap, which keeps them itself.
constexpr size_t kLeastBytes = 1 << 20;
// Blocks are kept up to this sum; the one that was free for longest goes first.
constexpr size_t kMostKeptBytes = size_t(1) << 30;

struct Block {
  c10::DataPtr data;
  size_t bytes;
};

class ReusingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kLeastBytes) return c10::GetCPUAllocator()->allocate(bytes);
    Block* block = take(bytes);
    if (!block) block = new Block{c10::GetCPUAllocator()->allocate(bytes), bytes};
    return {block->data.get(), block, &give_back, c10::Device(c10::kCPU)};
  }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  ReuseSums sums() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {int64_t(kept_bytes_), reused_, fresh_};
  }
  void release() {
    std::list<Block*> gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      gone.swap(free_);
      kept_bytes_ = 0;
    }
    for (Block* block : gone) delete block;
  }

 private:
  // The smallest free block that holds the request and is at most a quarter too large.
  Block* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it)
      if ((*it)->bytes >= bytes && (*it)->bytes <= bytes + bytes / 4 &&
          (best == free_.end() || (*it)->bytes < (*best)->bytes))
        best = it;
    if (best == free_.end()) {
      ++fresh_;
      return nullptr;
    }
    Block* block = *best;
    free_.erase(best);
    kept_bytes_ -= block->bytes;
    ++reused_;
    return block;
  }
  static void give_back(void* context);
  void keep(Block* block) {
    std::list<Block*> gone;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.push_front(block);  // the warmest in the caches is found first
      kept_bytes_ += block->bytes;
      while (kept_bytes_ > kMostKeptBytes) {
        kept_bytes_ -= free_.back()->bytes;
        gone.splice(gone.begin(), free_, std::prev(free_.end()));
      }
    }
    for (Block* one : gone) delete one;
  }

  std::mutex mutex_;
  std::list<Block*> free_;
  size_t kept_bytes_ = 0;
  int64_t reused_ = 0, fresh_ = 0;
};

// Tensors may outlive everything else: never destroyed.
ReusingAllocator& allocator() {
  static auto& instance = *new ReusingAllocator();
  return instance;
}

void ReusingAllocator::give_back(void* context) { allocator().keep(static_cast<Block*>(context)); }

at::Tensor filled(at::Tensor tensor) {
  if (at::globalContext().deterministicAlgorithms() && at::globalContext().deterministicFillUninitializedMemory()) {
    if (tensor.is_floating_point())
      tensor.fill_(std::numeric_limits<double>::quiet_NaN());
    else
      tensor.fill_(127);
  }
  return tensor;
}

constexpr c10::DispatchKeySet kCpuKey(c10::DispatchKey::CPU);

}  // namespace

at::Tensor empty_reused(at::IntArrayRef sizes, at::ScalarType dtype) {
  return filled(at::detail::empty_generic(sizes, &allocator(), kCpuKey, dtype, std::nullopt));
}

at::Tensor empty_reused_like(const at::Tensor& tensor) {
  if (!tensor.is_non_overlapping_and_dense()) return empty_reused(tensor.sizes(), tensor.scalar_type());
  return filled(at::detail::empty_strided_generic(tensor.sizes(), tensor.strides(), &allocator(), kCpuKey,
                                                  tensor.scalar_type()));
}

ReuseSums reuse_sums() { return allocator().sums(); }
void reuse_release() { allocator().release(); }

}  // namespace perfsuite

// For launchers in Python; a CPU tensor.
TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("empty_reused(int[] size, ScalarType dtype) -> Tensor", perfsuite::empty_reused);
}
