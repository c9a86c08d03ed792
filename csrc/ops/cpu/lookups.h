// Lookups of an embedding table, sorted by the row they read: what a gradient by row is made from.
//
// A radix sort from the lowest digit up, stable, so that the lookups of a row keep their order; every pass is done by
// `parts` threads side by side, first count(), then scatter(). The result is the same for any number of parts.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace perfsuite::cpu {

struct Lookup {
  uint32_t row;
  uint32_t bag;
};

// The lookups as the caller gives them: indices (count,) and offsets (bags + 1,), from 0 up to count, never falling.
struct GivenLookups {
  const int64_t* indices;
  const int64_t* offsets;
  int64_t bags;

  // visit(lookup) for [begin, end).
  template <class Visit>
  void each(int64_t begin, int64_t end, const Visit& visit) const {
    int64_t bag = std::upper_bound(offsets, offsets + bags + 1, begin) - offsets - 1;
    for (int64_t p = begin; p < end; ++p) {
      while (offsets[bag + 1] <= p) ++bag;  // bags may be empty
      visit(Lookup{uint32_t(indices[p]), uint32_t(bag)});
    }
  }
};
struct StoredLookups {
  const Lookup* lookups;

  template <class Visit>
  void each(int64_t begin, int64_t end, const Visit& visit) const {
    for (int64_t p = begin; p < end; ++p) visit(lookups[p]);
  }
};

class RadixSort {
 public:
  // Of `count` lookups of a table of `rows` rows.
  RadixSort(int64_t count, int64_t rows, int64_t parts) : count_(count), parts_(parts) {
    int bits = 1;
    while (bits < 32 && (uint64_t(1) << bits) < uint64_t(rows)) ++bits;
    passes_ = (bits + kMostBits - 1) / kMostBits;
    digit_bits_ = (bits + passes_ - 1) / passes_;
    places_.resize(parts << digit_bits_);
  }
  int passes() const { return passes_; }

  template <class Source>
  void count(const Source& source, int pass, int64_t part) {
    uint32_t* counts = &places_[part << digit_bits_];
    std::fill_n(counts, size_t(1) << digit_bits_, 0);
    source.each(begin(part), begin(part + 1), [&](Lookup lookup) { ++counts[digit(lookup, pass)]; });
  }
  // After every part has counted, once: counts become places.
  void place() {
    const int64_t digits = int64_t(1) << digit_bits_;
    uint32_t place = 0;
    for (int64_t d = 0; d < digits; ++d)
      for (int64_t part = 0; part < parts_; ++part) {
        uint32_t& here = places_[(part << digit_bits_) + d];
        const uint32_t counted = here;
        here = place;
        place += counted;
      }
  }
  template <class Source>
  void scatter(const Source& source, int pass, int64_t part, Lookup* out) {
    uint32_t* places = &places_[part << digit_bits_];
    source.each(begin(part), begin(part + 1), [&](Lookup lookup) { out[places[digit(lookup, pass)]++] = lookup; });
  }

 private:
  // 2,048 places stay in the first cache level beside the data.
  static constexpr int kMostBits = 11;

  int64_t begin(int64_t part) const { return count_ * part / parts_; }
  uint32_t digit(Lookup lookup, int pass) const {
    return (lookup.row >> (pass * digit_bits_)) & ((uint32_t(1) << digit_bits_) - 1);
  }

  int64_t count_, parts_;
  int passes_, digit_bits_;
  std::vector<uint32_t> places_;
};

}  // namespace perfsuite::cpu
