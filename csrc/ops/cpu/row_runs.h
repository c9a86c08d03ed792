// Walks rows that lie anywhere in several tensors, in runs of rows at equal distances: a kernel is called once a run.
#pragma once

#include <algorithm>
#include <cstdint>

namespace perfsuite::cpu {

// Rows are numbered in the order of `size`, the last dimension fastest. Strides are in elements, by operand.
template <int kOperands>
struct RowRuns {
  static constexpr int kMostDims = 12;
  int dims = 0;
  int64_t size[kMostDims];
  int64_t stride[kMostDims][kOperands];

  // One more dimension, faster than those before; false where there is no room for it. Dimensions that are one step for
  // every operand become one.
  bool add(int64_t count, const int64_t (&step)[kOperands]) {
    if (count == 1) return true;
    if (dims > 0) {
      bool joins = true;
      for (int i = 0; i < kOperands; ++i) joins = joins && stride[dims - 1][i] == count * step[i];
      if (joins) {
        size[dims - 1] *= count;
        std::copy_n(step, kOperands, stride[dims - 1]);
        return true;
      }
    }
    if (dims == kMostDims) return false;
    size[dims] = count;
    std::copy_n(step, kOperands, stride[dims++]);
    return true;
  }

  int64_t rows() const {
    int64_t count = 1;
    for (int d = 0; d < dims; ++d) count *= size[d];
    return count;
  }

  // run(offset of the first row by operand, distance of the rows by operand, number of rows) for the rows [begin, end).
  template <class Run>
  void each(int64_t begin, int64_t end, const Run& run) const {
    if (begin >= end) return;
    static constexpr int64_t nothing[kOperands] = {};
    if (dims == 0) return run(nothing, nothing, int64_t(1));
    int64_t index[kMostDims], offset[kOperands] = {};
    int64_t rest = begin;
    for (int d = dims - 1; d >= 0; --d) {
      index[d] = rest % size[d];
      rest /= size[d];
      for (int i = 0; i < kOperands; ++i) offset[i] += index[d] * stride[d][i];
    }
    const int last = dims - 1;
    for (int64_t row = begin; row < end;) {
      const int64_t count = std::min(size[last] - index[last], end - row);
      run(offset, stride[last], count);
      row += count;
      index[last] += count;
      for (int i = 0; i < kOperands; ++i) offset[i] += count * stride[last][i];
      for (int d = last; d > 0 && index[d] == size[d]; --d) {
        index[d] = 0;
        ++index[d - 1];
        for (int i = 0; i < kOperands; ++i) offset[i] += stride[d - 1][i] - size[d] * stride[d][i];
      }
    }
  }
};

}  // namespace perfsuite::cpu
