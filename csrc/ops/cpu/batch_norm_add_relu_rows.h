// The vector loops of batch_norm_add_relu. No include guard: each_isa.h includes it once per instruction set.
// Everywhere j is the first channel of a vector and n how many of its elements are channels.

template <class V, class T>
PERFSUITE_TARGET PERFSUITE_INLINE typename V::V load_n(const T* p, int64_t n) {
  return n == V::width ? V::load(p) : V::load_first(p, n, 0);
}
template <class V, class T>
PERFSUITE_TARGET PERFSUITE_INLINE void store_n(T* p, typename V::V x, int64_t n) {
  if (n < V::width)
    V::store_first(p, x, n);
  else
    V::store(p, x);
}

template <class V>
PERFSUITE_TARGET PERFSUITE_INLINE void put_mask(uint8_t* row, int64_t j, int64_t n, typename V::Mask mask) {
  const uint32_t bits = V::bits(mask);
  if constexpr (V::width == 1) {
    row[j / 8] = uint8_t(j % 8 ? row[j / 8] | bits << j % 8 : bits);
  } else {
    const uint32_t inside = bits & ((1u << n) - 1);
    std::memcpy(row + j / 8, &inside, n > 8 ? 2 : 1);
  }
}
// g where the mask says so, else 0.
template <class V>
PERFSUITE_TARGET PERFSUITE_INLINE typename V::V masked(const uint8_t* row, int64_t j, int64_t n, typename V::V g) {
  uint32_t bits = row[j / 8];
  if constexpr (V::width == 1) bits >>= j % 8;
  if (V::width > 8 && n > 8) {
    uint16_t both;
    std::memcpy(&both, row + j / 8, 2);
    bits = both;
  }
  return V::zero_unless(V::mask_of(bits), g);
}

// -- sums over rows: a group of vectors of channels stays in registers while the rows go by -----------------------------

template <class T, int kVectors>
PERFSUITE_TARGET PERFSUITE_INLINE void sums_group(const T* x, const acc_t<T>* origin, int64_t rows, int64_t channels,
                                                  int64_t j, int64_t n, double* sums) {
  using V = Vec<T>;
  constexpr int64_t w = V::width;
  typename V::V center[kVectors], s1[kVectors], s2[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    center[v] = load_n<V>(origin + j + v * w, n);
    s1[v] = V::set(0);
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < kVectors; ++v)
      s1[v] = V::add(s1[v], V::sub(load_n<V>(x + r * channels + j + v * w, n), center[v]));
  const auto share = V::set(acc_t<T>(1) / acc_t<T>(rows)), infinity = V::set(std::numeric_limits<acc_t<T>>::infinity());
  for (int v = 0; v < kVectors; ++v) {
    // The mean of these rows, which are in the cache now; if that is infinite any number will do.
    const auto mean = V::multiply_add(s1[v], share, center[v]);
    center[v] = V::select(V::greater(infinity, V::abs(mean)), mean, center[v]);
    s1[v] = s2[v] = V::set(0);
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      const auto d = V::sub(load_n<V>(x + r * channels + j + v * w, n), center[v]);
      s1[v] = V::add(s1[v], d);
      s2[v] = V::multiply_add(d, d, s2[v]);
    }
  for (int v = 0; v < kVectors; ++v, j += w) {
    acc_t<T> centers[w], sum[w], squares[w];
    V::store(centers, center[v]);
    V::store(sum, s1[v]);
    V::store(squares, s2[v]);
    for (int64_t i = 0; i < n; ++i) {
      const double step = double(centers[i]) - double(origin[j + i]);
      sums[j + i] += sum[i] + rows * step;
      sums[channels + j + i] += squares[i] + step * (2 * double(sum[i]) + rows * step);
    }
  }
}

template <class T, int kVectors, bool kMasked>
PERFSUITE_TARGET PERFSUITE_INLINE void backward_sums_group(const T* dy, const uint8_t* mask, const T* x,
                                                           const acc_t<T>* mean, int64_t rows, int64_t channels,
                                                           int64_t j, int64_t n, double* sums) {
  using V = Vec<T>;
  constexpr int64_t w = V::width;
  const int64_t bytes = mask_bytes(channels);
  typename V::V center[kVectors], s1[kVectors], s2[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    center[v] = load_n<V>(mean + j + v * w, n);
    s1[v] = s2[v] = V::set(0);
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t at = r * channels + j + v * w;
      auto g = load_n<V>(dy + at, n);
      if constexpr (kMasked) g = masked<V>(mask + r * bytes, j + v * w, n, g);
      s1[v] = V::add(s1[v], g);
      s2[v] = V::multiply_add(g, V::sub(load_n<V>(x + at, n), center[v]), s2[v]);
    }
  for (int v = 0; v < kVectors; ++v, j += w) {
    acc_t<T> sum[w], products[w];
    V::store(sum, s1[v]);
    V::store(products, s2[v]);
    for (int64_t i = 0; i < n; ++i) {
      sums[j + i] += sum[i];
      sums[channels + j + i] += products[i];
    }
  }
}

