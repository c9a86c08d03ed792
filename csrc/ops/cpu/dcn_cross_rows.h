// The vector loops of dcn_cross. No include guard: see each_isa.h.

// Reads and writes whole vectors, or the first `count` elements of one.
template <class T>
struct Whole {
  template <class U>
  PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<T>::V load(const U* p, int64_t) {
    return Vec<T>::load(p);
  }
  template <class U>
  PERFSUITE_TARGET PERFSUITE_INLINE void store(U* p, typename Vec<T>::V x, int64_t) {
    Vec<T>::store(p, x);
  }
};
template <class T>
struct First {
  template <class U>
  PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<T>::V load(const U* p, int64_t count) {
    return Vec<T>::load_first(p, count, 0);
  }
  template <class U>
  PERFSUITE_TARGET PERFSUITE_INLINE void store(U* p, typename Vec<T>::V x, int64_t count) {
    Vec<T>::store_first(p, x, count);
  }
};

template <class Access, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void forward_part(const T* x0, const T* q, const T* bias, const T* x, T* y,
                                                    int64_t count) {
  const auto sum = Vec<T>::add(Access::load(q, count), Access::load(bias, count));
  Access::store(y, Vec<T>::multiply_add(Access::load(x0, count), sum, Access::load(x, count)), count);
}

template <class T>
PERFSUITE_TARGET void forward_rows(const CrossRows<T>& op, int64_t begin, int64_t end, const T* x, int64_t x_stride,
                                   T* y) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t r = begin; r < end; ++r) {
    const T *x0 = op.x0 + r * op.x0_stride, *q = op.q + r * op.width, *x_row = x + r * x_stride;
    T* out = y + r * op.width;
    int64_t j = 0;
    for (; j + w <= op.width; j += w) forward_part<Whole<T>>(x0 + j, q + j, op.bias + j, x_row + j, out + j, w);
    if (j < op.width) forward_part<First<T>>(x0 + j, q + j, op.bias + j, x_row + j, out + j, op.width - j);
  }
}

template <class Access, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void backward_part(const T* upstream, const T* x0, const T* q, const T* bias,
                                                     T* grad_x0, T* grad_q, T* grad_x, acc_t<T>* bias_sum,
                                                     int64_t count) {
  const auto g = Access::load(upstream, count);
  const auto of_q = Vec<T>::mul(g, Access::load(x0, count));
  Access::store(grad_x0, Vec<T>::mul(g, Vec<T>::add(Access::load(q, count), Access::load(bias, count))), count);
  Access::store(grad_q, of_q, count);
  Access::store(grad_x, g, count);
  Access::store(bias_sum, Vec<T>::add(Access::load(bias_sum, count), of_q), count);
}

template <class T>
PERFSUITE_TARGET void backward_rows(const CrossRows<T>& op, int64_t begin, int64_t end, const CrossGradients<T>& out,
                                    acc_t<T>* bias_sum) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t r = begin; r < end; ++r) {
    const T *upstream = out.upstream + r * out.upstream_stride, *x0 = op.x0 + r * op.x0_stride;
    const int64_t at = r * op.width;
    int64_t j = 0;
    for (; j + w <= op.width; j += w)
      backward_part<Whole<T>>(upstream + j, x0 + j, op.q + at + j, op.bias + j, out.x0 + at + j, out.q + at + j,
                              out.x + at + j, bias_sum + j, w);
    if (j < op.width)
      backward_part<First<T>>(upstream + j, x0 + j, op.q + at + j, op.bias + j, out.x0 + at + j, out.q + at + j,
                              out.x + at + j, bias_sum + j, op.width - j);
  }
}
