// out = act(gate) * up and its gradient, element by element, by rows. Half precision is computed in float32.
//
//   silu       act(x) = x sigmoid(x)
//   gelu       act(x) = x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2
//   gelu_tanh  act(x) = x (1 + tanh(u)) / 2 = x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
#pragma once

#include <cstdint>

#include "types.h"

namespace perfsuite::cpu {

enum class Activation { kSilu, kGelu, kGeluTanh };

// Rows of adjacent elements, each operand with its own distance between rows.
template <class T>
struct Gated {
  const T* gate;
  int64_t gate_stride;
  const T* up;
  int64_t up_stride;
  int64_t width;  // elements of a row
  int64_t last;   // of the last row, where it is shorter than the others
  int64_t rows;
  Activation activation;
};

// Rows [begin, end) of out, which is width elements a row. stream: write past the caches (stream.h).
template <class T>
void swiglu_forward(const Gated<T>& op, int64_t begin, int64_t end, T* out, bool stream, Isa isa);

// Rows [begin, end) of the gradients: upstream act'(gate) up and upstream act(gate). Those are grad_stride elements
// apart, upstream's are width.
template <class T>
void swiglu_backward(const Gated<T>& op, int64_t begin, int64_t end, const T* upstream, T* grad_gate, T* grad_up,
                     int64_t grad_stride, bool stream, Isa isa);

}  // namespace perfsuite::cpu
