// Batch normalisation over rows of channels, with an addition and a ReLU, forward and gradient, on the CPU.
//
//   z = (x - mean) scale + shift + add        scale = weight / sqrt(variance + eps), shift = bias
//   y = max(z, 0)                             g = dy where z > 0, else 0
//   dx = a g + b (x - mean) + c               with a, b and c of each channel, see csrc/torch/batch_norm_add_relu.cpp
//
// A row is a position (image, height, width) of an NHWC tensor: its channels are adjacent, and so are the rows. Sums over
// rows are taken in float32 within blocks that fit in the cache and in double over blocks. Which z are positive is kept
// in one bit an element, ceil(channels / 8) bytes a row: a 32nd of what y is to read again.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

// What a row is normalised with; each (channels,).
template <class T>
struct Normalise {
  const acc_t<T>* mean;
  const acc_t<T>* scale;
  const acc_t<T>* shift;
};

// What a gradient is made with; each (channels,). b and c null: 0, and x is not read (statistics that were given).
template <class T>
struct Coefficients {
  const acc_t<T>* mean;
  const acc_t<T>* a;
  const acc_t<T>* b;
  const acc_t<T>* c;
};

inline int64_t mask_bytes(int64_t channels) { return (channels + 7) / 8; }

// All take `rows` rows and are instantiated for float, double (plain code), BFloat16 and Half.

// sums (2, channels): adds the sums of x - origin and of its square. The origin, somewhere near x, is any finite number;
// sums in float32 are taken about the mean of each block of rows, so that nothing cancels where x is far from 0.
template <class T>
void batch_norm_sums(const T* x, const acc_t<T>* origin, int64_t rows, int64_t channels, double* sums, Isa isa);

// y, and the mask where it is not null. add may be null; without relu mask must be. stream: write y past the caches, for
// rows of whole vectors at an aligned y.
template <class T>
void batch_norm_add_relu_apply(const T* x, const T* add, const Normalise<T>& normalise, bool relu, int64_t rows,
                               int64_t channels, T* y, uint8_t* mask, bool stream, Isa isa);

// sums (2, channels): adds the sums of g and of g (x - mean). mask null: g = dy.
template <class T>
void batch_norm_add_relu_backward_sums(const T* dy, const uint8_t* mask, const T* x, const acc_t<T>* mean, int64_t rows,
                                       int64_t channels, double* sums, Isa isa);

// dx, and g where it is not null.
template <class T>
void batch_norm_add_relu_backward(const T* dy, const uint8_t* mask, const T* x, const Coefficients<T>& coefficients,
                                  int64_t rows, int64_t channels, T* dx, T* g, Isa isa);

}  // namespace perfsuite::cpu
