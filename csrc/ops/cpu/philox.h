// The words that decide what dropout keeps, by kernels/dropout_mask.py: Philox 4x32 with 10 rounds (Salmon et al., SC
// 2011). Element i has word i % 4 of the block with counter (low, high, 0, 0), the halves of offset + i / 4.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace perfsuite::cpu {

inline constexpr int kPhiloxRounds = 10;

// Lanes of blocks side by side, so that the compiler makes vectors of them.
template <int kLanes>
struct PhiloxBlocks {
  uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
};

template <int kLanes>
static inline __attribute__((always_inline)) void philox(PhiloxBlocks<kLanes>& b, uint64_t key) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p0 = uint64_t(0xD2511F53u) * b.c0[i], p1 = uint64_t(0xCD9E8D57u) * b.c2[i];
      b.c0[i] = uint32_t(p1 >> 32) ^ b.c1[i] ^ k0;
      b.c1[i] = uint32_t(p1);
      b.c2[i] = uint32_t(p0 >> 32) ^ b.c3[i] ^ k1;
      b.c3[i] = uint32_t(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

struct Dropout {
  bool on = false;
  uint32_t threshold = 0;  // the least word that is kept
  double scale = 1;        // what is kept is multiplied by it
  uint64_t seed = 0, offset = 0;
};

// p: the probability to be dropped.
inline Dropout dropout_with(double p, uint64_t seed, uint64_t offset) {
  const double least = std::min(std::ceil(p * 0x1p32), 0x1p32 - 1);
  return {true, uint32_t(least), p < 1 ? 1 / (1 - p) : 0, seed, offset};
}

// factors[j] = 0 or scale, for the elements first + j, j in [0, n).
template <class Acc>
static inline __attribute__((always_inline)) void dropout_factors(const Dropout& dropout, int64_t first, int64_t n,
                                                                  Acc* factors) {
  constexpr int kLanes = 16;
  const Acc scale = Acc(dropout.scale);
  for (int64_t j = -(first % 4); j < n; j += 4 * kLanes) {
    const uint64_t counter = dropout.offset + uint64_t((first + j) / 4);
    PhiloxBlocks<kLanes> b;
    for (int i = 0; i < kLanes; ++i) {
      b.c0[i] = uint32_t(counter + i);
      b.c1[i] = uint32_t((counter + i) >> 32);
      b.c2[i] = b.c3[i] = 0;
    }
    philox(b, dropout.seed);
    Acc part[4 * kLanes];
    for (int i = 0; i < kLanes; ++i) {
      part[4 * i] = b.c0[i] >= dropout.threshold ? scale : Acc(0);
      part[4 * i + 1] = b.c1[i] >= dropout.threshold ? scale : Acc(0);
      part[4 * i + 2] = b.c2[i] >= dropout.threshold ? scale : Acc(0);
      part[4 * i + 3] = b.c3[i] >= dropout.threshold ? scale : Acc(0);
    }
    const int64_t from = j < 0 ? -j : 0, to = n - j < 4 * kLanes ? n - j : 4 * kLanes;
    for (int64_t i = from; i < to; ++i) factors[j + i] = part[i];
  }
}

}  // namespace perfsuite::cpu
