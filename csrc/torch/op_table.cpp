#include "op_table.h"

namespace perfsuite {

OpTable::OpTable() : slots_(512, 0) { chunks_[0] = std::make_unique<Row[]>(kChunk); }

uint32_t OpTable::insert(const RowKey& key, uint32_t slot) {
  const uint32_t index = size_.load(std::memory_order_relaxed);
  if (index == kMaxRows) return kOverflowRow;
  if (!chunks_[index / kChunk]) chunks_[index / kChunk] = std::make_unique<Row[]>(kChunk);
  row(index).key = key;
  slots_[slot] = index;
  if (2 * index > slots_.size()) {
    std::vector<uint32_t> grown(2 * slots_.size(), 0);
    const uint32_t mask = uint32_t(grown.size()) - 1;
    for (uint32_t i = 1; i <= index; ++i) {
      uint32_t at = uint32_t(row(i).key.hash()) & mask;
      while (grown[at] != 0) at = (at + 1) & mask;
      grown[at] = i;
    }
    slots_.swap(grown);
  }
  size_.store(index + 1, std::memory_order_release);
  return index;
}

void OpTable::clear() {
  const uint32_t used = size_.exchange(1, std::memory_order_acq_rel);
  for (uint32_t i = 0; i < used; ++i) {
    Row& r = row(i);
    r.calls.store(0, std::memory_order_relaxed);
    r.total_ns.store(0, std::memory_order_relaxed);
    r.self_ns.store(0, std::memory_order_relaxed);
    r.num_signatures = 0;
    r.booked_to.store(0, std::memory_order_relaxed);
  }
  std::fill(slots_.begin(), slots_.end(), 0);
}

}  // namespace perfsuite
