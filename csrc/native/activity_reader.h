// Walks a completed buffer of CUPTI activity records.
#pragma once

#include <stdexcept>
#include <string>

#include "cupti_activity_abi.h"

namespace perfsuite {

// cuptiActivityGetNextRecord: CUptiResult (uint8_t* buffer, size_t valid_bytes, CUpti_Activity** record).
using GetNextRecord = int (*)(uint8_t* buffer, size_t valid_bytes, void** record);

class ActivityReader {
 public:
  ActivityReader(uint32_t version, GetNextRecord next) : next_(next) {
    const auto& known = cupti::kKnownVersions;
    for (const cupti::RecordSizes& sizes : known)
      if (sizes.version == version) sizes_ = sizes;
    const uint32_t first = known[0].version, last = std::end(known)[-1].version;
    // Fields keep their offsets from the first to the last version that was compared. Sizes do not.
    if (next ? version < first || version > last : sizes_.version == 0)
      throw std::invalid_argument("activity records of CUPTI version " + std::to_string(version) + " are not known" +
                                  (next ? ", only those of " + std::to_string(first) + " to " + std::to_string(last)
                                        : " well enough to walk a buffer without the library"));
  }

  // Calls visit(kind, record) for each record. False where the buffer could not be read to its end.
  template <class Visit>
  bool read(uint8_t* buffer, size_t valid_bytes, Visit&& visit) const {
    if (next_) {
      void* record = nullptr;
      cupti::Result result;
      while ((result = next_(buffer, valid_bytes, &record)) == cupti::kSuccess)
        visit(*static_cast<const uint32_t*>(record), record);
      return result == cupti::kMaxLimitReached;
    }
    for (size_t at = 0; at < valid_bytes;) {
      if (valid_bytes - at < sizeof(uint32_t)) return false;
      const uint32_t kind = *reinterpret_cast<const uint32_t*>(buffer + at);
      const size_t bytes = size_of(kind);
      if (bytes == 0 || valid_bytes - at < bytes) return false;
      visit(kind, buffer + at);
      at += bytes;
    }
    return true;
  }

 private:
  size_t size_of(uint32_t kind) const {  // 0: not known
    switch (kind) {
      case cupti::kKernel:
      case cupti::kConcurrentKernel: return sizes_.kernel;
      case cupti::kMemcpy: return sizes_.memcpy;
      case cupti::kMemset: return sizes_.memset;
      case cupti::kMemcpyPeer: return cupti::kMemcpyPeerBytes;
      case cupti::kDriver:
      case cupti::kRuntime: return cupti::kApiBytes;
      case cupti::kOverhead: return cupti::kOverheadBytes;
      case cupti::kSynchronization: return sizes_.synchronization;
      case cupti::kExternalCorrelation: return cupti::kExternalCorrelationBytes;
      case cupti::kGraphTrace: return cupti::kGraphTraceBytes;
      default: return 0;
    }
  }

  const GetNextRecord next_;
  cupti::RecordSizes sizes_{};
};

}  // namespace perfsuite
