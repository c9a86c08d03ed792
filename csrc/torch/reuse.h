// Memory for the outputs of our CPU operators. Large blocks are kept when a tensor gives them back and handed out again:
// fresh ones cost a page fault for every 4 KiB, which is more time than the kernels themselves need.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace perfsuite {

// Uninitialised tensors (NaN where torch is told to fill uninitialised memory). Contiguous; like another tensor in sizes,
// dtype and strides (or contiguous, where those are not dense).
at::Tensor empty_reused(at::IntArrayRef sizes, at::ScalarType dtype);
at::Tensor empty_reused_like(const at::Tensor& tensor);

struct ReuseSums {
  int64_t kept_bytes;  // free blocks that wait for the next request
  int64_t reused;      // requests served from them
  int64_t fresh;       // requests that were not
};
ReuseSums reuse_sums();
// Gives what is kept back to torch's allocator.
void reuse_release();

}  // namespace perfsuite
