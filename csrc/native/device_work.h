// One piece of work of a device, as read from an activity record.
#pragma once

#include <cstdint>

namespace perfsuite {

enum class WorkKind : uint8_t { kKernel, kMemcpy, kMemset };

struct DeviceWork {
  int64_t start_ns, end_ns;
  uint32_t correlation;          // of the call that launched it
  uint32_t runtime_correlation;  // copies: of the runtime's call around it, else 0
  uint32_t stream;
  uint32_t name;  // id in KernelNames
  union {
    struct {
      uint32_t grid_x;
      uint16_t grid_y, grid_z;  // CUDA's limit is 65535
    };
    int64_t bytes;  // copies and memsets
  };
  uint32_t shared_bytes;
  uint16_t registers;
  uint16_t block[3];  // CUDA's limit is 1024
  WorkKind kind;
  uint8_t copy;   // cupti::CopyKind
  int8_t pinned;  // 1 pinned, 0 pageable, -1 not known or no side on the host
  bool graph;
};

}  // namespace perfsuite
