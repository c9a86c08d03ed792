// The vector loop of AdamW. No include guard: each_isa.h includes it once per instruction set.
#include "adam_elements.h"

template <class Vec, class Acc>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V adamw_step(const AdamWConstants<Acc>& k, typename Vec::V p,
                                                             typename Vec::V grad, typename Vec::V* m,
                                                             typename Vec::V* v) {
  adam_moments<Vec>(k.adam, grad, m, v);
  const typename Vec::V quotient = adam_quotient<Vec>(k.adam, *m, *v);
  return Vec::negative_multiply_add(Vec::set(k.step_size), quotient, Vec::mul(p, Vec::set(k.keep)));
}

template <class T, class G>
PERFSUITE_TARGET void adamw_elements(const AdamTensor<T, G>& t, const AdamWConstants<acc_t<T>>& k, int64_t first,
                                     int64_t n) {
  using X = Vec<T>;
  constexpr int64_t w = X::width;
  T* const p = t.param + first;
  const G* const g = t.grad + first;
  T* const exp_avg = t.exp_avg + first;
  T* const exp_avg_sq = t.exp_avg_sq + first;
  int64_t i = 0;
  for (; i + w <= n; i += w) {
    typename X::V m = X::load(exp_avg + i), v = X::load(exp_avg_sq + i);
    X::store(p + i, adamw_step<X>(k, X::load(p + i), X::load(g + i), &m, &v));
    X::store(exp_avg + i, m);
    X::store(exp_avg_sq + i, v);
  }
  if (i < n) {
    typename X::V m = X::load_first(exp_avg + i, n - i, 0), v = X::load_first(exp_avg_sq + i, n - i, 0);
    const typename X::V old = X::load_first(p + i, n - i, 0), grad = X::load_first(g + i, n - i, 0);
    X::store_first(p + i, adamw_step<X>(k, old, grad, &m, &v), n - i);
    X::store_first(exp_avg + i, m, n - i);
    X::store_first(exp_avg_sq + i, v, n - i);
  }
  write_copies(t, first, n);
}
