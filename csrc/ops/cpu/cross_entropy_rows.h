// One row of cross-entropy. No include guard: each_isa.h includes it once per instruction set.

// The largest of x and start. Four accumulators hide the latency. A NaN may get lost; the exponentials bring it back.
template <class T>
PERFSUITE_TARGET acc_t<T> row_largest(const T* x, int64_t n, acc_t<T> start) {
  using Lanes = Vec<T>;
  using V = typename Lanes::V;
  constexpr int64_t w = Lanes::width;
  V m0 = Lanes::set(start), m1 = m0, m2 = m0, m3 = m0;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    m0 = Lanes::max(m0, Lanes::load(x + j));
    m1 = Lanes::max(m1, Lanes::load(x + j + w));
    m2 = Lanes::max(m2, Lanes::load(x + j + 2 * w));
    m3 = Lanes::max(m3, Lanes::load(x + j + 3 * w));
  }
  for (; j + w <= n; j += w) m0 = Lanes::max(m0, Lanes::load(x + j));
  if (j < n) m1 = Lanes::max(m1, Lanes::load_first(x + j, n - j, start));
  const acc_t<T> m = Lanes::largest(Lanes::max(Lanes::max(m0, m1), Lanes::max(m2, m3)));
  return m != m ? start : m;
}

// exp(x - m) of a whole vector at x.
template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE typename Vec<T>::V exponential(const T* x, typename Vec<T>::V m) {
  return Vec<T>::exp(Vec<T>::sub(Vec<T>::load(x), m));
}

// kept_j = exp(x_j - m), in whole vectors: kept has room for one more. Returns the sum.
template <class T>
PERFSUITE_TARGET acc_t<T> row_exponentials(const T* x, int64_t n, acc_t<T> m, acc_t<T>* kept) {
  using Lanes = Vec<T>;
  using V = typename Lanes::V;
  constexpr int64_t w = Lanes::width;
  const V vm = Lanes::set(m);
  V s0 = Lanes::set(0), s1 = s0, s2 = s0, s3 = s0;
  int64_t j = 0;
  for (; j + 4 * w <= n; j += 4 * w) {
    const V e0 = exponential(x + j, vm), e1 = exponential(x + j + w, vm);
    const V e2 = exponential(x + j + 2 * w, vm), e3 = exponential(x + j + 3 * w, vm);
    Lanes::store(kept + j, e0);
    Lanes::store(kept + j + w, e1);
    Lanes::store(kept + j + 2 * w, e2);
    Lanes::store(kept + j + 3 * w, e3);
    s0 = Lanes::add(s0, e0);
    s1 = Lanes::add(s1, e1);
    s2 = Lanes::add(s2, e2);
    s3 = Lanes::add(s3, e3);
  }
  for (; j + w <= n; j += w) {
    const V e = exponential(x + j, vm);
    Lanes::store(kept + j, e);
    s0 = Lanes::add(s0, e);
  }
  if (j < n) {
    const V e = Lanes::exp(Lanes::sub(Lanes::load_first(x + j, n - j, -std::numeric_limits<acc_t<T>>::infinity()), vm));
    Lanes::store(kept + j, e);
    s1 = Lanes::add(s1, e);
  }
  return Lanes::sum(Lanes::add(Lanes::add(s0, s1), Lanes::add(s2, s3)));
}

template <class T>
PERFSUITE_TARGET acc_t<T> row_total(const T* x, int64_t n) {
  using Lanes = Vec<T>;
  constexpr int64_t w = Lanes::width;
  auto s0 = Lanes::set(0), s1 = s0;
  int64_t j = 0;
  for (; j + 2 * w <= n; j += 2 * w) {
    s0 = Lanes::add(s0, Lanes::load(x + j));
    s1 = Lanes::add(s1, Lanes::load(x + j + w));
  }
  if (j + w <= n) s0 = Lanes::add(s0, Lanes::load(x + j)), j += w;
  if (j < n) s1 = Lanes::add(s1, Lanes::load_first(x + j, n - j, 0));
  return Lanes::sum(Lanes::add(s0, s1));
}

// out_j = a kept_j - b. next: what is read soon, or null; it is fetched while the memory has nothing else to read, which
// makes 512 rows of 32,000 floats nearly twice as fast.
template <class T>
PERFSUITE_TARGET void row_gradient(const acc_t<T>* kept, int64_t n, acc_t<T> a, acc_t<T> b, T* out, bool stream,
                                   const T* next) {
  using Lanes = Vec<T>;
  constexpr int64_t w = Lanes::width;
  const auto va = Lanes::set(a), vb = Lanes::set(b);
  int64_t j = 0;
  if (stream) {
    constexpr uintptr_t bytes = w * sizeof(T);
    j = std::min(n, int64_t((bytes - reinterpret_cast<uintptr_t>(out) % bytes) % bytes / sizeof(T)));
    if (j) Lanes::store_first(out, Lanes::multiply_subtract(va, Lanes::load(kept), vb), j);
    for (; j + w <= n; j += w) {
      if (next) __builtin_prefetch(next + j, 0, 2);
      Lanes::stream(out + j, Lanes::multiply_subtract(va, Lanes::load(kept + j), vb));
    }
  } else {
    for (; j + w <= n; j += w) Lanes::store(out + j, Lanes::multiply_subtract(va, Lanes::load(kept + j), vb));
  }
  if (j < n) Lanes::store_first(out + j, Lanes::multiply_subtract(va, Lanes::load(kept + j), vb), n - j);
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
  // The maximum starts at the lowest finite number, not at -inf, so that leading blocks of -inf add 0 and not NaN; a
  // row of nothing else ends with sum 0, whose logarithm makes the loss the NaN it should be.
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
