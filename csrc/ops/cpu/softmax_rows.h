// The vector loops of softmax: see each_isa.h. Four accumulators hide the latency of addition and maximum.

template <class T>
PERFSUITE_TARGET acc_t<T> row_maximum(const T* x, int64_t n) {
  using W = Vec<T>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  constexpr acc_t<T> lowest = -std::numeric_limits<acc_t<T>>::infinity();
  V m0 = W::set(lowest), m1 = m0, m2 = m0, m3 = m0;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    m0 = W::max(m0, W::load(x + j));
    m1 = W::max(m1, W::load(x + j + w));
    m2 = W::max(m2, W::load(x + j + 2 * w));
    m3 = W::max(m3, W::load(x + j + 3 * w));
  }
  for (; j + w <= n; j += w) m0 = W::max(m0, W::load(x + j));
  if (j < n) m1 = W::max(m1, W::load_first(x + j, n - j, lowest));
  return W::largest(W::max(W::max(m0, m1), W::max(m2, m3)));  // a NaN may get lost here; the exponentials have it
}

// kept_j = exp(x_j - m); returns their sum, of blocks in float64.
template <class T>
PERFSUITE_TARGET double row_exponentials(const T* x, int64_t n, acc_t<T> m, acc_t<T>* kept) {
  using W = Vec<T>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  const V vm = W::set(m);
  double sum = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(n, start + kBlock);
    V s0 = W::set(0), s1 = s0;
    int64_t j = start;
    for (; j + 2 * w <= end; j += 2 * w) {
      const V e0 = W::exp(W::sub(W::load(x + j), vm)), e1 = W::exp(W::sub(W::load(x + j + w), vm));
      W::store(kept + j, e0);
      W::store(kept + j + w, e1);
      s0 = W::add(s0, e0);
      s1 = W::add(s1, e1);
    }
    for (; j + w <= end; j += w) {
      const V e = W::exp(W::sub(W::load(x + j), vm));
      W::store(kept + j, e);
      s0 = W::add(s0, e);
    }
    sum += W::sum(W::add(s0, s1));
    if (j < end) {  // a padded lane would be exp(-inf - m), NaN where m is -inf: it is 0 whatever m is
      const V e = W::exp(W::sub(W::load_first(x + j, end - j, 0), vm));
      W::store_first(kept + j, e, end - j);
      sum += W::sum(W::load_first(kept + j, end - j, 0));
    }
  }
  return sum;
}

template <class T>
PERFSUITE_TARGET void scale_row(const acc_t<T>* kept, int64_t n, acc_t<T> factor, T* y, bool stream) {
  using W = Vec<T>;
  const auto k = W::set(factor);
  int64_t j = 0;
  for (; j + W::width <= n; j += W::width) {
    const auto value = W::mul(W::load(kept + j), k);
    stream ? W::stream(y + j, value) : W::store(y + j, value);
  }
  if (j < n) W::store_first(y + j, W::mul(W::load_first(kept + j, n - j, 0), k), n - j);
}

template <class T>
PERFSUITE_TARGET double dot_row(const T* a, const T* b, int64_t n) {
  using W = Vec<T>;
  using V = typename W::V;
  constexpr int64_t w = W::width;
  double sum = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(n, start + kBlock);
    V s0 = W::set(0), s1 = s0, s2 = s0, s3 = s0;
    int64_t j = start;
    for (; j + 4 * w <= end; j += 4 * w) {
      s0 = W::multiply_add(W::load(a + j), W::load(b + j), s0);
      s1 = W::multiply_add(W::load(a + j + w), W::load(b + j + w), s1);
      s2 = W::multiply_add(W::load(a + j + 2 * w), W::load(b + j + 2 * w), s2);
      s3 = W::multiply_add(W::load(a + j + 3 * w), W::load(b + j + 3 * w), s3);
    }
    for (; j + w <= end; j += w) s0 = W::multiply_add(W::load(a + j), W::load(b + j), s0);
    if (j < end) s1 = W::multiply_add(W::load_first(a + j, end - j, 0), W::load_first(b + j, end - j, 0), s1);
    sum += W::sum(W::add(W::add(s0, s1), W::add(s2, s3)));
  }
  return sum;
}

// out_j = y_j (g_j - dot)
template <class T>
PERFSUITE_TARGET void gradient_row(const T* g, const T* y, int64_t n, acc_t<T> dot, T* out, bool stream) {
  using W = Vec<T>;
  const auto d = W::set(dot);
  int64_t j = 0;
  for (; j + W::width <= n; j += W::width) {
    const auto value = W::mul(W::load(y + j), W::sub(W::load(g + j), d));
    stream ? W::stream(out + j, value) : W::store(out + j, value);
  }
  if (j < n) {
    const auto value = W::mul(W::load_first(y + j, n - j, 0), W::sub(W::load_first(g + j, n - j, 0), d));
    W::store_first(out + j, value, n - j);
  }
}
