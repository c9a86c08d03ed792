#include "work_records.h"

#include <algorithm>

namespace perfsuite {
namespace {

int8_t pinned(uint8_t memory) { return memory == cupti::kPinned ? 1 : memory == cupti::kPageable ? 0 : -1; }

// Of the side of a copy that is on the host; a copy within the host is pinned where both sides are.
int8_t pinned(uint8_t copy, uint8_t source, uint8_t destination) {
  switch (copy) {
    case cupti::kHtoD:
    case cupti::kHtoA: return pinned(source);
    case cupti::kDtoH:
    case cupti::kAtoH: return pinned(destination);
    case cupti::kHtoH: {
      const int8_t a = pinned(source), b = pinned(destination);
      return a == 0 || b == 0 ? 0 : std::min(a, b);
    }
    default: return -1;
  }
}

// What every record of work on a device has.
template <class Record>
DeviceWork common(const Record& record, WorkKind kind) {
  DeviceWork work{};
  work.start_ns = int64_t(record.start);
  work.end_ns = int64_t(record.end);
  work.correlation = record.correlation;
  work.stream = record.stream;
  work.kind = kind;
  work.pinned = -1;
  work.graph = record.graph != 0;
  return work;
}

}  // namespace

DeviceWork work_of(const cupti::KernelRecord& record, KernelNames& names) {
  DeviceWork work = common(record, WorkKind::kKernel);
  work.name = names.id(record.name);
  work.grid_x = uint32_t(record.grid[0]);
  work.grid_y = uint16_t(record.grid[1]);
  work.grid_z = uint16_t(record.grid[2]);
  for (int i = 0; i < 3; ++i) work.block[i] = uint16_t(record.block[i]);
  work.registers = record.registers;
  work.shared_bytes = uint32_t(record.static_shared_bytes) + uint32_t(record.dynamic_shared_bytes);
  return work;
}

DeviceWork work_of(const cupti::MemcpyRecord& record, KernelNames&) {
  DeviceWork work = common(record, WorkKind::kMemcpy);
  work.name = KernelNames::kMemcpy;
  work.runtime_correlation = record.runtime_correlation;
  work.bytes = int64_t(record.bytes);
  work.copy = record.copy;
  work.pinned = pinned(record.copy, record.source, record.destination);
  return work;
}

DeviceWork work_of(const cupti::MemcpyPeerRecord& record, KernelNames&) {
  DeviceWork work = common(record, WorkKind::kMemcpy);
  work.name = KernelNames::kMemcpy;
  work.bytes = int64_t(record.bytes);
  work.copy = cupti::kPtoP;  // these records are of copies between devices, whatever their copy kind says
  return work;
}

DeviceWork work_of(const cupti::MemsetRecord& record, KernelNames&) {
  DeviceWork work = common(record, WorkKind::kMemset);
  work.name = KernelNames::kMemset;
  work.bytes = int64_t(record.bytes);
  return work;
}

DeviceWork work_of(const cupti::GraphTraceRecord& record, KernelNames&) {
  DeviceWork work = common(record, WorkKind::kKernel);
  work.name = KernelNames::kGraph;
  work.graph = true;
  return work;
}

}  // namespace perfsuite
