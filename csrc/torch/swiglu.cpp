// perfsuite::swiglu_cpp_forward and _backward: csrc/ops/cpu/swiglu.h as torch operators. Without `up`, gate holds both:
// (..., 2 hidden), gate first, and so does its gradient. (cpp in kernels/swiglu.py puts autograd around them.)

#include <ATen/ops/empty.h>

#include <string_view>
#include <tuple>

#include "../ops/cpu/stream.h"
#include "../ops/cpu/swiglu.h"
#include "op.h"
#include "rows.h"

namespace {

using at::Tensor;
using namespace perfsuite;

cpu::Activation activation_of(std::string_view name) {
  TORCH_CHECK_VALUE(name == "silu" || name == "gelu" || name == "gelu_tanh",
                    "swiglu: activation must be silu, gelu or gelu_tanh, got ", std::string(name));
  return name == "silu"   ? cpu::Activation::kSilu
         : name == "gelu" ? cpu::Activation::kGelu
                          : cpu::Activation::kGeluTanh;
}

struct Inputs {
  Tensor gate, up;  // rows; both of one tensor where it is packed
  int64_t width;
  bool packed;
};

Inputs inputs_of(const Tensor& gate, const std::optional<Tensor>& up) {
  if (up) return {as_rows(gate), as_rows(*up), gate.size(-1), false};
  const Tensor rows = as_rows(gate);
  return {rows, rows, gate.size(-1) / 2, true};
}

template <class T>
cpu::Gated<T> kernel_arguments(const Inputs& in, cpu::Activation activation) {
  const T* gate = const_data<T>(in.gate);
  const int64_t rows = in.gate.size(0), width = in.width;
  if (in.packed) return {gate, in.gate.stride(0), gate + width, in.gate.stride(0), width, width, rows, activation};
  const T* up = const_data<T>(in.up);
  if (!in.gate.is_contiguous() || !in.up.is_contiguous())
    return {gate, in.gate.stride(0), up, in.up.stride(0), width, width, rows, activation};
  // One row after the other is one long row: in pieces that are worth a task.
  const int64_t count = rows * width, pieces = (count + kElementsPerTask - 1) / kElementsPerTask;
  const int64_t last = count - (pieces - 1) * kElementsPerTask;
  return {gate, kElementsPerTask, up, kElementsPerTask, kElementsPerTask, last, pieces, activation};
}

std::vector<int64_t> output_sizes(const Tensor& gate, bool packed) {
  std::vector<int64_t> sizes = gate.sizes().vec();
  if (packed) sizes.back() /= 2;
  return sizes;
}

Tensor forward_cpu(const Tensor& gate, const std::optional<Tensor>& up, std::string_view activation) {
  Tensor out = empty_reused(output_sizes(gate, !up), gate.scalar_type());
  if (out.numel() == 0) return out;
  const Inputs in = inputs_of(gate, up);
  PERFSUITE_FOR_TYPE(gate, "swiglu", [&] {
    const auto op = kernel_arguments<T>(in, activation_of(activation));
    T* data = mutable_data<T>(out);
    const bool stream = cpu::can_stream(data, op.width * int64_t(sizeof(T)), int64_t(out.nbytes()));
    const auto isa = cpu::best_isa();
    for_rows(op.rows, op.width, [&](int64_t begin, int64_t end) {
      cpu::swiglu_forward<T>(op, begin, end, data, stream, isa);
    });
  });
  return out;
}

// (gradient of gate, gradient of up), the second one (0,) where gate is packed.
std::tuple<Tensor, Tensor> backward_cpu(const Tensor& upstream_any, const Tensor& gate, const std::optional<Tensor>& up,
                                        std::string_view activation) {
  const Tensor upstream = upstream_any.contiguous();
  Tensor grad_gate = empty_reused(gate.sizes(), gate.scalar_type());
  Tensor grad_up = up ? empty_reused(gate.sizes(), gate.scalar_type()) : empty_reused({0}, gate.scalar_type());
  if (gate.numel() == 0) return {grad_gate, grad_up};
  const Inputs in = inputs_of(gate, up);
  PERFSUITE_FOR_TYPE(gate, "swiglu_backward", [&] {
    const auto op = kernel_arguments<T>(in, activation_of(activation));
    T* of_gate = mutable_data<T>(grad_gate);
    T* of_up = in.packed ? of_gate + in.width : mutable_data<T>(grad_up);
    const int64_t bytes = op.width * int64_t(sizeof(T)), total = int64_t(grad_gate.nbytes() + grad_up.nbytes());
    const bool stream = cpu::can_stream(of_gate, bytes, total) && cpu::can_stream(of_up, bytes, total);
    const T* g = const_data<T>(upstream);
    const auto isa = cpu::best_isa();
    for_rows(op.rows, op.width, [&](int64_t begin, int64_t end) {
      cpu::swiglu_backward<T>(op, begin, end, g, of_gate, of_up, in.packed ? 2 * op.width : op.width, stream, isa);
    });
  });
  return {grad_gate, grad_up};
}

Tensor forward_meta(const Tensor& gate, const std::optional<Tensor>& up, std::string_view) {
  std::vector<c10::SymInt> sizes = gate.sym_sizes().vec();
  if (!up) sizes.back() = sizes.back() / 2;
  return at::empty_symint(sizes, gate.options());
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor&, const Tensor& gate, const std::optional<Tensor>& up,
                                         std::string_view) {
  const Tensor grad_gate = at::empty_symint(gate.sym_sizes(), gate.options());
  return {grad_gate, up ? at::empty_symint(gate.sym_sizes(), gate.options()) : at::empty({0}, gate.options())};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(perfsuite, m) {
  m.def("swiglu_cpp_forward(Tensor gate, Tensor? up, str activation) -> Tensor");
  m.def("swiglu_cpp_backward(Tensor upstream, Tensor gate, Tensor? up, str activation) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(perfsuite, CPU, m) {
  m.impl("swiglu_cpp_forward", forward_cpu);
  m.impl("swiglu_cpp_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(perfsuite, Meta, m) {
  m.impl("swiglu_cpp_forward", forward_meta);
  m.impl("swiglu_cpp_backward", backward_meta);
}
