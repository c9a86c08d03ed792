// The vector loops of dot_interaction. No include guard: see each_isa.h.

// Features of one sample as rows of whole vectors, a whole number of tiles of rows; what is added is 0.
template <class T>
struct Sample {
  int64_t rows, stride;
  std::vector<acc_t<T>> values;

  explicit Sample(const DotInteraction<T>& op)
      : rows((op.features + kTileRows - 1) / kTileRows * kTileRows),
        stride((op.width + Vec<T>::width - 1) / Vec<T>::width * Vec<T>::width),
        values(rows * stride) {}

  PERFSUITE_TARGET void read(const DotInteraction<T>& op, int64_t sample) {
    constexpr int64_t w = Vec<T>::width;
    const bool is_last = sample + 1 == op.samples;
    for (int64_t i = 0; i < op.features; ++i) {
      const T* from = i == 0 ? op.dense + sample * op.dense_stride
                             : op.sparse + sample * op.sample_stride + (i - 1) * op.row_stride;
      acc_t<T>* to = &values[i * stride];
      // The next sample is on its way while this one is worked on.
      const int64_t next = is_last ? 0 : i == 0 ? op.dense_stride : op.sample_stride;
      int64_t column = 0;
      for (; column + w <= op.width; column += w) {
        __builtin_prefetch(from + next + column);
        Vec<T>::store(to + column, Vec<T>::load(from + column));
      }
      if (column < op.width) Vec<T>::store(to + column, Vec<T>::load_first(from + column, op.width - column, 0));
    }
  }
};

// Columns of a tile: its accumulators and operands have to fit the registers, 32 with AVX-512 and else 16.
template <class T>
constexpr int kTileColumns = Vec<T>::width == 16 ? 4 : 2;

template <class T>
PERFSUITE_TARGET void forward_samples(const DotInteraction<T>& op, int64_t begin, int64_t end, T* out_samples) {
  using V = typename Vec<T>::V;
  constexpr int64_t w = Vec<T>::width;
  constexpr int columns = kTileColumns<T>;
  Sample<T> x(op);
  for (int64_t sample = begin; sample < end; ++sample) {
    x.read(op, sample);
    T* out = out_samples + sample * (op.width + op.pairs());
    std::copy_n(op.dense + sample * op.dense_stride, op.width, out);
    out += op.width;
    for (int64_t i = 0; i < op.features; i += kTileRows) {
      for (int64_t j = 0; j < std::min(i + kTileRows, op.features) - 1; j += columns) {
        const acc_t<T>*left = &x.values[i * x.stride], *right = &x.values[j * x.stride];
        V sums[kTileRows][columns];
        for (int r = 0; r < kTileRows; ++r)
          for (int c = 0; c < columns; ++c) sums[r][c] = Vec<T>::set(0);
        for (int64_t d = 0; d < x.stride; d += w) {
          V b[columns];
          for (int c = 0; c < columns; ++c) b[c] = Vec<T>::load(right + c * x.stride + d);
          for (int r = 0; r < kTileRows; ++r) {
            const V a = Vec<T>::load(left + r * x.stride + d);
            for (int c = 0; c < columns; ++c) sums[r][c] = Vec<T>::multiply_add(a, b[c], sums[r][c]);
          }
        }
        for (int64_t r = 0; r < kTileRows && i + r < op.features; ++r)
          for (int64_t c = 0; c < columns && j + c < i + r; ++c)
            from_acc(Vec<T>::sum(sums[r][c]), out + (i + r) * (i + r - 1) / 2 + j + c);
      }
    }
  }
}

// Rows [i, i + kTileRows) of s x in `vectors` vectors of columns. first: what the first row starts from, or null.
template <int vectors, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void multiply_tile(const acc_t<T>* s, const Sample<T>& x, int64_t features, int64_t i,
                                                     int64_t column, const acc_t<T>* first, acc_t<T>* out) {
  using V = typename Vec<T>::V;
  constexpr int64_t w = Vec<T>::width;
  V sums[kTileRows][vectors];
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < vectors; ++c)
      sums[r][c] = first && r == 0 ? Vec<T>::load(first + column + c * w) : Vec<T>::set(0);
  for (int64_t j = 0; j < features; ++j) {
    V b[vectors];
    for (int c = 0; c < vectors; ++c) b[c] = Vec<T>::load(&x.values[j * x.stride + column + c * w]);
    for (int r = 0; r < kTileRows; ++r) {
      const V a = Vec<T>::set(s[(i + r) * x.rows + j]);
      for (int c = 0; c < vectors; ++c) sums[r][c] = Vec<T>::multiply_add(a, b[c], sums[r][c]);
    }
  }
  for (int r = 0; r < kTileRows; ++r)
    for (int c = 0; c < vectors; ++c) Vec<T>::store(out + r * x.stride + column + c * w, sums[r][c]);
}

template <class T>
PERFSUITE_TARGET void backward_samples(const DotInteraction<T>& op, int64_t begin, int64_t end,
                                       const T* upstream_samples, int64_t upstream_stride, T* grad_dense,
                                       T* grad_sparse) {
  constexpr int64_t w = Vec<T>::width;
  Sample<T> x(op);
  std::vector<acc_t<T>> s(x.rows * x.rows), of_dense(x.stride), tile(kTileRows * x.stride);
  for (int64_t sample = begin; sample < end; ++sample) {
    x.read(op, sample);
    const T* upstream = upstream_samples + sample * upstream_stride;
    for (int64_t d = 0; d < op.width; ++d) of_dense[d] = to_acc(upstream[d]);
    const T* of_pairs = upstream + op.width;
    for (int64_t i = 1; i < op.features; ++i)
      for (int64_t j = 0; j < i; ++j) s[i * x.rows + j] = s[j * x.rows + i] = to_acc(*of_pairs++);
    for (int64_t i = 0; i < op.features; i += kTileRows) {
      const acc_t<T>* first = i == 0 ? of_dense.data() : nullptr;
      int64_t column = 0;
      constexpr int wide = kTileColumns<T>;
      for (; column + wide * w <= x.stride; column += wide * w)
        multiply_tile<wide>(s.data(), x, op.features, i, column, first, tile.data());
      for (; column < x.stride; column += w) multiply_tile<1>(s.data(), x, op.features, i, column, first, tile.data());
      for (int64_t r = 0; r < kTileRows && i + r < op.features; ++r) {
        T* to = i + r == 0 ? grad_dense + sample * op.width
                           : grad_sparse + (sample * (op.features - 1) + i + r - 1) * op.width;
        const acc_t<T>* from = &tile[r * x.stride];
        int64_t d = 0;
        for (; d + w <= op.width; d += w) Vec<T>::store(to + d, Vec<T>::load(from + d));
        if (d < op.width) Vec<T>::store_first(to + d, Vec<T>::load(from + d), op.width - d);
      }
    }
  }
}
