// The loops of RMSNorm and LayerNorm. No include guard: norm_rows.cpp includes it once per instruction set, through
// each_isa.h, with Vec<T> and PERFSUITE_TARGET set.

// A whole vector, or the count < width elements with which a row ends.
template <bool kWhole, class H, class T>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<H>::V load_some(const T* p, int64_t count) {
  return kWhole ? Vec<H>::load(p) : Vec<H>::load_first(p, count, 0);
}
template <bool kWhole, class H, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void store_some(T* p, typename Vec<H>::V x, int64_t count) {
  kWhole ? Vec<H>::store(p, x) : Vec<H>::store_first(p, x, count);
}

// Elements to write before p is aligned to a vector.
template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE int64_t before_alignment(const T* p, int64_t n) {
  constexpr uintptr_t bytes = Vec<T>::width * sizeof(T);
  return std::min(n, int64_t((bytes - reinterpret_cast<uintptr_t>(p) % bytes) % bytes / sizeof(T)));
}

template <bool kWhole, class X, class H>
PERFSUITE_TARGET PERFSUITE_INLINE void add_some(const X* x, const H* residual, const acc_t<H>* factors, int64_t j,
                                                int64_t count, H* h) {
  typename Vec<H>::V v = load_some<kWhole, H>(x + j, count);
  if (factors) v = Vec<H>::mul(v, load_some<kWhole, H>(factors + j, count));
  if (residual) v = Vec<H>::add(load_some<kWhole, H>(residual + j, count), v);
  store_some<kWhole, H>(h + j, v, count);
}

// A row of h = residual + factors x; residual and factors may be null.
template <class X, class H>
PERFSUITE_TARGET void add_row(const X* x, const H* residual, const acc_t<H>* factors, int64_t n, H* h) {
  constexpr int64_t w = Vec<H>::width;
  int64_t j = 0;
  for (; j + w <= n; j += w) add_some<true>(x, residual, factors, j, w, h);
  if (j < n) add_some<false>(x, residual, factors, j, n - j, h);
}

// Sum of (h - shift)^power, power 1 or 2.
template <int kPower, class H>
PERFSUITE_TARGET double sum_row(const H* h, acc_t<H> shift, int64_t n) {
  using W = Vec<H>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  const V s = W::set(shift);
  double total = 0;
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t end = std::min(n, start + kPiece);
    V a0 = W::set(0), a1 = a0, a2 = a0, a3 = a0;
    int64_t j = start;
    for (; j + 4 * w <= end; j += 4 * w) {
      const V d0 = W::sub(W::load(h + j), s), d1 = W::sub(W::load(h + j + w), s);
      const V d2 = W::sub(W::load(h + j + 2 * w), s), d3 = W::sub(W::load(h + j + 3 * w), s);
      a0 = kPower == 1 ? W::add(a0, d0) : W::multiply_add(d0, d0, a0);
      a1 = kPower == 1 ? W::add(a1, d1) : W::multiply_add(d1, d1, a1);
      a2 = kPower == 1 ? W::add(a2, d2) : W::multiply_add(d2, d2, a2);
      a3 = kPower == 1 ? W::add(a3, d3) : W::multiply_add(d3, d3, a3);
    }
    for (; j + w <= end; j += w) {
      const V d = W::sub(W::load(h + j), s);
      a0 = kPower == 1 ? W::add(a0, d) : W::multiply_add(d, d, a0);
    }
    if (j < end) {
      const V d = W::sub(W::load_first(h + j, end - j, shift), s);  // what pads it adds 0
      a1 = kPower == 1 ? W::add(a1, d) : W::multiply_add(d, d, a1);
    }
    total += W::sum(W::add(W::add(a0, a1), W::add(a2, a3)));
  }
  return total;
}

template <bool kCentered, class H>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<H>::V normalized(typename Vec<H>::V h, typename Vec<H>::V mean,
                                                                typename Vec<H>::V rstd) {
  return Vec<H>::mul(kCentered ? Vec<H>::sub(h, mean) : h, rstd);
}

// Elements [from, to) of y = (h - mean) rstd weight + bias; past the caches: all whole vectors, and y + from is aligned.
template <bool kCentered, bool kStream, class H>
PERFSUITE_TARGET void write_part(const H* h, const acc_t<H>* weight, const acc_t<H>* bias, acc_t<H> mean, acc_t<H> rstd,
                                 int64_t from, int64_t to, H* y) {
  using W = Vec<H>;
  const typename W::V m = W::set(mean), r = W::set(rstd);
  int64_t j = from;
  for (; j + W::width <= to; j += W::width) {
    const typename W::V n = W::mul(normalized<kCentered, H>(W::load(h + j), m, r), W::load(weight + j));
    const typename W::V v = kCentered ? W::add(n, W::load(bias + j)) : n;
    kStream ? W::stream(y + j, v) : W::store(y + j, v);
  }
  if (j < to) {
    const int64_t count = to - j;
    typename W::V v = normalized<kCentered, H>(W::load_first(h + j, count, 0), m, r);
    v = W::mul(v, W::load_first(weight + j, count, 0));
    if (kCentered) v = W::add(v, W::load_first(bias + j, count, 0));
    W::store_first(y + j, v, count);
  }
}

