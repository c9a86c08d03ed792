// Why a device had nothing to do: what the host was doing in the meantime.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "step_function.h"

namespace perfsuite {

// The first that applies, at each moment of a gap:
//   unknown  the launch call of the work that ends the gap was not seen, or what the host was doing is forgotten;
//   launch   that launch call had begun: the driver had the work and had not started it. Where several pieces of work
//            end the gap at the same moment it is the earliest of their launch calls. A gap that the end of the account
//            ends has no launch;
//   sync     some host thread was inside a call that waits for the device: a SYNCHRONIZATION record that keeps the host
//            waiting, or a call listed in cupti_activity_abi.h;
//   data     the clock thread was in the phase in which it waits for data;
//   ops      some host thread was inside an op;
//   python   none of these.
enum class IdleCause : uint8_t { kLaunch, kSync, kData, kOps, kPython, kUnknown };
constexpr int kIdleCauses = 6;
inline const char* name_of(IdleCause cause) {
  constexpr const char* names[kIdleCauses] = {"launch", "sync", "data", "ops", "python", "unknown"};
  return names[size_t(cause)];
}

struct IdleRow {
  IdleCause cause;
  int32_t phase;  // the clock thread's at that time, -1: none or forgotten
  int64_t time_ns;
};

constexpr int64_t kLaunchUnknown = std::numeric_limits<int64_t>::min();
constexpr int64_t kNoLaunch = std::numeric_limits<int64_t>::max();

// The idle time of one device. Gaps are added in order of time.
class IdleCauses {
 public:
  void add(int64_t from_ns, int64_t to_ns, int64_t launch_ns, const StepFunction& phases, const StepFunction& syncs,
           const StepFunction& ops, int32_t data_phase) {
    const int64_t known_from = std::max({phases.known_from_ns(), syncs.known_from_ns(), ops.known_from_ns()});
    if (from_ns < known_from) {
      tally(IdleCause::kUnknown, -1, std::min(to_ns, known_from) - from_ns);
      from_ns = known_from;
    }
    if (from_ns >= to_ns) return;
    size_t phase = phases.after(from_ns, near_phase_), sync = syncs.after(from_ns, near_sync_);
    size_t op = ops.after(from_ns, near_op_);
    while (from_ns < to_ns) {
      const int32_t in_phase = phases.value_before(phase);
      IdleCause cause = launch_ns == kLaunchUnknown ? IdleCause::kUnknown : IdleCause::kLaunch;
      int64_t until = std::min(to_ns, phases.time_of(phase));
      if (from_ns < launch_ns) {
        until = std::min({until, launch_ns, syncs.time_of(sync), ops.time_of(op)});
        cause = syncs.value_before(sync) > 0  ? IdleCause::kSync
                : in_phase == data_phase && data_phase >= 0 ? IdleCause::kData
                : ops.value_before(op) > 0    ? IdleCause::kOps
                                              : IdleCause::kPython;
      }
      tally(cause, in_phase, until - from_ns);
      from_ns = until;
      while (phases.time_of(phase) <= until) ++phase;
      while (syncs.time_of(sync) <= until) ++sync;
      while (ops.time_of(op) <= until) ++op;
    }
  }

  std::vector<IdleRow> rows() const {
    std::vector<IdleRow> out;
    for (size_t i = 0; i < time_ns_.size(); ++i)
      if (time_ns_[i]) out.push_back({IdleCause(i % kIdleCauses), int32_t(i / kIdleCauses) - 1, time_ns_[i]});
    return out;
  }

 private:
  void tally(IdleCause cause, int32_t phase, int64_t ns) {
    const size_t i = size_t(phase + 1) * kIdleCauses + size_t(cause);
    if (i >= time_ns_.size()) time_ns_.resize(i + 1);
    time_ns_[i] += ns;
  }

  std::vector<int64_t> time_ns_;  // by phase + 1 and cause
  size_t near_phase_ = 0, near_sync_ = 0, near_op_ = 0;
};

}  // namespace perfsuite
