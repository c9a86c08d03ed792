// Lists of tensors for the kernels that take many at once: blocks on torch's threads, one order of elements for all.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_strided.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "../ops/cpu/tensor_blocks.h"
#include "op.h"

namespace perfsuite {

// body(block, tensor, first element, elements) for every block, on torch's threads.
template <class Body>
void for_blocks(const cpu::TensorBlocks& blocks, const Body& body) {
  // Blocks of small tensors are not full: more of them make a task.
  const int64_t grain = blocks.blocks() * kElementsPerTask / std::max<int64_t>(1, blocks.elements());
  at::parallel_for(0, blocks.blocks(), std::max<int64_t>(1, grain),
                   [&](int64_t begin, int64_t end) { blocks.for_each(begin, end, body); });
}

// Whether the elements of both lie in memory in the same order. The sizes are the same.
inline bool same_order(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_contiguous() && b.is_contiguous()) return true;
  for (int64_t i = 0; i < a.dim(); ++i)
    if (a.size(i) != 1 && a.stride(i) != b.stride(i)) return false;
  return true;
}

// Tensors with holes or in another order than their fellows are copied, and what was written is copied back.
class Detours {
 public:
  // The tensor, or a copy of it without holes: the order for its fellows.
  at::Tensor dense(const at::Tensor& tensor) {
    if (tensor.is_non_overlapping_and_dense()) return tensor;
    copies_.emplace_back(tensor, tensor.contiguous());
    return copies_.back().second;
  }
  // Data of the tensor in the order of `like`, which is dense; T as the tensor's type. Written data is copied back.
  template <class T>
  T* mutable_data(const at::Tensor& tensor, const at::Tensor& like) {
    if (same_order(tensor, like)) return perfsuite::mutable_data<T>(tensor);
    copies_.emplace_back(tensor, ordered(tensor, like));
    return perfsuite::mutable_data<T>(copies_.back().second);
  }
  template <class T>
  const T* const_data(const at::Tensor& tensor, const at::Tensor& like) {
    if (same_order(tensor, like)) return perfsuite::const_data<T>(tensor);
    read_.push_back(ordered(tensor, like));
    return perfsuite::const_data<T>(read_.back());
  }
  void write_back() {
    for (auto& [to, from] : copies_) to.copy_(from);
  }

 private:
  static at::Tensor ordered(const at::Tensor& tensor, const at::Tensor& like) {
    at::Tensor copy = at::empty_strided(like.sizes(), like.strides(), tensor.options());
    return copy.copy_(tensor);
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> copies_;
  std::vector<at::Tensor> read_;
};

}  // namespace perfsuite
