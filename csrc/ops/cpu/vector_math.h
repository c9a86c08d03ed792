// Functions of vectors that are the same for every instruction set. No include guard: each_isa.h includes it once for
// each, with Vec, or Vec<T> for element type T, and PERFSUITE_TARGET set. Largest errors: tests/test_vector_math.py.

// e ln 2 + log1p(m), 1 + m in [1 / sqrt 2, sqrt 2]: the polynomial of the Cephes library's logf.
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V log_of_parts(typename Vec::V e, typename Vec::V m) {
  using V = typename Vec::V;
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

// log(x) = e ln 2 + log1p(m), x = 2^e (1 + m). x positive and normal.
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
    return log_of_parts<Vec>(e, m);
  }
}

// log(1 + x), x in [0, 1]. NaN stays NaN.
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V vector_log1p(typename Vec::V x) {
  if constexpr (Vec::width == 1) {
    return std::log1p(x);
  } else {
    using V = typename Vec::V;
    const V one = Vec::set(1.f);
    const auto above = Vec::greater(x, Vec::set(0.41421356f));  // 1 + x = 2 (1 + (x - 1) / 2) then
    const V m = Vec::select(above, Vec::mul(Vec::set(0.5f), Vec::sub(x, one)), x);
    return log_of_parts<Vec>(Vec::select(above, one, Vec::set(0.f)), m);
  }
}

// 1 / (1 + exp(-x))
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec::V vector_sigmoid(typename Vec::V x) {
  const typename Vec::V one = Vec::set(1);
  return Vec::div(one, Vec::add(one, Vec::exp(Vec::sub(Vec::set(0), x))));
}

// sigmoid(x) and sigmoid(-x) from exp(-|x|), each to its own last digits: 1 - sigmoid(x) has lost them where x is large.
template <class Vec>
struct Logistic {
  typename Vec::V of_x, of_minus_x;
  typename Vec::V decay;  // exp(-|x|)
};
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE Logistic<Vec> vector_logistic(typename Vec::V x) {
  using V = typename Vec::V;
  const V one = Vec::set(1), decay = Vec::exp(Vec::sub(Vec::set(0), Vec::abs(x)));
  const V larger = Vec::div(one, Vec::add(one, decay)), smaller = Vec::mul(decay, larger);
  const auto positive = Vec::greater(x, Vec::set(0));
  return {Vec::select(positive, larger, smaller), Vec::select(positive, smaller, larger), decay};
}

// The normal distribution's density exp(-x^2 / 2) / sqrt(2 pi) and its integral up to x, (1 + erf(x / sqrt 2)) / 2,
// which keeps its last digits where x is far below 0 and 1 + erf has none left.
template <class Vec>
struct Normal {
  typename Vec::V density, cumulative;
};
template <class Vec>
PERFSUITE_TARGET PERFSUITE_INLINE Normal<Vec> vector_normal(typename Vec::V x) {
  using V = typename Vec::V;
  constexpr double inverse_root = 0.39894228040143267794;  // 1 / sqrt(2 pi)
  if constexpr (Vec::width == 1) {
    const double wide = x;
    return {V(inverse_root * std::exp(-0.5 * wide * wide)), V(0.5 * std::erfc(wide * -0.70710678118654752440))};
  } else {
    // exp(-x^2 / 2): what is lost in rounding the square is put back, it would be 80 ulp at the far end.
    const V half_square = Vec::mul(Vec::mul(x, Vec::set(0.5f)), x);
    const V lost = Vec::multiply_subtract(Vec::mul(x, Vec::set(0.5f)), x, half_square);
    V decay = Vec::exp(Vec::sub(Vec::set(0.f), half_square));
    const auto counts = Vec::greater(Vec::set(128.f), half_square);  // not where the square is infinite
    decay = Vec::select(counts, Vec::negative_multiply_add(decay, lost, decay), decay);
    // Below 0 it is decay * t p(t), t = 1 / (1 + 0.35 |x|): fitted to erfcx(|x| / sqrt 2) / 2, |x| <= 14.6, to 3.2e-8.
    const V size = Vec::abs(x), one = Vec::set(1.f);
    const V t = Vec::div(one, Vec::multiply_add(Vec::set(0.35f), size, one));
    constexpr float c[] = {-0.029160598292946815f, 0.1440437138080597f,  -0.25586462020874023f,
                           0.15934805572032928f,   -0.023231297731399536f, 0.1055602952837944f,
                           0.11981936544179916f,   0.1398637741804123f,  0.1396212875843048f};
    V p = Vec::set(c[0]);
    for (int i = 1; i < 9; ++i) p = Vec::multiply_add(p, t, Vec::set(c[i]));
    const V below = Vec::mul(decay, Vec::mul(t, p));
    const V cumulative = Vec::select(Vec::greater(x, Vec::set(0.f)), Vec::sub(one, below), below);
    return {Vec::mul(Vec::set(float(inverse_root)), decay), cumulative};
  }
}
