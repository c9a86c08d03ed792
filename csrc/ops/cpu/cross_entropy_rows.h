// The vector loops of cross-entropy. No include guard: cross_entropy.cpp includes it once per instruction set, with Vec
// and PERFSUITE_TARGET set.

// Four accumulators hide the latency of addition and maximum.
template <class T>
PERFSUITE_TARGET Row<T> scan(const T* x, int64_t n, bool want_total) {
  using V = typename Vec::V;
  constexpr int64_t w = Vec::width;
  constexpr float lowest = std::numeric_limits<float>::lowest(), infinity = std::numeric_limits<float>::infinity();
  Row<T> row{lowest, 0, 0};
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t end = std::min(n, start + kBlock), whole = start + (end - start) / w * w;
    const int64_t unrolled = start + (end - start) / (4 * w) * (4 * w);
    const Partial<Vec, T> tail(x + whole, end - whole, -infinity);

    V m0 = Vec::set(row.max), m1 = m0, m2 = m0, m3 = m0;
    int64_t j = start;
    for (; j < unrolled; j += 4 * w) {
      m0 = Vec::max(m0, Vec::load(x + j));
      m1 = Vec::max(m1, Vec::load(x + j + w));
      m2 = Vec::max(m2, Vec::load(x + j + 2 * w));
      m3 = Vec::max(m3, Vec::load(x + j + 3 * w));
    }
    for (; j < whole; j += w) m0 = Vec::max(m0, Vec::load(x + j));
    m0 = Vec::max(m0, Vec::load(tail.buffer));
    // A NaN may get lost here; the exponentials below bring it back into the sum.
    const float m = Vec::largest(Vec::max(Vec::max(m0, m1), Vec::max(m2, m3)));
    const float block_max = m != m ? row.max : m;

    const V vm = Vec::set(block_max);
    V s0 = Vec::set(0), s1 = s0, s2 = s0, s3 = s0;
    for (j = start; j < unrolled; j += 4 * w) {
      s0 = Vec::add(s0, Vec::exp(Vec::sub(Vec::load(x + j), vm)));
      s1 = Vec::add(s1, Vec::exp(Vec::sub(Vec::load(x + j + w), vm)));
      s2 = Vec::add(s2, Vec::exp(Vec::sub(Vec::load(x + j + 2 * w), vm)));
      s3 = Vec::add(s3, Vec::exp(Vec::sub(Vec::load(x + j + 3 * w), vm)));
    }
    for (; j < whole; j += w) s0 = Vec::add(s0, Vec::exp(Vec::sub(Vec::load(x + j), vm)));
    s1 = Vec::add(s1, Vec::exp(Vec::sub(Vec::load(tail.buffer), vm)));
    join(row, block_max, Vec::sum(Vec::add(Vec::add(s0, s1), Vec::add(s2, s3))));

    if (want_total) {
      s0 = s1 = Vec::set(0);
      for (j = start; j + w < whole; j += 2 * w) {
        s0 = Vec::add(s0, Vec::load(x + j));
        s1 = Vec::add(s1, Vec::load(x + j + w));
      }
      if (j < whole) s0 = Vec::add(s0, Vec::load(x + j));
      double total = Vec::sum(Vec::add(s0, s1));
      for (j = whole; j < end; ++j) total += to_acc(x[j]);
      row.total += total;
    }
  }
  return row;
}

// The count < width elements at x.
template <class T>
PERFSUITE_TARGET void gradient_part(const T* x, int64_t count, float m, float a, float b, T* out) {
  Partial<Vec, T> part(x, count, 0);
  const auto p = Vec::exp(Vec::sub(Vec::load(part.buffer), Vec::set(m)));
  Vec::store(part.buffer, Vec::multiply_subtract(Vec::set(a), p, Vec::set(b)));
  std::copy_n(part.buffer, count, out);
}

// out_j = a exp(x_j - m) - b
template <class T>
PERFSUITE_TARGET void gradient_row(const T* x, int64_t n, float m, float a, float b, T* out, bool stream) {
  using V = typename Vec::V;
  constexpr int64_t w = Vec::width;
  const V vm = Vec::set(m), va = Vec::set(a), vb = Vec::set(b);
  int64_t j = 0;
  if (stream) {
    constexpr uintptr_t bytes = w * sizeof(T);
    j = std::min(n, int64_t((bytes - reinterpret_cast<uintptr_t>(out) % bytes) % bytes / sizeof(T)));
    gradient_part(x, j, m, a, b, out);
    for (; j + w <= n; j += w)
      Vec::stream(out + j, Vec::multiply_subtract(va, Vec::exp(Vec::sub(Vec::load(x + j), vm)), vb));
    _mm_sfence();  // other threads may read the row as soon as the caller says that it is written
  } else {
    for (; j + w <= n; j += w)
      Vec::store(out + j, Vec::multiply_subtract(va, Vec::exp(Vec::sub(Vec::load(x + j), vm)), vb));
  }
  if (j < n) gradient_part(x + j, n - j, m, a, b, out + j);
}
