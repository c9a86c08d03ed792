// The vector loop of global_norm. No include guard: each_isa.h includes it once per instruction set.

// Four accumulators hide the latency of the multiply-add.
template <class T>
PERFSUITE_TARGET double squares(const T* x, int64_t n) {
  using V = typename Vec<T>::V;
  constexpr int64_t w = Vec<T>::width;
  V s0 = Vec<T>::set(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * w <= n; i += 4 * w) {
    const V a = Vec<T>::load(x + i), b = Vec<T>::load(x + i + w);
    const V c = Vec<T>::load(x + i + 2 * w), d = Vec<T>::load(x + i + 3 * w);
    s0 = Vec<T>::multiply_add(a, a, s0);
    s1 = Vec<T>::multiply_add(b, b, s1);
    s2 = Vec<T>::multiply_add(c, c, s2);
    s3 = Vec<T>::multiply_add(d, d, s3);
  }
  for (; i + w <= n; i += w) {
    const V a = Vec<T>::load(x + i);
    s0 = Vec<T>::multiply_add(a, a, s0);
  }
  if (i < n) {
    const V a = Vec<T>::load_first(x + i, n - i, 0);
    s1 = Vec<T>::multiply_add(a, a, s1);
  }
  return Vec<T>::sum(Vec<T>::add(Vec<T>::add(s0, s1), Vec<T>::add(s2, s3)));
}
