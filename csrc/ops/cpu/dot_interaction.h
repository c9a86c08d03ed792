// Dot products of every pair of features of a sample, on the CPU: DLRM's interaction.
//
//   x = dense and the sparse features, `features` rows in all;  z_ij = sum_d x_id x_jd for j < i
//   out = dense, then z_10, z_20, z_21, z_30, ...
//   gradient of x_i = sum_j s_ij x_j, s symmetric with the upstream gradient of z_ij; for dense also that of its copy
//
// A sample is copied into scratch as float32 (float64 for doubles), in whole vectors, and worked on in the caches.
#pragma once

#include "types.h"

namespace perfsuite::cpu {

template <class T>
struct DotInteraction {
  const T* dense;         // (samples, width), rows dense_stride apart, elements adjacent
  const T* sparse;        // (samples, features - 1, width), elements adjacent
  int64_t dense_stride;   // in elements, as all strides
  int64_t sample_stride;  // of sparse
  int64_t row_stride;     // of sparse
  int64_t samples;
  int64_t features;       // dense is one of them
  int64_t width;

  int64_t pairs() const { return features * (features - 1) / 2; }
};

// Samples [begin, end) of out (samples, width + pairs). Any split over threads gives the same bits. Instantiated for
// float, double, BFloat16 and Half, as the next one.
template <class T>
void dot_interaction_forward(const DotInteraction<T>& op, int64_t begin, int64_t end, T* out, Isa isa);

// Samples [begin, end) of grad_dense (samples, width) and grad_sparse (samples, features - 1, width), both contiguous,
// from upstream, rows of width + pairs that are upstream_stride apart.
template <class T>
void dot_interaction_backward(const DotInteraction<T>& op, int64_t begin, int64_t end, const T* upstream,
                              int64_t upstream_stride, T* grad_dense, T* grad_sparse, Isa isa);

}  // namespace perfsuite::cpu
