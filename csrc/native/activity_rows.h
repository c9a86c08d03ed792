// The rows of the sums, found by their key.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "device_work.h"
#include "kernel_names.h"

namespace perfsuite {

struct RowKey {
  uint64_t external;
  uint32_t name;
  int32_t phase, device;
  WorkKind kind;
  uint8_t copy;
  int8_t pinned;
  bool graph;

  bool operator==(const RowKey& o) const {
    return external == o.external && name == o.name && phase == o.phase && device == o.device && kind == o.kind &&
           copy == o.copy && pinned == o.pinned && graph == o.graph;
  }
};

struct RowSums {
  int64_t calls = 0, time_ns = 0, share_ns = 0;
  int64_t min_ns = std::numeric_limits<int64_t>::max(), max_ns = 0;
  uint64_t bytes = 0;
  DeviceWork last{};  // its grid, block, registers and shared memory
};

class RowTable {
 public:
  explicit RowTable(size_t limit) : limit_(limit) {
    size_t places = 1;
    while (places < 2 * (limit + 2 * kOthers)) places *= 2;
    places_.assign(places, kFree);
  }

  // Index of the row. Where there are too many rows it is "(other)", of which there is one a phase, device and kind.
  uint32_t find(const RowKey& key) {
    if (is_other(key)) return other(key);
    uint32_t& place = place_of(key);
    if (place != kFree) return place;
    if (keys_.size() - others_ < limit_) return add(place, key);
    return other(key);
  }
  static bool is_other(const RowKey& key) { return key.name == KernelNames::kOther; }

  const std::vector<RowKey>& keys() const { return keys_; }
  RowSums& operator[](uint32_t row) { return sums_[row]; }

 private:
  static constexpr uint32_t kFree = 0xFFFFFFFF;
  static constexpr size_t kOthers = 4096;  // "(other)" rows that know their phase

  uint32_t& place_of(const RowKey& key) {
    uint64_t hash = key.external * 0x9E3779B97F4A7C15u;
    hash ^= (uint64_t(key.name) << 32 | uint32_t(key.phase)) * 0xC2B2AE3D27D4EB4Fu;
    hash ^= (uint64_t(uint32_t(key.device)) << 32 | uint32_t(key.kind) << 24 | uint32_t(key.copy) << 16 |
             uint32_t(uint8_t(key.pinned)) << 8 | uint32_t(key.graph)) * 0x165667B19E3779F9u;
    hash ^= hash >> 29;
    hash *= 0xBF58476D1CE4E5B9u;
    for (size_t i = hash >> 32;; ++i) {
      uint32_t& place = places_[i & (places_.size() - 1)];
      if (place == kFree || keys_[place] == key) return place;
    }
  }
  uint32_t add(uint32_t& place, const RowKey& key) {
    place = uint32_t(keys_.size());
    keys_.push_back(key);
    sums_.emplace_back();
    return place;
  }
  uint32_t other(RowKey key) {
    key.external = 0;
    key.name = KernelNames::kOther;
    key.copy = 0;
    key.pinned = -1;
    key.graph = false;
    if (others_ >= kOthers) key.phase = -1;
    uint32_t& place = place_of(key);
    if (place != kFree) return place;
    ++others_;
    return add(place, key);
  }

  const size_t limit_;
  size_t others_ = 0;
  std::vector<uint32_t> places_;  // open addressing, indices of rows
  std::vector<RowKey> keys_;
  std::vector<RowSums> sums_;
};

}  // namespace perfsuite
