// The vector loops of LAMB. No include guard: each_isa.h includes it once per instruction set.
#include "adam_elements.h"

template <class Vec, class Acc>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V lamb_update(const LambConstants<Acc>& k, typename Vec::V p,
                                                              typename Vec::V m, typename Vec::V v) {
  const typename Vec::V decay = Vec::mul(p, Vec::set(k.weight_decay));
  return Vec::multiply_add(adam_quotient<Vec>(k.adam, m, v), Vec::set(k.adam.inverse_bias1), decay);
}

// Whether the first pass writes the moments.
template <class T>
constexpr bool kMomentsFirst = std::is_same_v<T, acc_t<T>>;

template <class T, class G>
PERFSUITE_TARGET LambSums sums(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, int64_t first, int64_t n) {
  using X = Vec<T>;
  using V = typename X::V;
  constexpr int64_t w = X::width;
  const T* const param = t.param + first;
  const G* const grad = t.grad + first;
  T* const exp_avg = t.exp_avg + first;
  T* const exp_avg_sq = t.exp_avg_sq + first;
  V params = X::set(0), updates = X::set(0);
  int64_t i = 0;
  for (; i + w <= n; i += w) {
    V m = X::load(exp_avg + i), v = X::load(exp_avg_sq + i);
    const V p = X::load(param + i);
    adam_moments<X>(k.adam, X::load(grad + i), &m, &v);
    if constexpr (kMomentsFirst<T>) {
      X::store(exp_avg + i, m);
      X::store(exp_avg_sq + i, v);
    }
    const V u = lamb_update<X>(k, p, m, v);
    params = X::multiply_add(p, p, params);
    updates = X::multiply_add(u, u, updates);
  }
  if (i < n) {
    V m = X::load_first(exp_avg + i, n - i, 0), v = X::load_first(exp_avg_sq + i, n - i, 0);
    const V p = X::load_first(param + i, n - i, 0);
    adam_moments<X>(k.adam, X::load_first(grad + i, n - i, 0), &m, &v);
    if constexpr (kMomentsFirst<T>) {
      X::store_first(exp_avg + i, m, n - i);
      X::store_first(exp_avg_sq + i, v, n - i);
    }
    // The pad is 0 / (0 + eps), which is NaN where eps is 0.
    acc_t<T> u[w];
    X::store(u, lamb_update<X>(k, p, m, v));
    params = X::multiply_add(p, p, params);
    const V inside = X::load_first(u, n - i, 0);
    updates = X::multiply_add(inside, inside, updates);
  }
  return {X::sum(params), X::sum(updates)};
}

template <class T, class G>
PERFSUITE_TARGET void apply(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, acc_t<T> rate, int64_t first,
                            int64_t n) {
  using X = Vec<T>;
  using V = typename X::V;
  constexpr int64_t w = X::width;
  T* const param = t.param + first;
  const G* const grad = t.grad + first;
  T* const exp_avg = t.exp_avg + first;
  T* const exp_avg_sq = t.exp_avg_sq + first;
  int64_t i = 0;
  for (; i + w <= n; i += w) {
    V m = X::load(exp_avg + i), v = X::load(exp_avg_sq + i);
    if constexpr (!kMomentsFirst<T>) {
      adam_moments<X>(k.adam, X::load(grad + i), &m, &v);
      X::store(exp_avg + i, m);
      X::store(exp_avg_sq + i, v);
    }
    const V p = X::load(param + i);
    X::store(param + i, X::negative_multiply_add(X::set(rate), lamb_update<X>(k, p, m, v), p));
  }
  if (i < n) {
    V m = X::load_first(exp_avg + i, n - i, 0), v = X::load_first(exp_avg_sq + i, n - i, 0);
    if constexpr (!kMomentsFirst<T>) {
      adam_moments<X>(k.adam, X::load_first(grad + i, n - i, 0), &m, &v);
      X::store_first(exp_avg + i, m, n - i);
      X::store_first(exp_avg_sq + i, v, n - i);
    }
    const V p = X::load_first(param + i, n - i, 0);
    X::store_first(param + i, X::negative_multiply_add(X::set(rate), lamb_update<X>(k, p, m, v), p), n - i);
  }
  write_copies(t, first, n);
}