template <bool kCentered, class X, class H>
PERFSUITE_TARGET void forward_rows(const NormForward<X, H>& op, int64_t begin, int64_t end) {
  using Acc = acc_t<H>;
  const int64_t n = op.width;
  const std::vector<Acc> ones(op.weight ? 0 : n, Acc(1)), zeros(op.bias || !kCentered ? 0 : n, Acc(0));
  const Acc* weight = op.weight ? op.weight : ones.data();
  const Acc* bias = op.bias ? op.bias : zeros.data();
  std::vector<Acc> factors(op.dropout.on ? n : 0);
  for (int64_t r = begin; r < end; ++r) {
    const H* h;
    if (op.h) {
      if (op.dropout.on) dropout_factors(op.dropout, r * n, n, factors.data());
      add_row(op.x + r * op.x_stride, op.residual ? op.residual + r * op.residual_stride : nullptr,
              op.dropout.on ? factors.data() : nullptr, n, op.h + r * n);
      h = op.h + r * n;
    } else {
      h = reinterpret_cast<const H*>(op.x + r * op.x_stride);
    }
    Acc mean = 0;
    if (kCentered) op.mean[r] = mean = Acc(sum_row<1>(h, Acc(0), n) / double(n));
    const Acc variance = Acc(sum_row<2>(h, mean, n) / double(n));
    const Acc rstd = op.rstd[r] = 1 / std::sqrt(variance + Acc(op.eps));
    H* y = op.y + r * n;
    if (op.stream) {
      const int64_t head = before_alignment(y, n);
      write_part<kCentered, false>(h, weight, bias, mean, rstd, 0, head, y);
      write_part<kCentered, true>(h, weight, bias, mean, rstd, head, n, y);
    } else {
      write_part<kCentered, false>(h, weight, bias, mean, rstd, 0, n, y);
    }
  }
  if (op.stream) finish_streaming();
}

// What the backward of one row reads and writes; null: not there. The sums are added to grad_weight and grad_bias.
template <class X, class H>
struct BackwardRow {
  const H *upstream, *upstream_h, *h;
  const acc_t<H>*weight, *factors;
  acc_t<H> mean, rstd;
  X* grad_x;
  H* grad_residual;
  acc_t<H>*grad_weight, *grad_bias;
};

// Sums of g w (h - mean) and g w, g: upstream.
template <bool kCentered, class X, class H>
PERFSUITE_TARGET void backward_sums(const BackwardRow<X, H>& row, int64_t n, double* with_h, double* alone) {
  using W = Vec<H>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  const V m = W::set(row.mean);
  *with_h = *alone = 0;
  for (int64_t start = 0; start < n; start += kPiece) {
    const int64_t end = std::min(n, start + kPiece);
    V a0 = W::set(0), a1 = a0, b0 = a0, b1 = a0;
    int64_t j = start;
    for (; j + 2 * w <= end; j += 2 * w) {
      const V g0 = W::mul(W::load(row.upstream + j), W::load(row.weight + j));
      const V g1 = W::mul(W::load(row.upstream + j + w), W::load(row.weight + j + w));
      const V h0 = W::load(row.h + j), h1 = W::load(row.h + j + w);
      a0 = W::multiply_add(g0, kCentered ? W::sub(h0, m) : h0, a0);
      a1 = W::multiply_add(g1, kCentered ? W::sub(h1, m) : h1, a1);
      if (kCentered) b0 = W::add(b0, g0);
      if (kCentered) b1 = W::add(b1, g1);
    }
    for (; j + w <= end; j += w) {
      const V g = W::mul(W::load(row.upstream + j), W::load(row.weight + j)), h = W::load(row.h + j);
      a0 = W::multiply_add(g, kCentered ? W::sub(h, m) : h, a0);
      if (kCentered) b0 = W::add(b0, g);
    }
    if (j < end) {
      const V g = W::mul(W::load_first(row.upstream + j, end - j, 0), W::load_first(row.weight + j, end - j, 0));
      const V h = W::load_first(row.h + j, end - j, 0);
      a1 = W::multiply_add(g, kCentered ? W::sub(h, m) : h, a1);
      if (kCentered) b1 = W::add(b1, g);
    }
    *with_h += W::sum(W::add(a0, a1));
    if (kCentered) *alone += W::sum(W::add(b0, b1));
  }
}

