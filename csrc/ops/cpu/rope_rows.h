// The vector loop of rotary positions. No include guard: each_isa.h includes it once per instruction set. Writing past
// the caches gains nothing (67 MB read and written: 1.77 ms against 1.80, one thread), so it is not done.

template <class T>
PERFSUITE_TARGET void rope_run(const RopeRun<T>& run) {
  using W = Vec<T>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  const int64_t half = run.half, whole = half / w * w, tail = half - whole;
  const V sign = W::set(run.inverse ? -1 : 1);
  for (int64_t r = 0; r < run.rows; ++r) {
    const T *x = run.x + r * run.x_distance, *y = x + half;
    T *out_x = run.out + r * run.out_distance, *out_y = out_x + half;
    const acc_t<T>*cos = run.cos + r * run.table_distance, *sin = run.sin + r * run.table_distance;
    for (int64_t j = 0; j < whole; j += w) {
      const V a = W::load(x + j), b = W::load(y + j), c = W::load(cos + j), s = W::mul(sign, W::load(sin + j));
      const V turned_a = W::multiply_subtract(a, c, W::mul(b, s)), turned_b = W::multiply_add(b, c, W::mul(a, s));
      W::store(out_x + j, turned_a);
      W::store(out_y + j, turned_b);
    }
    if (tail) {
      const V a = W::load_first(x + whole, tail, 0), b = W::load_first(y + whole, tail, 0);
      const V c = W::load_first(cos + whole, tail, 0), s = W::mul(sign, W::load_first(sin + whole, tail, 0));
      W::store_first(out_x + whole, W::multiply_subtract(a, c, W::mul(b, s)), tail);
      W::store_first(out_y + whole, W::multiply_add(b, c, W::mul(a, s)), tail);
    }
  }
}
