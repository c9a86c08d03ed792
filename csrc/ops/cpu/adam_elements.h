// Vector loops that all of Adam's relatives share. No include guard: included by the bodies that each_isa.h compiles.

// The new moments, from those before.
template <class Vec, class Acc>
PERFSUITE_TARGET PERFSUITE_INLINE void adam_moments(const AdamConstants<Acc>& k, typename Vec::V grad,
                                                    typename Vec::V* m, typename Vec::V* v) {
  const typename Vec::V g = Vec::mul(grad, Vec::set(k.clip));
  *m = Vec::multiply_add(Vec::set(k.weight), Vec::sub(g, *m), k.from_moment ? *m : g);
  // In this order: g^2 by itself may overflow.
  *v = Vec::multiply_add(Vec::set(k.beta2), *v, Vec::mul(Vec::mul(Vec::set(k.one_minus_beta2), g), g));
}

// m / (sqrt(v) inverse_root_bias2 + eps)
template <class Vec, class Acc>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V adam_quotient(const AdamConstants<Acc>& k, typename Vec::V m,
                                                                typename Vec::V v) {
  return Vec::div(m, Vec::multiply_add(Vec::sqrt(v), Vec::set(k.inverse_root_bias2), Vec::set(k.eps)));
}

// The n elements from `first` on of the parameter, rounded into its copies. They are still in L1.
template <class T, class G>
PERFSUITE_TARGET PERFSUITE_INLINE void write_copies(const AdamTensor<T, G>& t, int64_t first, int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    using V = Vec<float>;
    int64_t i = first;
    const int64_t end = first + n;
    if (t.bfloat16_copy) {
      for (; i + V::width <= end; i += V::width) V::store(t.bfloat16_copy + i, V::load(t.param + i));
      if (i < end) V::store_first(t.bfloat16_copy + i, V::load_first(t.param + i, end - i, 0), end - i);
    } else if (t.half_copy) {
      for (; i + V::width <= end; i += V::width) V::store(t.half_copy + i, V::load(t.param + i));
      if (i < end) V::store_first(t.half_copy + i, V::load_first(t.param + i, end - i, 0), end - i);
    }
  }
}
