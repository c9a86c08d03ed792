// The latest calls into the driver or runtime by correlation id: when each began, and its external correlation id.
#pragma once

#include <cstdint>
#include <memory>

namespace perfsuite {

// Correlation ids count up, so that the low bits of an id are its place and a newer call replaces one that is
// `capacity` calls older. Constant memory, no search.
class CallTable {
 public:
  struct Call {
    uint32_t correlation = 0;
    bool begun = false;  // start_ns is known
    int64_t start_ns = 0;
    uint64_t external = 0;
  };

  explicit CallTable(size_t capacity) : mask_(capacity - 1), calls_(new Call[capacity]) {}

  void begin(uint32_t correlation, int64_t start_ns) {
    Call* call = place(correlation);
    // A runtime call and the driver's call within it can share an id: the outer one began first.
    if (!call || (call->begun && call->start_ns <= start_ns)) return;
    call->begun = true;
    call->start_ns = start_ns;
  }
  void external(uint32_t correlation, uint64_t external) {
    if (Call* call = place(correlation)) call->external = external;
  }

  // Null where nothing is known of the call.
  const Call* find(uint32_t correlation) const {
    const Call& call = calls_[correlation & mask_];
    return correlation != 0 && call.correlation == correlation ? &call : nullptr;
  }

 private:
  Call* place(uint32_t correlation) {
    Call& call = calls_[correlation & mask_];
    if (call.correlation == correlation) return correlation ? &call : nullptr;
    if (call.correlation != 0 && int32_t(correlation - call.correlation) < 0) return nullptr;  // a forgotten call's
    call = Call{};
    call.correlation = correlation;
    return &call;
  }

  const size_t mask_;
  const std::unique_ptr<Call[]> calls_;
};

}  // namespace perfsuite
