// The vector loops of RMSNorm with rotary positions. No include guard: each_isa.h includes it once per instruction set.
// The second pass over a row finds it in the L1 cache.

// A whole vector at p, or the first n elements of one with zeros after them.
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<T>::V load_some(const T* p, int64_t n) {
  if constexpr (kWhole) return Vec<T>::load(p);
  return Vec<T>::load_first(p, n, 0);
}
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE void store_some(T* p, typename Vec<T>::V v, int64_t n) {
  if constexpr (kWhole) return Vec<T>::store(p, v);
  Vec<T>::store_first(p, v, n);
}
// Of the type that T is computed in, from p on.
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<T>::V load_wide(const acc_t<T>* p, int64_t n) {
  if constexpr (kWhole) return Vec<T>::load(p);
  return Vec<T>::load_first(p, n, 0);
}

// What one row of a run is made of.
template <class T>
struct NormRopeRow {
  const T *x, *upstream;
  T* out;
  const acc_t<T>*weight, *cos, *sin;
  acc_t<T>* weight_gradient;
  int64_t half;
};

template <class T>
NormRopeRow<T> row_of(const NormRopeRun<T>& run, int64_t r) {
  return {run.x + r * run.x_distance, run.upstream ? run.upstream + r * run.upstream_distance : nullptr,
          run.out + r * run.out_distance, run.weight, run.cos + r * run.table_distance,
          run.sin + r * run.table_distance, run.weight_gradient, run.half};
}

template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE void turn_pairs(const NormRopeRow<T>& row, acc_t<T> r, int64_t j, int64_t n) {
  using W = Vec<T>;
  using V = typename W::V;
  const int64_t k = row.half + j;
  const V scale = W::set(r);
  const V a = W::mul(W::mul(load_some<T, kWhole>(row.x + j, n), scale), load_wide<T, kWhole>(row.weight + j, n));
  const V b = W::mul(W::mul(load_some<T, kWhole>(row.x + k, n), scale), load_wide<T, kWhole>(row.weight + k, n));
  const V c = load_wide<T, kWhole>(row.cos + j, n), s = load_wide<T, kWhole>(row.sin + j, n);
  store_some<T, kWhole>(row.out + j, W::multiply_subtract(a, c, W::mul(b, s)), n);
  store_some<T, kWhole>(row.out + k, W::multiply_add(b, c, W::mul(a, s)), n);
}

// The upstream gradient turned back.
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE void turn_back(const NormRopeRow<T>& row, int64_t j, int64_t n, typename Vec<T>::V* u,
                                                 typename Vec<T>::V* v) {
  using W = Vec<T>;
  using V = typename W::V;
  const V a = load_some<T, kWhole>(row.upstream + j, n), b = load_some<T, kWhole>(row.upstream + row.half + j, n);
  const V c = load_wide<T, kWhole>(row.cos + j, n), s = load_wide<T, kWhole>(row.sin + j, n);
  *u = W::multiply_add(a, c, W::mul(b, s));
  *v = W::multiply_subtract(b, c, W::mul(a, s));
}

// squares += x^2, products += u w x, over the pairs of one vector.
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE void add_pairs(const NormRopeRow<T>& row, int64_t j, int64_t n,
                                                 typename Vec<T>::V* squares, typename Vec<T>::V* products) {
  using W = Vec<T>;
  using V = typename W::V;
  const int64_t k = row.half + j;
  const V a = load_some<T, kWhole>(row.x + j, n), b = load_some<T, kWhole>(row.x + k, n);
  squares[0] = W::multiply_add(a, a, squares[0]);
  squares[1] = W::multiply_add(b, b, squares[1]);
  if (row.upstream) {
    V u, v;
    turn_back<T, kWhole>(row, j, n, &u, &v);
    products[0] = W::multiply_add(W::mul(u, load_wide<T, kWhole>(row.weight + j, n)), a, products[0]);
    products[1] = W::multiply_add(W::mul(v, load_wide<T, kWhole>(row.weight + k, n)), b, products[1]);
  }
}

// mean: of u w n.
template <class T, bool kWhole>
PERFSUITE_TARGET PERFSUITE_INLINE void gradient_pairs(const NormRopeRow<T>& row, acc_t<T> r, acc_t<T> mean, int64_t j,
                                                      int64_t n) {
  using W = Vec<T>;
  using V = typename W::V;
  V u[2];
  turn_back<T, kWhole>(row, j, n, &u[0], &u[1]);
  for (int i = 0; i < 2; ++i) {
    const int64_t at = i * row.half + j;
    const V normal = W::mul(load_some<T, kWhole>(row.x + at, n), W::set(r));
    const V across = W::mul(normal, W::set(mean));
    const V along = W::multiply_subtract(u[i], load_wide<T, kWhole>(row.weight + at, n), across);
    store_some<T, kWhole>(row.out + at, W::mul(W::set(r), along), n);
    acc_t<T>* sum = row.weight_gradient + at;
    store_some<acc_t<T>, kWhole>(sum, W::multiply_add(u[i], normal, load_wide<T, kWhole>(sum, n)), n);
  }
}

// Reciprocal root mean square of a row, and the mean of u w n where there is an upstream gradient.
template <class T>
PERFSUITE_TARGET acc_t<T> reciprocal_rms(const NormRopeRow<T>& row, acc_t<T> eps, acc_t<T>* mean) {
  using W = Vec<T>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  V squares[2] = {W::set(0), W::set(0)}, products[2] = {W::set(0), W::set(0)};
  int64_t j = 0;
  for (; j + w <= row.half; j += w) add_pairs<T, true>(row, j, w, squares, products);
  if (j < row.half) add_pairs<T, false>(row, j, row.half - j, squares, products);
  const acc_t<T> count = acc_t<T>(2 * row.half);
  const acc_t<T> r = 1 / std::sqrt(W::sum(W::add(squares[0], squares[1])) / count + eps);
  *mean = W::sum(W::add(products[0], products[1])) * r / count;
  return r;
}

template <class T>
PERFSUITE_TARGET void forward_run(const NormRopeRun<T>& run) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t i = 0; i < run.rows; ++i) {
    const NormRopeRow<T> row = row_of(run, i);
    acc_t<T> mean;
    const acc_t<T> r = reciprocal_rms(row, run.eps, &mean);
    int64_t j = 0;
    for (; j + w <= row.half; j += w) turn_pairs<T, true>(row, r, j, w);
    if (j < row.half) turn_pairs<T, false>(row, r, j, row.half - j);
  }
}

template <class T>
PERFSUITE_TARGET void backward_run(const NormRopeRun<T>& run) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t i = 0; i < run.rows; ++i) {
    const NormRopeRow<T> row = row_of(run, i);
    acc_t<T> mean;
    const acc_t<T> r = reciprocal_rms(row, run.eps, &mean);
    int64_t j = 0;
    for (; j + w <= row.half; j += w) gradient_pairs<T, true>(row, r, mean, j, w);
    if (j < row.half) gradient_pairs<T, false>(row, r, mean, j, row.half - j);
  }
}
