#include "batch_norm_add_relu.h"

#include <algorithm>
#include <limits>
#include <type_traits>

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "batch_norm_add_relu_rows.h"
#include "each_isa.h"

// Elements per block of rows, which two passes read: within every processor's second-level cache.
constexpr int64_t kBlockElements = 32768;
// Rows that are added up in float32 before they go into a sum in double.
constexpr int64_t kMostRows = 256;

int64_t block_rows(int64_t channels) {
  return std::clamp<int64_t>(kBlockElements / std::max<int64_t>(1, channels), 1, kMostRows);
}

// body(std::true_type or std::false_type)
template <class Body>
void with_flag(bool flag, const Body& body) {
  if (flag)
    body(std::true_type());
  else
    body(std::false_type());
}

}  // namespace

template <class T>
void batch_norm_sums(const T* x, const acc_t<T>* origin, int64_t rows, int64_t channels, double* sums, Isa isa) {
  const int64_t step = block_rows(channels);
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t count = std::min(step, rows - r);
    PERFSUITE_DISPATCH(isa, sums_block<T>(x + r * channels, origin, count, channels, sums));
  }
}

template <class T>
void batch_norm_add_relu_apply(const T* x, const T* add, const Normalise<T>& normalise, bool relu, int64_t rows,
                               int64_t channels, T* y, uint8_t* mask, bool stream, Isa isa) {
  with_flag(add, [&](auto with_add) {
    constexpr bool kAdd = decltype(with_add)::value;
    if (mask)
      PERFSUITE_DISPATCH(isa, apply_rows<T, kAdd, true, true>(x, add, normalise, rows, channels, y, mask, stream));
    else if (relu)
      PERFSUITE_DISPATCH(isa, apply_rows<T, kAdd, true, false>(x, add, normalise, rows, channels, y, mask, stream));
    else
      PERFSUITE_DISPATCH(isa, apply_rows<T, kAdd, false, false>(x, add, normalise, rows, channels, y, mask, stream));
  });
#if defined(__x86_64__)
  if (stream) _mm_sfence();  // other threads may read the rows as soon as the caller says that they are written
#endif
}

template <class T>
void batch_norm_add_relu_backward_sums(const T* dy, const uint8_t* mask, const T* x, const acc_t<T>* mean, int64_t rows,
                                       int64_t channels, double* sums, Isa isa) {
  const int64_t step = block_rows(channels), bytes = mask_bytes(channels);
  for (int64_t r = 0; r < rows; r += step) {
    const int64_t count = std::min(step, rows - r), at = r * channels;
    with_flag(mask, [&](auto is_masked) {
      constexpr bool kMasked = decltype(is_masked)::value;
      const uint8_t* block_mask = kMasked ? mask + r * bytes : nullptr;
      PERFSUITE_DISPATCH(isa, backward_sums_block<T, kMasked>(dy + at, block_mask, x + at, mean, count, channels, sums));
    });
  }
}

template <class T>
void batch_norm_add_relu_backward(const T* dy, const uint8_t* mask, const T* x, const Coefficients<T>& coefficients,
                                  int64_t rows, int64_t channels, T* dx, T* g, Isa isa) {
  with_flag(mask, [&](auto is_masked) {
    with_flag(coefficients.b, [&](auto is_centered) {
      with_flag(g, [&](auto with_g) {
        constexpr bool kMasked = decltype(is_masked)::value, kCentered = decltype(is_centered)::value;
        constexpr bool kG = decltype(with_g)::value;
        PERFSUITE_DISPATCH(isa, backward_rows<T, kMasked, kCentered, kG>(dy, mask, x, coefficients, rows, channels, dx,
                                                                         g));
      });
    });
  });
}

#define PERFSUITE_INSTANTIATE(T)                                                                                     \
  template void batch_norm_sums<T>(const T*, const acc_t<T>*, int64_t, int64_t, double*, Isa);                       \
  template void batch_norm_add_relu_apply<T>(const T*, const T*, const Normalise<T>&, bool, int64_t, int64_t, T*,    \
                                             uint8_t*, bool, Isa);                                                   \
  template void batch_norm_add_relu_backward_sums<T>(const T*, const uint8_t*, const T*, const acc_t<T>*, int64_t,   \
                                                     int64_t, double*, Isa);                                         \
  template void batch_norm_add_relu_backward<T>(const T*, const uint8_t*, const T*, const Coefficients<T>&, int64_t, \
                                                int64_t, T*, T*, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
