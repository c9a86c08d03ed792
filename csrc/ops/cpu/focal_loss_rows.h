// The vector loops of the focal loss: see each_isa.h.

// Loss and gradient by u; the weight is put to them later. kPower: gamma is 0, 2 or anything.
template <class W, Power kPower>
PERFSUITE_TARGET PERFSUITE_INLINE typename W::V focal(typename W::V u, typename W::V gamma, typename W::V* slope) {
  using V = typename W::V;
  const auto q = vector_logistic<W>(u);
  const V small = vector_log1p<W>(q.decay), zero = W::set(0);
  const V softplus = W::add(W::max(zero, u), small);  // log(1 + exp(u))
  V power = W::set(1);
  if constexpr (kPower == Power::kTwo) power = W::mul(q.of_x, q.of_x);
  if constexpr (kPower == Power::kAny) {
    const V softplus_minus = W::sub(softplus, u);  // of -u: -log q
    const V near = W::select(W::greater(zero, u), softplus_minus, small);
    power = W::exp(W::sub(zero, W::mul(gamma, near)));
  }
  V inner = q.of_x;
  if constexpr (kPower != Power::kZero) inner = W::multiply_add(W::mul(gamma, q.of_minus_x), softplus, inner);
  *slope = W::mul(power, inner);
  return W::mul(power, softplus);
}

// The sum of the losses of u, slopes their gradient times weight (null: not wanted). Few losses are added in float32.
template <class T, Power kPower>
PERFSUITE_TARGET double focal_row(const acc_t<T>* u, int64_t n, acc_t<T> gamma, acc_t<T> weight, T* slopes) {
  using W = Vec<T>;
  using V = typename W::V;
  const V vg = W::set(gamma), k = W::set(weight);
  V slope;
  double total = 0;
  int64_t j = 0;
  while (j + W::width <= n) {
    V sum = W::set(0);
    const int64_t end = std::min(n, j + 16 * W::width);
    for (; j + W::width <= end; j += W::width) {
      sum = W::add(sum, focal<W, kPower>(W::load(u + j), vg, &slope));
      if (slopes) W::store(slopes + j, W::mul(slope, k));
    }
    total += W::sum(sum);
  }
  if (j < n) {
    constexpr acc_t<T> nothing = -std::numeric_limits<acc_t<T>>::infinity();  // has loss 0
    total += W::sum(focal<W, kPower>(W::load_first(u + j, n - j, nothing), vg, &slope));
    if (slopes) W::store_first(slopes + j, W::mul(slope, k), n - j);
  }
  return total;
}

// to_j = from_j
template <class T>
PERFSUITE_TARGET void widen_row(const T* from, int64_t n, acc_t<T>* to) {
  using W = Vec<T>;
  int64_t j = 0;
  for (; j + W::width <= n; j += W::width) W::store(to + j, W::load(from + j));
  if (j < n) W::store_first(to + j, W::load_first(from + j, n - j, 0), n - j);
}