// dh = u + rstd g w - n a - b of a vector, and what follows from it.
template <bool kCentered, bool kWhole, bool kStream, class X, class H>
PERFSUITE_TARGET PERFSUITE_INLINE void backward_some(const BackwardRow<X, H>& row, typename Vec<H>::V mean,
                                                     typename Vec<H>::V rstd, typename Vec<H>::V a,
                                                     typename Vec<H>::V b, int64_t j, int64_t count) {
  using W = Vec<H>;
  using V = typename W::V;
  const V g = load_some<kWhole, H>(row.upstream + j, count);
  const V n = normalized<kCentered, H>(load_some<kWhole, H>(row.h + j, count), mean, rstd);
  const V gw = W::mul(g, load_some<kWhole, H>(row.weight + j, count));
  V d = W::negative_multiply_add(n, a, kCentered ? W::multiply_subtract(rstd, gw, b) : W::mul(rstd, gw));
  if (row.upstream_h) d = W::add(d, load_some<kWhole, H>(row.upstream_h + j, count));
  if (row.grad_residual) store_some<kWhole, H>(row.grad_residual + j, d, count);
  if (row.factors) d = W::mul(d, load_some<kWhole, H>(row.factors + j, count));
  kStream ? W::stream(row.grad_x + j, d) : store_some<kWhole, H>(row.grad_x + j, d, count);
  if (row.grad_weight) {
    const V sum = W::multiply_add(g, n, load_some<kWhole, H>(row.grad_weight + j, count));
    store_some<kWhole, H>(row.grad_weight + j, sum, count);
  }
  if (kCentered && row.grad_bias)
    store_some<kWhole, H>(row.grad_bias + j, W::add(g, load_some<kWhole, H>(row.grad_bias + j, count)), count);
}

// Elements [from, to); past the caches: grad_x + from is aligned.
template <bool kCentered, bool kStream, class X, class H>
PERFSUITE_TARGET void backward_part(const BackwardRow<X, H>& pointers, acc_t<H> a, acc_t<H> b, int64_t from, int64_t to) {
  using W = Vec<H>;
  const BackwardRow<X, H> row = pointers;  // a copy that stores through its pointers cannot change
  const typename W::V mean = W::set(row.mean), rstd = W::set(row.rstd), va = W::set(a), vb = W::set(b);
  int64_t j = from;
  for (; j + W::width <= to; j += W::width)
    backward_some<kCentered, true, kStream>(row, mean, rstd, va, vb, j, W::width);
  if (j < to) backward_some<kCentered, false, false>(row, mean, rstd, va, vb, j, to - j);
}

// total += part; part = 0
template <class Acc>
PERFSUITE_TARGET void join_sums(std::vector<Acc>& part, Acc* total) {
  for (size_t j = 0; j < part.size(); ++j) {
    total[j] += part[j];
    part[j] = 0;
  }
}

template <bool kCentered, class X, class H>
PERFSUITE_TARGET void backward_rows(const NormBackward<X, H>& op, int64_t begin, int64_t end, acc_t<H>* grad_weight,
                                    acc_t<H>* grad_bias) {
  using Acc = acc_t<H>;
  const int64_t n = op.width;
  const std::vector<Acc> ones(op.weight ? 0 : n, Acc(1));
  std::vector<Acc> factors(op.dropout.on ? n : 0), weight_sum(grad_weight ? n : 0), bias_sum(grad_bias ? n : 0);
  BackwardRow<X, H> row{};
  row.weight = op.weight ? op.weight : ones.data();
  row.factors = op.dropout.on ? factors.data() : nullptr;
  row.grad_weight = grad_weight ? weight_sum.data() : nullptr;
  row.grad_bias = grad_bias ? bias_sum.data() : nullptr;
  for (int64_t r = begin; r < end; ++r) {
    row.upstream = op.upstream + r * n;
    row.upstream_h = op.upstream_h ? op.upstream_h + r * n : nullptr;
    row.h = op.h + r * op.h_stride;
    row.mean = kCentered ? op.mean[r] : Acc(0);
    row.rstd = op.rstd[r];
    row.grad_x = op.grad_x + r * n;
    row.grad_residual = op.grad_residual ? op.grad_residual + r * n : nullptr;
    if (op.dropout.on) dropout_factors(op.dropout, r * n, n, factors.data());
    double with_h, alone;
    backward_sums<kCentered>(row, n, &with_h, &alone);
    const Acc a = Acc(with_h * row.rstd * row.rstd / double(n)), b = Acc(alone * row.rstd / double(n));
    const int64_t head = op.stream ? before_alignment(row.grad_x, n) : n;
    backward_part<kCentered, false>(row, a, b, 0, head);
    backward_part<kCentered, true>(row, a, b, head, n);
    if ((r - begin) % kRowsTogether == kRowsTogether - 1 || r == end - 1) {
      if (grad_weight) join_sums(weight_sum, grad_weight);
      if (grad_bias) join_sums(bias_sum, grad_bias);
    }
  }
  if (op.stream) finish_streaming();
}
