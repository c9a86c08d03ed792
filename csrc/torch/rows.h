// A tensor of any shape and strides as rows for a kernel.
#pragma once

#include <ATen/core/Tensor.h>

#include "op.h"

namespace perfsuite {

// (rows, size of the last dimension), adjacent elements in a row: a view where the strides allow, else a copy.
inline at::Tensor as_rows(const at::Tensor& tensor) {
  const int64_t width = tensor.size(-1);
  const int64_t rows = width ? tensor.numel() / width : 0;
  at::Tensor flat = tensor.dim() == 2 ? tensor : tensor.reshape({rows, width});
  return width <= 1 || flat.stride(1) == 1 ? flat : flat.contiguous();
}

}  // namespace perfsuite
