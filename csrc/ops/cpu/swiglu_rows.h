// The vector loops of swiglu: see each_isa.h.

// act(x) and its derivative. With Phi or sigmoid(x) = p and 1 - p = q from one exponential, nothing cancels where x is
// large but what cancels in the derivative itself.
template <class W, Activation kKind>
PERFSUITE_TARGET PERFSUITE_INLINE typename W::V activation(typename W::V x, typename W::V* slope) {
  using V = typename W::V;
  const V one = W::set(1);
  if constexpr (kKind == Activation::kGelu) {
    const auto normal = vector_normal<W>(x);
    *slope = W::multiply_add(x, normal.density, normal.cumulative);
    return W::mul(x, normal.cumulative);
  } else if constexpr (kKind == Activation::kSilu) {
    const auto p = vector_logistic<W>(x);
    *slope = W::mul(p.of_x, W::multiply_add(x, p.of_minus_x, one));
    return W::mul(x, p.of_x);
  } else {
    constexpr double twice = 1.5957691216057307118, cube = 0.044715;  // 2 sqrt(2 / pi)
    const V square = W::mul(x, x);
    const V u = W::mul(x, W::multiply_add(square, W::set(twice * cube), W::set(twice)));
    const V u_slope = W::multiply_add(square, W::set(3 * twice * cube), W::set(twice));
    const auto p = vector_logistic<W>(u);
    *slope = W::mul(p.of_x, W::multiply_add(W::mul(x, u_slope), p.of_minus_x, one));
    return W::mul(x, p.of_x);
  }
}

template <class T, Activation kKind>
PERFSUITE_TARGET void forward_row(const T* gate, const T* up, int64_t n, T* out, bool stream) {
  using W = Vec<T>;
  typename W::V unused;
  int64_t j = 0;
  for (; j + W::width <= n; j += W::width) {
    const auto value = W::mul(activation<W, kKind>(W::load(gate + j), &unused), W::load(up + j));
    stream ? W::stream(out + j, value) : W::store(out + j, value);
  }
  if (j < n) {
    const auto x = W::load_first(gate + j, n - j, 0), y = W::load_first(up + j, n - j, 0);
    W::store_first(out + j, W::mul(activation<W, kKind>(x, &unused), y), n - j);
  }
}

template <class T, Activation kKind>
PERFSUITE_TARGET void backward_row(const T* upstream, const T* gate, const T* up, int64_t n, T* grad_gate, T* grad_up,
                                   bool stream) {
  using W = Vec<T>;
  using V = typename W::V;
  int64_t j = 0;
  for (; j + W::width <= n; j += W::width) {
    V slope;
    const V g = W::load(upstream + j), value = activation<W, kKind>(W::load(gate + j), &slope);
    const V of_gate = W::mul(W::mul(g, W::load(up + j)), slope), of_up = W::mul(g, value);
    if (stream) {
      W::stream(grad_gate + j, of_gate);
      W::stream(grad_up + j, of_up);
    } else {
      W::store(grad_gate + j, of_gate);
      W::store(grad_up + j, of_up);
    }
  }
  if (j < n) {
    V slope;
    const V g = W::load_first(upstream + j, n - j, 0), y = W::load_first(up + j, n - j, 0);
    const V value = activation<W, kKind>(W::load_first(gate + j, n - j, 0), &slope);
    W::store_first(grad_gate + j, W::mul(W::mul(g, y), slope), n - j);
    W::store_first(grad_up + j, W::mul(g, value), n - j);
  }
}
