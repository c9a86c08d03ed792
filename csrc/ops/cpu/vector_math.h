// Functions of vectors that are the same for every instruction set. No include guard: each_isa.h includes it once for
// each, with Vec, or Vec<T> for element type T, and PERFSUITE_TARGET set. Largest errors: tests/test_vector_math.py.

// log(x) = e ln 2 + log1p(m), x = 2^e (1 + m), 1 + m in [1 / sqrt 2, sqrt 2]: the polynomial of the Cephes library's logf.
// x positive and normal.
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V vector_log(typename Vec::V x) {
  if constexpr (Vec::width == 1) {
    return std::log(x);
  } else {
    using V = typename Vec::V;
    V e, m = Vec::mantissa(x, &e);
    const auto above = Vec::greater(m, Vec::set(1.41421356f));
    e = Vec::select(above, Vec::add(e, Vec::set(1.f)), e);
    m = Vec::sub(Vec::select(above, Vec::mul(m, Vec::set(0.5f)), m), Vec::set(1.f));
    constexpr float c[] = {7.0376836292e-2f,  -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                           -1.6668057665e-1f, 2.0000714765e-1f,  -2.4999993993e-1f, 3.3333331174e-1f};
    V p = Vec::set(c[0]);
    for (int i = 1; i < 9; ++i) p = Vec::multiply_add(p, m, Vec::set(c[i]));
    const V square = Vec::mul(m, m);
    p = Vec::mul(p, Vec::mul(m, square));
    p = Vec::multiply_add(e, Vec::set(-2.12194440e-4f), p);
    p = Vec::multiply_add(square, Vec::set(-0.5f), p);
    return Vec::multiply_add(e, Vec::set(0.693359375f), Vec::add(m, p));
  }
}

// 1 / (1 + exp(-x))
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V vector_sigmoid(typename Vec::V x) {
  const typename Vec::V one = Vec::set(1);
  return Vec::div(one, Vec::add(one, Vec::exp(Vec::sub(Vec::set(0), x))));
}
