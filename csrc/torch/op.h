// What the torch side of every CPU operator needs: element types, threads, memory for outputs.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <algorithm>

#include "../ops/cpu/types.h"
#include "reuse.h"

namespace perfsuite {

// The kernels' name for a torch element type.
template <class T>
struct KernelType {
  using type = T;
};
template <>
struct KernelType<at::BFloat16> {
  using type = cpu::BFloat16;
};
template <>
struct KernelType<at::Half> {
  using type = cpu::Half;
};

// float64 is computed in float64, everything else in float32.
inline at::ScalarType acc_type(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// body<T>() with T the kernels' element type of the tensor: float, double, BFloat16 or Half.
//   PERFSUITE_FOR_TYPE(x, "rms_norm", [&] { kernel<T>(const_data<T>(x), ...); });
#define PERFSUITE_FOR_TYPE(tensor, name, ...)                                                       \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, (tensor).scalar_type(), name, [&] {     \
    using T [[maybe_unused]] = typename ::perfsuite::KernelType<scalar_t>::type;                    \
    __VA_ARGS__();                                                                                  \
  })

template <class T>
const T* const_data(const at::Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data(const at::Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Fewer elements are not worth waking a thread for; torch's own element-wise kernels draw the line at the same place.
constexpr int64_t kElementsPerTask = 32768;

// body(begin, end) over rows of so many elements, on torch's threads.
template <class Body>
void for_rows(int64_t rows, int64_t row_elements, const Body& body) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, row_elements)), body);
}

}  // namespace perfsuite
