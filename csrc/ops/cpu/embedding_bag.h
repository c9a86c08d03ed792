// Sums of rows of a table, bag by bag, on the CPU:
//
//   out[b] = sum of table[indices[p]] over offsets[b] <= p < offsets[b + 1]
//
// Sums are taken in the order of the lookups, in float32 (float64 for a table of doubles).
#pragma once

#include "types.h"

namespace perfsuite::cpu {

template <class T>
struct EmbeddingBag {
  const T* table;          // (rows, width), elements of a row adjacent
  int64_t row_stride;      // in elements
  int64_t rows;
  int64_t width;
  const int64_t* indices;  // (lookups,)
  const int64_t* offsets;  // (bags + 1,): from 0 up to lookups, never falling; the caller has checked
};

// Bags [begin, end) into out (bags, width). Returns -1, or the first lookup whose index is outside [0, rows): the rest
// is then not written. Instantiated for float, double, BFloat16 and Half.
template <class T>
int64_t embedding_bag_forward(const EmbeddingBag<T>& op, int64_t begin, int64_t end, T* out, Isa isa);

}  // namespace perfsuite::cpu
