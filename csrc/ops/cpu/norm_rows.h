// RMSNorm and LayerNorm of rows, with what may come before them fused in, on the CPU.
//
//   h = residual + factor x            factor: 0 or 1 / (1 - p) where there is dropout, else 1
//   y = (h - mean) rstd w + b          rstd = 1 / sqrt(mean_j (h_j - mean)^2 + eps); RMSNorm: mean = 0, b = 0
//
// and for upstream gradients g of y and u of h, with n = (h - mean) rstd:
//
//   dh = u + rstd (g w - n mean_j(g w n) - [LayerNorm] mean_j(g w)),  dx = factor dh,  dw = sum g n,  db = sum g
//
// A row is read from memory once; the further passes over it find it in the cache. Sums within a row are taken in
// pieces that are added in double. NaN and infinities come out as in the formula.
#pragma once

#include "philox.h"
#include "types.h"

namespace perfsuite::cpu {

// X: of x. H: of h, residual and y; it is X, or float where X is narrower. Rows are contiguous but for row strides, in
// elements. The four accumulators of `weight` and so on are acc_t<H>; a null weight is 1, a null bias 0.
template <class X, class H>
struct NormForward {
  const X* x;
  int64_t x_stride;
  const H* residual;  // null: none
  int64_t residual_stride;
  const acc_t<H>* weight;
  const acc_t<H>* bias;
  int64_t width;
  double eps;
  bool centered;  // LayerNorm
  Dropout dropout;
  H* h;  // null: h is x, and X is H
  H* y;
  acc_t<H>* mean;  // null unless centered
  acc_t<H>* rstd;
  bool stream;  // write y past the caches: for more than they hold
};

// Rows [begin, end). Instantiated for X = H = float, double, BFloat16 and Half, and for H = float with X BFloat16 and Half.
template <class X, class H>
void norm_rows_forward(const NormForward<X, H>& op, int64_t begin, int64_t end, Isa isa);

template <class X, class H>
struct NormBackward {
  const H* upstream;    // of y; contiguous as all that follows but h
  const H* upstream_h;  // null: none
  const H* h;
  int64_t h_stride;
  const acc_t<H>* weight;
  const acc_t<H>* mean;  // null: RMSNorm
  const acc_t<H>* rstd;
  int64_t width;
  Dropout dropout;
  X* grad_x;
  H* grad_residual;  // null: not wanted, or the same as grad_x
  bool stream;
};

// Rows [begin, end). Adds their part of dw and db to (width,) grad_weight and grad_bias, which may be null.
template <class X, class H>
void norm_rows_backward(const NormBackward<X, H>& op, int64_t begin, int64_t end, acc_t<H>* grad_weight,
                        acc_t<H>* grad_bias, Isa isa);

}  // namespace perfsuite::cpu
