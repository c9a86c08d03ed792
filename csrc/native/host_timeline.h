// What the host was doing while the device ran: phases of the clock thread and ops of every thread, as they happen.
#pragma once

#include <cstdint>
#include <mutex>

#include "step_function.h"

namespace perfsuite {

// Appending is cheap (one short lock) and may happen on any thread; ActivitySums alone reads. Times are monotonic ns.
// Only the latest `capacity` changes of each are kept: device time that would need older ones is then idle of unknown
// cause, never guessed.
class HostTimeline {
 public:
  static constexpr int32_t kNoPhase = -1;

  explicit HostTimeline(size_t capacity) : phases_(capacity, kNoPhase), ops_(capacity, 0) {}

  // The innermost phase from t_ns on, -1: none. Called by the clock thread alone, in order of time.
  void phase(int64_t t_ns, int32_t phase) {
    append(phases_, t_ns, phase - last_phase_);
    last_phase_ = phase;
  }
  // +1 where a thread enters an op that no other op of that thread encloses, -1 where it leaves it.
  void op(int64_t t_ns, int delta) { append(ops_, t_ns, delta); }

 private:
  friend class ActivitySums;

  static constexpr size_t kSettleAt = 1 << 14;

  void append(StepFunction& function, int64_t t_ns, int32_t delta) {
    const size_t waiting = function.append(t_ns, delta);
    if (waiting < kSettleAt) return;
    // Nobody has read for a while. A reader at work will settle soon: no need to wait for it before too many wait.
    std::unique_lock<std::mutex> lock(reading_, std::defer_lock);
    if (waiting < 4 * kSettleAt ? lock.try_lock() : (lock.lock(), true)) function.settle();
  }

  std::mutex reading_;  // held while phases_ and ops_ are settled or read
  StepFunction phases_, ops_;
  int32_t last_phase_ = kNoPhase;
};

}  // namespace perfsuite
