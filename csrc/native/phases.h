// The phase clock: how long each step spent in each phase, and how much of a phase was ops and how much the host.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "shared.h"

namespace perfsuite {

// Time of one phase over the whole watch, in nanoseconds, without the phases nested in it.
struct PhaseTotal {
  int64_t self_ns = 0;
  int64_t op_ns = 0;    // inside ops that no other op encloses; 0 unless an op recorder reports them
  int64_t host_ns = 0;  // between them; 0 unless an op recorder reports them
  int64_t calls = 0;
};

// One entry or exit of a phase, for the timeline.
struct PhaseEvent {
  int64_t t_ns;
  int32_t phase;  // the phase that is innermost from t_ns on; -1: none
  int32_t step;
};

class PhaseClock {
 public:
  // Phases are timed by their own enter and exit; the time between them belongs to nobody and shows up as unattributed.
  explicit PhaseClock(std::vector<std::string> names);
  ~PhaseClock();

  int32_t phase_id(const std::string& name);  // adds the name when it is new
  const std::vector<std::string>& names() const { return names_; }

  int64_t start();  // makes this the active clock of the process; the calling thread owns it
  int64_t stop();
  void enter(int32_t phase);
  void exit(int32_t phase);
  void begin_step();  // the times that follow belong to the next row
  void set_split(bool on) { split_ = on; }  // whether op_begin and op_end are being reported

  void op_begin(int64_t t);
  void op_end(int64_t t);

  // Of the innermost open phase, or -1. Any thread may ask.
  int32_t current() const { return innermost_.load(std::memory_order_relaxed); }
  bool on_owner_thread() const { return std::this_thread::get_id() == owner_; }
  int64_t elapsed_ns() const { return stop_ns_ - start_ns_; }
  const std::vector<PhaseTotal>& totals() const { return totals_; }
  // Row-major (steps, names().size()) self times; row 0 is what came before the first begin_step.
  std::vector<int64_t> step_table() const;
  int64_t num_rows() const { return int64_t(rows_.size()); }
  const std::vector<PhaseEvent>& timeline() const { return timeline_; }
  int64_t timeline_dropped() const { return timeline_dropped_; }
  int64_t start_ns() const { return start_ns_; }
  const std::vector<int64_t>& step_starts() const { return step_starts_; }

 private:
  void charge(int64_t t);  // gives the time since mark_ to the innermost phase
  void note(int64_t t);  // the innermost phase has changed

  std::vector<std::string> names_;
  std::vector<PhaseTotal> totals_;
  std::vector<std::vector<int64_t>> rows_;
  std::vector<int64_t> step_starts_;
  std::vector<int32_t> stack_;
  std::atomic<int32_t> innermost_{-1};  // the top of stack_, for other threads
  std::vector<PhaseEvent> timeline_;
  int64_t timeline_dropped_ = 0;
  int64_t start_ns_ = 0, stop_ns_ = 0;
  int64_t mark_ = 0;  // since when the innermost phase has not been charged
  bool split_ = false, in_op_ = false, running_ = false;
  std::thread::id owner_;
};

// The clock that is running in this process, or null.
PhaseClock* active_clock();

// Told on the clock's thread when a clock starts, and which phase is innermost from t_ns on (-1: none) at each change.
struct PhaseObserver {
  void (*clock_starts)(int64_t t_ns);
  void (*phase_changes)(int64_t t_ns, int32_t phase);
};
void set_phase_observer(const PhaseObserver* observer);  // null: nobody is told
// Null: no kernel recorder runs.
void set_launch_observer(const LaunchObserver* observer);
const LaunchObserver* launch_observer();

// Scopes: what the calling thread is inside of. push returns nothing and pop needs no argument: strictly nested.
uint32_t intern(const std::string& name);
std::string interned(uint32_t id);
void push_module(uint32_t id);
void pop_module();
void push_op(uint32_t id);
void pop_op();

const SharedTable& shared_table();

}  // namespace perfsuite
