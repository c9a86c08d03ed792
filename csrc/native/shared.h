// What perfsuite._native lends to perfsuite._torch, so that clock, phase and scope are one state in the process.
//
// _native exports a PyCapsule named kCapsuleName that holds a SharedTable. A reader checks `version` and refuses
// another one: the two libraries are built at different times.
#pragma once

#include <atomic>
#include <cstdint>

namespace perfsuite {

constexpr uint32_t kSharedVersion = 2;
constexpr const char* kCapsuleName = "perfsuite._native.shared";

// The innermost module and suite op that the calling thread is inside of; 0 where there is none. Ids come from intern().
struct Scope {
  uint32_t module;
  uint32_t op;
};

// What the op recorder tells the kernel recorder, on the thread that runs the op. Whoever called begin() calls end() of
// the same observer, also after its recording has ended.
struct LaunchObserver {
  // An op begins; what the thread launches from here on comes from `site`, a number of the op recorder's, never 0.
  // `outermost`: no other op of this thread encloses it.
  void (*begin)(const LaunchObserver* self, int64_t now_ns, uint64_t site, bool outermost);
  void (*end)(const LaunchObserver* self, int64_t now_ns, bool outermost);
};

struct SharedTable {
  uint32_t version;
  // Monotonic nanoseconds.
  int64_t (*now_ns)();
  // Index of the innermost open phase of the active phase clock, or -1.
  int32_t (*current_phase)();
  // Scope of the calling thread.
  Scope (*current_scope)();
  // True on the thread that started the active phase clock.
  bool (*on_clock_thread)();
  // Told by the op recorder, on the clock's thread, when an op begins and ends that no other op encloses. The clock
  // splits each phase into op time and host time with them, independently of the recorder's own sums.
  void (*op_begin)(int64_t now_ns);
  void (*op_end)(int64_t now_ns);
  // Holds null while no kernel recorder runs: then an op pays one load for it.
  const std::atomic<const LaunchObserver*>* launch_observer;
};

}  // namespace perfsuite
