// Sums per (op, direction, phase, op-region, module): one table per thread, written by its thread alone and readable
// from any other at any time. Bounded: what does not fit is summed in row 0 and counted.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace perfsuite {

enum class Direction : uint8_t { kNone = 0, kForward = 1, kBackward = 2 };

// 16 bytes, so that comparing two keys is two comparisons.
struct RowKey {
  uint64_t name_and_module = 0;
  uint64_t op_phase_direction = 0;

  static RowKey make(uint32_t name, uint32_t module, uint32_t op, int32_t phase, Direction direction) {
    return {uint64_t(name) << 32 | module, uint64_t(op) << 32 | uint64_t(uint16_t(phase)) << 8 | uint64_t(direction)};
  }
  uint32_t name() const { return uint32_t(name_and_module >> 32); }
  uint32_t module() const { return uint32_t(name_and_module); }
  uint32_t op() const { return uint32_t(op_phase_direction >> 32); }
  int32_t phase() const { return int16_t(uint16_t(op_phase_direction >> 8)); }
  Direction direction() const { return Direction(op_phase_direction & 0xff); }
  bool operator==(const RowKey& o) const {
    return name_and_module == o.name_and_module && op_phase_direction == o.op_phase_direction;
  }
  uint64_t hash() const {
    uint64_t h = (name_and_module ^ (op_phase_direction * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
    return h ^ (h >> 32);
  }
};

struct Row {
  RowKey key;
  std::atomic<int64_t> calls{0}, total_ns{0}, self_ns{0};
  uint32_t num_signatures = 0;  // used by the owning thread only
  // Of a row that was taken as a launch site: the row that the op was booked to when it ended. An op's direction is
  // not known before (did it create autograd nodes?). 0: none has ended yet.
  std::atomic<uint32_t> booked_to{0};

  void add(int64_t total, int64_t self) {
    // One writer: a load and a store are enough, and cost no locked instruction.
    calls.store(calls.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    total_ns.store(total_ns.load(std::memory_order_relaxed) + total, std::memory_order_relaxed);
    self_ns.store(self_ns.load(std::memory_order_relaxed) + self, std::memory_order_relaxed);
  }
};

class OpTable {
 public:
  static constexpr uint32_t kMaxRows = 8192;
  static constexpr uint32_t kOverflowRow = 0;

  OpTable();
  // Index of the row of this key; kOverflowRow once kMaxRows keys have been seen.
  uint32_t find(const RowKey& key) {
    const uint32_t mask = uint32_t(slots_.size()) - 1;
    for (uint32_t i = uint32_t(key.hash()) & mask;; i = (i + 1) & mask) {
      const uint32_t index = slots_[i];
      if (index == 0) return insert(key, i);
      if (row(index).key == key) return index;
    }
  }
  Row& row(uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }
  // How many rows another thread may read; row 0 is the overflow row.
  uint32_t size() const { return size_.load(std::memory_order_acquire); }
  void clear();  // by the owning thread only

 private:
  static constexpr uint32_t kChunk = 256;
  uint32_t insert(const RowKey& key, uint32_t slot);

  std::vector<uint32_t> slots_;  // row index, 0 = free; a power of two, at most half full
  std::array<std::unique_ptr<Row[]>, kMaxRows / kChunk> chunks_;  // never move: readers hold no lock
  std::atomic<uint32_t> size_{1};
};

}  // namespace perfsuite
