// One row of cross-entropy. No include guard: each_isa.h includes it once per instruction set.

// The largest of x and start. Four accumulators hide the latency. A NaN may get lost here; the exponentials bring it back.
template <class T>
PERFSUITE_TARGET acc_t<T> row_largest(const T* x, int64_t n, acc_t<T> start) {
  using X = Vec<T>;
  using V = typename X::V;
  constexpr int64_t w = X::width;
  V m0 = X::set(start), m1 = m0, m2 = m0, m3 = m0;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    m0 = X::max(m0, X::load(x + j));
    m1 = X::max(m1, X::load(x + j + w));
    m2 = X::max(m2, X::load(x + j + 2 * w));
    m3 = X::max(m3, X::load(x + j + 3 * w));
  }
  for (; j + w <= n; j += w) m0 = X::max(m0, X::load(x + j));
  if (j < n) m1 = X::max(m1, X::load_first(x + j, n - j, start));
  const acc_t<T> m = X::largest(X::max(X::max(m0, m1), X::max(m2, m3)));
  return m != m ? start : m;
}

// kept_j = exp(x_j - m), in whole vectors: kept has room for one more. Returns the sum.
template <class T>
PERFSUITE_TARGET acc_t<T> row_exponentials(const T* x, int64_t n, acc_t<T> m, acc_t<T>* kept) {
  using X = Vec<T>;
  using V = typename X::V;
  constexpr int64_t w = X::width;
  const V vm = X::set(m);
  V s0 = X::set(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    const V e0 = X::exp(X::sub(X::load(x + j), vm)), e1 = X::exp(X::sub(X::load(x + j + w), vm));
    const V e2 = X::exp(X::sub(X::load(x + j + 2 * w), vm)), e3 = X::exp(X::sub(X::load(x + j + 3 * w), vm));
    X::store(kept + j, e0);
    X::store(kept + j + w, e1);
    X::store(kept + j + 2 * w, e2);
    X::store(kept + j + 3 * w, e3);
    s0 = X::add(s0, e0);
    s1 = X::add(s1, e1);
    s2 = X::add(s2, e2);
    s3 = X::add(s3, e3);
  }
  for (; j + w <= n; j += w) {
    const V e = X::exp(X::sub(X::load(x + j), vm));
    X::store(kept + j, e);
    s0 = X::add(s0, e);
  }
  if (j < n) {
    const V e = X::exp(X::sub(X::load_first(x + j, n - j, -std::numeric_limits<acc_t<T>>::infinity()), vm));
    X::store(kept + j, e);
    s1 = X::add(s1, e);
  }
  return X::sum(X::add(X::add(s0, s1), X::add(s2, s3)));
}

template <class T>
PERFSUITE_TARGET acc_t<T> row_total(const T* x, int64_t n) {
  using X = Vec<T>;
  constexpr int64_t w = X::width;
  auto s0 = X::set(0), s1 = s0;
  int64_t j = 0;
  for (; j + 2 * w <= n; j += 2 * w) {
    s0 = X::add(s0, X::load(x + j));
    s1 = X::add(s1, X::load(x + j + w));
  }
  if (j + w <= n) s0 = X::add(s0, X::load(x + j)), j += w;
  if (j < n) s1 = X::add(s1, X::load_first(x + j, n - j, 0));
  return X::sum(X::add(s0, s1));
}

// out_j = a kept_j - b. next: read soon, and fetched while the memory would have nothing else to read; or null.
template <class T>
PERFSUITE_TARGET void row_gradient(const acc_t<T>* kept, int64_t n, acc_t<T> a, acc_t<T> b, T* out, bool stream,
                                   const T* next) {
  using X = Vec<T>;
  constexpr int64_t w = X::width;
  const auto va = X::set(a), vb = X::set(b);
  int64_t j = 0;
  if (stream) {
    constexpr uintptr_t bytes = w * sizeof(T);
    j = std::min(n, int64_t((bytes - reinterpret_cast<uintptr_t>(out) % bytes) % bytes / sizeof(T)));
    if (j) X::store_first(out, X::multiply_subtract(va, X::load(kept), vb), j);
    for (; j + w <= n; j += w) {
      if (next) __builtin_prefetch(next + j, 0, 2);
      X::stream(out + j, X::multiply_subtract(va, X::load(kept + j), vb));
    }
  } else {
    for (; j + w <= n; j += w) X::store(out + j, X::multiply_subtract(va, X::load(kept + j), vb));
  }
  if (j < n) X::store_first(out + j, X::multiply_subtract(va, X::load(kept + j), vb), n - j);
}

