// The fastest matrix product that torch carries: kernels/products.py says why.
#pragma once

#include <ATen/core/Tensor.h>

namespace perfsuite {

// a b^T: a (m, k) and b (n, k), of any strides. Not differentiable.
at::Tensor product_transposed(const at::Tensor& a, const at::Tensor& b);

}  // namespace perfsuite