// Groups of 4, 2 and 1 whole vectors, then the channels that are left.
template <class T>
PERFSUITE_TARGET void sums_block(const T* x, const acc_t<T>* origin, int64_t rows, int64_t channels, double* sums) {
  constexpr int64_t w = Vec<T>::width;
  int64_t j = 0;
  for (; j + 4 * w <= channels; j += 4 * w) sums_group<T, 4>(x, origin, rows, channels, j, w, sums);
  for (; j + 2 * w <= channels; j += 2 * w) sums_group<T, 2>(x, origin, rows, channels, j, w, sums);
  for (; j + w <= channels; j += w) sums_group<T, 1>(x, origin, rows, channels, j, w, sums);
  if (j < channels) sums_group<T, 1>(x, origin, rows, channels, j, channels - j, sums);
}

template <class T, bool kMasked>
PERFSUITE_TARGET void backward_sums_block(const T* dy, const uint8_t* mask, const T* x, const acc_t<T>* mean,
                                          int64_t rows, int64_t channels, double* sums) {
  constexpr int64_t w = Vec<T>::width;
  int64_t j = 0;
  for (; j + 4 * w <= channels; j += 4 * w)
    backward_sums_group<T, 4, kMasked>(dy, mask, x, mean, rows, channels, j, w, sums);
  for (; j + 2 * w <= channels; j += 2 * w)
    backward_sums_group<T, 2, kMasked>(dy, mask, x, mean, rows, channels, j, w, sums);
  for (; j + w <= channels; j += w)
    backward_sums_group<T, 1, kMasked>(dy, mask, x, mean, rows, channels, j, w, sums);
  if (j < channels)
    backward_sums_group<T, 1, kMasked>(dy, mask, x, mean, rows, channels, j, channels - j, sums);
}

// -- element by element -------------------------------------------------------------------------------------------------

template <class T, bool kAdd, bool kRelu, bool kMask>
PERFSUITE_TARGET PERFSUITE_INLINE void apply_vector(const T* x, const T* add, const Normalise<T>& normalise, int64_t j,
                                                    int64_t n, T* y, uint8_t* mask, bool stream) {
  using V = Vec<T>;
  const auto centered = V::sub(load_n<V>(x + j, n), load_n<V>(normalise.mean + j, n));
  auto z = V::multiply_add(centered, load_n<V>(normalise.scale + j, n), load_n<V>(normalise.shift + j, n));
  if constexpr (kAdd) z = V::add(z, load_n<V>(add + j, n));
  if constexpr (kMask) put_mask<V>(mask, j, n, V::above_or_nan(z, V::set(0)));
  if constexpr (kRelu) z = V::max(V::set(0), z);  // of NaN: NaN
  if (stream)
    V::stream(y + j, z);
  else
    store_n<V>(y + j, z, n);
}

template <class T, bool kAdd, bool kRelu, bool kMask>
PERFSUITE_TARGET void apply_rows(const T* x, const T* add, const Normalise<T>& normalise, int64_t rows,
                                 int64_t channels, T* y, uint8_t* mask, bool stream) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t j = 0;
    for (; j + w <= channels; j += w)
      apply_vector<T, kAdd, kRelu, kMask>(x, add, normalise, j, w, y, mask, stream);
    if (j < channels) apply_vector<T, kAdd, kRelu, kMask>(x, add, normalise, j, channels - j, y, mask, false);
    x += channels;
    y += channels;
    if (kAdd) add += channels;
    if (kMask) mask += mask_bytes(channels);
  }
}

template <class T, bool kMasked, bool kCentered, bool kG>
PERFSUITE_TARGET PERFSUITE_INLINE void backward_vector(const T* dy, const uint8_t* mask, const T* x,
                                                       const Coefficients<T>& coefficients, int64_t j, int64_t n, T* dx,
                                                       T* g_out) {
  using V = Vec<T>;
  auto g = load_n<V>(dy + j, n);
  if constexpr (kMasked) g = masked<V>(mask, j, n, g);
  if constexpr (kG) store_n<V>(g_out + j, g, n);
  auto gradient = V::mul(load_n<V>(coefficients.a + j, n), g);
  if constexpr (kCentered) {
    const auto centered = V::sub(load_n<V>(x + j, n), load_n<V>(coefficients.mean + j, n));
    gradient = V::add(gradient, V::multiply_add(load_n<V>(coefficients.b + j, n), centered,
                                                load_n<V>(coefficients.c + j, n)));
  }
  store_n<V>(dx + j, gradient, n);
}

template <class T, bool kMasked, bool kCentered, bool kG>
PERFSUITE_TARGET void backward_rows(const T* dy, const uint8_t* mask, const T* x, const Coefficients<T>& coefficients,
                                    int64_t rows, int64_t channels, T* dx, T* g) {
  constexpr int64_t w = Vec<T>::width;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t j = 0;
    for (; j + w <= channels; j += w)
      backward_vector<T, kMasked, kCentered, kG>(dy, mask, x, coefficients, j, w, dx, g);
    if (j < channels)
      backward_vector<T, kMasked, kCentered, kG>(dy, mask, x, coefficients, j, channels - j, dx, g);
    dy += channels;
    dx += channels;
    if (kMasked) mask += mask_bytes(channels);
    if (kCentered) x += channels;
    if (kG) g += channels;
  }
}
