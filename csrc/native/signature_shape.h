// Compares how functions are declared in two places, at compile time: number and sizes of what they take and return.
#pragma once

#include <array>
#include <cstddef>

namespace perfsuite {

template <class R, class... A>
constexpr std::array<size_t, 8> shape(R (*)(A...)) {
  static_assert(sizeof...(A) < 8);
  return {sizeof(R), sizeof(A)...};
}

template <size_t N>
constexpr bool equal(const std::array<size_t, N>& a, const std::array<size_t, N>& b) {
  for (size_t i = 0; i < N; ++i)
    if (a[i] != b[i]) return false;
  return true;
}

}  // namespace perfsuite
