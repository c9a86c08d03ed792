// The vector loops of embedding_bag. No include guard: see each_isa.h.

// Rows are asked for this many lookups before they are added: longer than a trip to memory takes.
constexpr int64_t kAhead = 16;

// `vectors` vectors of columns from `column` on, of one bag.
template <int vectors, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void sum_columns(const EmbeddingBag<T>& op, int64_t first, int64_t last,
                                                   int64_t column, T* out) {
  constexpr int64_t w = Vec<T>::width;
  typename Vec<T>::V sums[vectors];
  for (int i = 0; i < vectors; ++i) sums[i] = Vec<T>::set(0);
  for (int64_t p = first; p < last; ++p) {
    const T* row = op.table + op.indices[p] * op.row_stride + column;
    for (int i = 0; i < vectors; ++i) sums[i] = Vec<T>::add(sums[i], Vec<T>::load(row + i * w));
  }
  for (int i = 0; i < vectors; ++i) Vec<T>::store(out + column + i * w, sums[i]);
}

template <class T>
PERFSUITE_TARGET int64_t sum_bags(const EmbeddingBag<T>& op, int64_t begin, int64_t end, T* out_bags) {
  constexpr int64_t w = Vec<T>::width;
  const int64_t stop = op.offsets[end], width = op.width;
  int64_t checked = op.offsets[begin];
  for (int64_t b = begin; b < end; ++b) {
    const int64_t first = op.offsets[b], last = op.offsets[b + 1];
    for (const int64_t until = std::min(stop, last + kAhead); checked < until; ++checked) {
      const int64_t index = op.indices[checked];
      if (uint64_t(index) >= uint64_t(op.rows)) return checked;
      const char* row = reinterpret_cast<const char*>(op.table + index * op.row_stride);
      for (int64_t byte = 0; byte < width * int64_t(sizeof(T)); byte += 64) __builtin_prefetch(row + byte);
    }
    T* out = out_bags + b * width;
    int64_t column = 0;
    for (; column + 8 * w <= width; column += 8 * w) sum_columns<8>(op, first, last, column, out);
    for (; column + 4 * w <= width; column += 4 * w) sum_columns<4>(op, first, last, column, out);
    for (; column + w <= width; column += w) sum_columns<1>(op, first, last, column, out);
    if (column < width) {
      auto sum = Vec<T>::set(0);
      for (int64_t p = first; p < last; ++p) {
        const T* row = op.table + op.indices[p] * op.row_stride + column;
        sum = Vec<T>::add(sum, Vec<T>::load_first(row, width - column, 0));
      }
      Vec<T>::store_first(out + column, sum, width - column);
    }
  }
  return -1;
}
