// Lookups of an embedding table, sorted by the row they read: what a gradient by row is made from.
//
// The rows are dealt to `parts` threads. Each goes through all lookups, takes those of its rows and sorts them by
// itself: nobody waits for anybody. The lookups of a row keep their order, so that the number of parts does not change a sum.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace perfsuite::cpu {

struct Lookup {
  uint32_t row;
  uint32_t bag;
};

struct Lookups {
  const int64_t* indices;  // (count,), each within [0, rows): the caller has checked
  const int64_t* offsets;  // (bags + 1,): from 0 up to count, never falling
  int64_t bags;            // below 2^32, as rows
  int64_t rows;

  int64_t count() const { return offsets[bags]; }
};

// Rows go by 16, whose state is a cache line that no two threads shall write, and by a hash (Knuth's), as neighbours
// are often looked up equally often.
inline int64_t part_of(uint32_t row, int64_t parts) {
  return int64_t(uint64_t((row >> 4) * 2654435761u) * uint64_t(parts) >> 32);
}

// Memory of a thread, kept from call to call: fresh pages would cost as much as the sort.
struct SortedLookups {
  std::vector<Lookup> sorted, scratch;

  // The lookups of a part, in `sorted`; returns how many.
  int64_t select(const Lookups& all, int64_t part, int64_t parts) {
    const int64_t count = all.count();
    if (int64_t(sorted.size()) <= count) {
      sorted.resize(count + 1);
      scratch.resize(count + 1);
    }
    int64_t taken = 0;
    for (int64_t bag = 0; bag < all.bags; ++bag)
      for (int64_t p = all.offsets[bag]; p < all.offsets[bag + 1]; ++p) {
        const uint32_t row = uint32_t(all.indices[p]);
        sorted[taken] = {row, uint32_t(bag)};  // over the last one, where that was not taken
        taken += part_of(row, parts) == part;
      }
    sort(taken, all.rows);
    return taken;
  }

 private:
  // A radix sort from the lowest digit up. 2,048 places stay in the first cache level beside the data.
  void sort(int64_t count, int64_t rows) {
    constexpr int most_bits = 11;
    int bits = 1;
    while (bits < 32 && (uint64_t(1) << bits) < uint64_t(rows)) ++bits;
    const int passes = (bits + most_bits - 1) / most_bits, digit_bits = (bits + passes - 1) / passes;
    const uint32_t mask = (uint32_t(1) << digit_bits) - 1;
    int64_t places[1 << most_bits];
    for (int shift = 0; shift < passes * digit_bits; shift += digit_bits) {
      std::fill_n(places, int64_t(mask) + 1, 0);
      for (int64_t p = 0; p < count; ++p) ++places[(sorted[p].row >> shift) & mask];
      int64_t place = 0;
      for (int64_t digit = 0; digit <= int64_t(mask); ++digit) {
        const int64_t counted = places[digit];
        places[digit] = place;
        place += counted;
      }
      for (int64_t p = 0; p < count; ++p) scratch[places[(sorted[p].row >> shift) & mask]++] = sorted[p];
      sorted.swap(scratch);
    }
  }
};

}  // namespace perfsuite::cpu
