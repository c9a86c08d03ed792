// The words that decide what dropout keeps, by kernels/dropout_mask.py: Philox 4x32 with 10 rounds (Salmon et al., SC
// 2011). Element i has word i % 4 of the block with counter (low, high, 0, 0), the halves of offset + i / 4.
#pragma once

#include "device.h"

namespace perfsuite::cuda {

struct PhiloxBlock {
  uint32_t words[4];
};

__device__ __forceinline__ PhiloxBlock philox(uint64_t counter, uint64_t key) {
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

struct Dropout {
  const int64_t* seed;  // null: none
  const int64_t* offset;
  uint32_t threshold;  // the least word that is kept
  double scale;        // what is kept is multiplied by it
};

// values[i] *= 0 or scale, for the elements first + i, i in [0, N). N divisible by 4: first is, too.
template <int N, class Acc>
__device__ __forceinline__ void drop(const Dropout& dropout, int64_t first, Acc* values) {
  const uint64_t seed = uint64_t(*dropout.seed), offset = uint64_t(*dropout.offset);
  const Acc scale = Acc(dropout.scale);
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const PhiloxBlock block = philox(offset + uint64_t((first + i) / 4), seed);
#pragma unroll
      for (int j = 0; j < 4; ++j) values[i + j] *= block.words[j] >= dropout.threshold ? scale : Acc(0);
    }
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const PhiloxBlock block = philox(offset + uint64_t((first + i) / 4), seed);
      const int at = int((first + i) % 4);
      const uint32_t word =
          at < 2 ? (at == 0 ? block.words[0] : block.words[1]) : (at == 2 ? block.words[2] : block.words[3]);
      values[i] *= word >= dropout.threshold ? scale : Acc(0);
    }
  }
}

}  // namespace perfsuite::cuda
