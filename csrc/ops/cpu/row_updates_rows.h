// The vector loops of row_updates. No include guard: see each_isa.h.

template <int vectors, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void sum_columns(const RowUpdates<T>& op, const Lookup* first, const Lookup* last,
                                                   int64_t column, acc_t<T>* g) {
  constexpr int64_t w = Vec<T>::width;
  typename Vec<T>::V sums[vectors];
  for (int i = 0; i < vectors; ++i) sums[i] = Vec<T>::set(0);
  for (const Lookup* lookup = first; lookup < last; ++lookup) {
    const T* row = op.gradient + lookup->bag * op.gradient_stride + column;
    for (int i = 0; i < vectors; ++i) sums[i] = Vec<T>::add(sums[i], Vec<T>::load(row + i * w));
  }
  for (int i = 0; i < vectors; ++i) Vec<T>::store(g + column + i * w, sums[i]);
}

// g: the width padded to whole vectors; what is behind the width becomes 0.
template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE void sum_lookups(const RowUpdates<T>& op, const Lookup* first, const Lookup* last,
                                                   acc_t<T>* g) {
  constexpr int64_t w = Vec<T>::width;
  int64_t column = 0;
  for (; column + 4 * w <= op.width; column += 4 * w) sum_columns<4>(op, first, last, column, g);
  for (; column + w <= op.width; column += w) sum_columns<1>(op, first, last, column, g);
  if (column < op.width) {
    auto sum = Vec<T>::set(0);
    for (const Lookup* lookup = first; lookup < last; ++lookup) {
      const T* row = op.gradient + lookup->bag * op.gradient_stride + column;
      sum = Vec<T>::add(sum, Vec<T>::load_first(row, op.width - column, 0));
    }
    Vec<T>::store(g + column, sum);
  }
}

template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE void subtract(const acc_t<T>* g, acc_t<T> factor, int64_t width, T* row) {
  constexpr int64_t w = Vec<T>::width;
  const auto k = Vec<T>::set(factor);
  int64_t column = 0;
  for (; column + w <= width; column += w)
    Vec<T>::store(row + column, Vec<T>::negative_multiply_add(k, Vec<T>::load(g + column), Vec<T>::load(row + column)));
  if (column < width) {
    const int64_t rest = width - column;
    const auto before = Vec<T>::load_first(row + column, rest, 0);
    Vec<T>::store_first(row + column, Vec<T>::negative_multiply_add(k, Vec<T>::load(g + column), before), rest);
  }
}

template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE acc_t<T> mean_of_squares(const acc_t<T>* g, int64_t width) {
  constexpr int64_t w = Vec<T>::width;
  auto sum = Vec<T>::set(0);
  for (int64_t column = 0; column < width; column += w) {
    const auto x = Vec<T>::load(g + column);
    sum = Vec<T>::multiply_add(x, x, sum);
  }
  return Vec<T>::sum(sum) / acc_t<T>(width);
}

template <class T>
PERFSUITE_TARGET PERFSUITE_INLINE void write_row(const acc_t<T>* g, int64_t width, T* row) {
  constexpr int64_t w = Vec<T>::width;
  int64_t column = 0;
  for (; column + w <= width; column += w) Vec<T>::store(row + column, Vec<T>::load(g + column));
  if (column < width) Vec<T>::store_first(row + column, Vec<T>::load(g + column), width - column);
}

// lookups: (count,), sorted by row. g: memory for one row, the width padded to whole vectors.
template <class T>
PERFSUITE_TARGET void update_runs(const RowUpdates<T>& op, const Lookup* lookups, int64_t count, acc_t<T>* g) {
  const Lookup* const end = lookups + count;
  for (const Lookup *first = lookups, *last; first < end; first = last) {
    const int64_t row = first->row;
    for (last = first + 1; last < end && last->row == row;) ++last;
    if (end - last > kAhead) {
      const Lookup ahead = last[kAhead];
      const char* weight = reinterpret_cast<const char*>(op.out + ahead.row * op.out_stride);
      const char* gradient = reinterpret_cast<const char*>(op.gradient + ahead.bag * op.gradient_stride);
      for (int64_t byte = 0; byte < op.width * int64_t(sizeof(T)); byte += 64) {
        __builtin_prefetch(weight + byte, 1);
        __builtin_prefetch(gradient + byte);
      }
      if (op.state) __builtin_prefetch(op.state + ahead.row, 1);
    }
    sum_lookups(op, first, last, g);
    T* out = op.out + row * op.out_stride;
    switch (op.rule) {
      case RowRule::kGradient:
        write_row<T>(g, op.width, out);
        break;
      case RowRule::kSgd:
        subtract<T>(g, op.learning_rate, op.width, out);
        break;
      case RowRule::kRowwiseAdagrad:
        op.state[row] += mean_of_squares<T>(g, op.width);
        subtract<T>(g, op.learning_rate / (std::sqrt(op.state[row]) + op.epsilon), op.width, out);
        break;
    }
  }
}
