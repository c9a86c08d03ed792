// Many tensors as one row of blocks, so that threads share the work evenly whatever the tensors' sizes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace perfsuite::cpu {

class TensorBlocks {
 public:
  // A block of four float32 arrays fits in L2, and its sums of squares in float32 lose nothing that matters.
  static constexpr int64_t kElements = 4096;

  // The next tensor. One without elements has no block.
  void add(int64_t elements) {
    elements_.push_back(elements);
    first_.push_back(first_.back() + (elements + kElements - 1) / kElements);
    total_ += elements;
  }
  int64_t tensors() const { return int64_t(elements_.size()); }
  int64_t blocks() const { return first_.back(); }
  int64_t elements() const { return total_; }
  // Blocks of tensor t: [first(t), first(t + 1)).
  int64_t first(int64_t tensor) const { return first_[size_t(tensor)]; }

  // body(block, tensor, first element, elements) for the blocks [begin, end).
  template <class Body>
  void for_each(int64_t begin, int64_t end, const Body& body) const {
    if (begin >= end) return;
    int64_t tensor = std::upper_bound(first_.begin(), first_.end(), begin) - first_.begin() - 1;
    for (int64_t block = begin; block < end; ++block) {
      while (block >= first(tensor + 1)) ++tensor;
      const int64_t start = (block - first(tensor)) * kElements;
      body(block, tensor, start, std::min(kElements, elements_[size_t(tensor)] - start));
    }
  }

 private:
  std::vector<int64_t> elements_, first_{0};
  int64_t total_ = 0;
};

}  // namespace perfsuite::cpu