// What the exponentials are multiplied by, and what is taken off then.
template <class T>
PERFSUITE_TARGET void row_factors(const CrossEntropy<T>& op, const RowStats<T>& stats, acc_t<T> scale, acc_t<T>* a,
                                  acc_t<T>* b) {
  using Acc = acc_t<T>;
  const Acc slope = op.z_loss == 0 ? Acc(1) : Acc(1 + 2 * op.z_loss * (stats.max + std::log(double(stats.sum))));
  *a = scale * slope / stats.sum;
  *b = op.label_smoothing == 0 ? Acc(0) : scale * op.label_smoothing / op.classes;
}

// kept: op.classes + kBlock elements, then one per block for its maximum.
template <class T>
PERFSUITE_TARGET void forward_row(const CrossEntropy<T>& op, int64_t r, acc_t<T>* loss, RowStats<T>* stats,
                                  const Gradient<T>* gradient, acc_t<T>* kept) {
  using Acc = acc_t<T>;
  const T* x = op.logits + r * op.row_stride;
  const int64_t n = op.classes, target = op.target[r];
  const Acc x_target = to_acc(x[target]);  // the gradient may be written over the logits
  Acc* const maxima = kept + n + kBlock;
  // The maximum starts at the lowest finite number, not at -inf, so that leading blocks of -inf add 0 and not NaN; a row
  // of nothing else ends with sum 0, whose logarithm makes the loss the NaN it should be.
  Acc m = std::numeric_limits<Acc>::lowest();
  double sum = 0, total = 0;
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(n - start, kBlock);
    const Acc larger = row_largest(x + start, count, m);
    if (start > 0 && larger != m) sum *= std::exp(double(m) - double(larger));
    m = maxima[start / kBlock] = larger;
    sum += row_exponentials(x + start, count, m, gradient ? kept + start : kept);
    if (op.label_smoothing != 0) total += row_total(x + start, count);
  }
  const double log_sum = std::log(sum), e = op.label_smoothing;
  // The maximum is taken off before the small logarithm is added: nothing is lost where it is large.
  double value = (double(m) - double(x_target)) + log_sum;
  if (e != 0) value = (1 - e) * value + e * ((m - total / n) + log_sum);
  if (op.z_loss != 0) value += op.z_loss * (m + log_sum) * (m + log_sum);
  loss[r] = Acc(value);
  stats[r] = {m, Acc(sum)};
  if (!gradient) return;

  T* const out = gradient->out + r * n;
  const Acc scale = row_scale(*gradient, r);
  const T* const next = r + 1 < op.rows ? x + op.row_stride : nullptr;
  Acc a, b;
  row_factors(op, stats[r], scale, &a, &b);
  for (int64_t start = 0; start < n; start += kBlock) {
    const Acc block_max = maxima[start / kBlock];
    const Acc factor = block_max == m ? a : Acc(a * std::exp(block_max - m));
    row_gradient(kept + start, std::min(n - start, kBlock), factor, b, out + start, gradient->stream,
                 next ? next + start : nullptr);
  }
  from_acc(a * std::exp(x_target - m) - b - scale * (1 - op.label_smoothing), out + target);
}

template <class T>
PERFSUITE_TARGET void backward_row(const CrossEntropy<T>& op, int64_t r, const RowStats<T>* stats,
                                   const Gradient<T>& gradient, acc_t<T>* kept) {
  using Acc = acc_t<T>;
  const T* x = op.logits + r * op.row_stride;
  const int64_t n = op.classes, target = op.target[r];
  T* const out = gradient.out + r * n;
  const Acc m = stats[r].max, scale = row_scale(gradient, r);
  Acc a, b;
  row_factors(op, stats[r], scale, &a, &b);
  for (int64_t start = 0; start < n; start += kBlock) {
    const int64_t count = std::min(n - start, kBlock);
    row_exponentials(x + start, count, m, kept);
    row_gradient(kept, count, a, b, out + start, gradient.stream, static_cast<const T*>(nullptr));
  }
  from_acc(a * std::exp(to_acc(x[target]) - m) - b - scale * (1 - op.label_smoothing), out + target);
}
