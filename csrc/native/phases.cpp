#include "phases.h"

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <unordered_map>

#include "clock.h"

namespace perfsuite {
namespace {

// 16 bytes an event: 32 MiB at most, over a hundred thousand steps of a typical loop; what comes later is counted.
constexpr size_t kTimelineLimit = size_t(1) << 21;

std::atomic<PhaseClock*> g_active{nullptr};
std::atomic<const PhaseObserver*> g_phase_observer{nullptr};
std::atomic<const LaunchObserver*> g_launch_observer{nullptr};

std::mutex g_names_mutex;
std::vector<std::string> g_names{""};  // id 0: no scope
std::unordered_map<std::string, uint32_t> g_ids{{"", 0}};

thread_local std::vector<uint32_t> t_modules;
thread_local std::vector<uint32_t> t_ops;

int32_t table_current_phase() {
  PhaseClock* clock = g_active.load(std::memory_order_acquire);
  return clock ? clock->current() : -1;
}
Scope table_current_scope() {
  return {t_modules.empty() ? 0 : t_modules.back(), t_ops.empty() ? 0 : t_ops.back()};
}
bool table_on_clock_thread() {
  PhaseClock* clock = g_active.load(std::memory_order_acquire);
  return clock && clock->on_owner_thread();
}
void table_op_begin(int64_t t) {
  if (PhaseClock* clock = g_active.load(std::memory_order_acquire)) clock->op_begin(t);
}
void table_op_end(int64_t t) {
  if (PhaseClock* clock = g_active.load(std::memory_order_acquire)) clock->op_end(t);
}

}  // namespace

PhaseClock::PhaseClock(std::vector<std::string> names) {
  for (auto& name : names) phase_id(name);
}

PhaseClock::~PhaseClock() {
  PhaseClock* self = this;
  g_active.compare_exchange_strong(self, nullptr);
}

int32_t PhaseClock::phase_id(const std::string& name) {
  for (size_t i = 0; i < names_.size(); ++i)
    if (names_[i] == name) return int32_t(i);
  names_.push_back(name);
  totals_.emplace_back();
  return int32_t(names_.size() - 1);
}

int64_t PhaseClock::start() {
  PhaseClock* none = nullptr;
  if (!g_active.compare_exchange_strong(none, this))
    throw std::runtime_error("a phase clock is already running in this process: stop it first");
  owner_ = std::this_thread::get_id();
  for (auto& total : totals_) total = PhaseTotal{};
  rows_.assign(1, {});
  step_starts_.clear();
  stack_.clear();
  innermost_.store(-1, std::memory_order_relaxed);
  timeline_.clear();
  timeline_dropped_ = 0;
  in_op_ = false;
  running_ = true;
  start_ns_ = mark_ = now_ns();
  if (const PhaseObserver* observer = g_phase_observer.load(std::memory_order_acquire))
    observer->clock_starts(start_ns_);
  return start_ns_;
}

int64_t PhaseClock::stop() {
  if (!running_) throw std::runtime_error("the phase clock is not running");
  if (!stack_.empty()) throw std::runtime_error("phase '" + names_[size_t(stack_.back())] + "' is still open");
  stop_ns_ = now_ns();
  running_ = false;
  PhaseClock* self = this;
  g_active.compare_exchange_strong(self, nullptr);
  return stop_ns_;
}

void PhaseClock::charge(int64_t t) {
  const int32_t phase = current();
  if (phase >= 0) {
    const int64_t dt = t - mark_;
    PhaseTotal& total = totals_[size_t(phase)];
    total.self_ns += dt;
    if (split_) (in_op_ ? total.op_ns : total.host_ns) += dt;
    auto& row = rows_.back();
    if (row.size() <= size_t(phase)) row.resize(names_.size(), 0);
    row[size_t(phase)] += dt;
  }
  mark_ = t;
}

void PhaseClock::note(int64_t t) {
  if (const PhaseObserver* observer = g_phase_observer.load(std::memory_order_acquire))
    observer->phase_changes(t, current());
  if (timeline_.size() < kTimelineLimit)
    timeline_.push_back({t, current(), int32_t(rows_.size()) - 1});
  else
    ++timeline_dropped_;
}

void PhaseClock::enter(int32_t phase) {
  if (!running_) return;  // phase marks outside a watch cost a branch
  if (!on_owner_thread()) throw std::runtime_error("phases are entered on the thread that started the clock");
  const int64_t t = now_ns();
  charge(t);
  stack_.push_back(phase);
  innermost_.store(phase, std::memory_order_relaxed);
  ++totals_[size_t(phase)].calls;
  note(t);
}

void PhaseClock::exit(int32_t phase) {
  if (!running_) return;
  if (stack_.empty() || stack_.back() != phase)
    throw std::runtime_error("phase '" + names_[size_t(phase)] + "' ends, but it is not the innermost open one");
  const int64_t t = now_ns();
  charge(t);
  stack_.pop_back();
  innermost_.store(stack_.empty() ? -1 : stack_.back(), std::memory_order_relaxed);
  note(t);
}

void PhaseClock::begin_step() {
  if (!running_) return;
  const int64_t t = now_ns();
  charge(t);
  rows_.emplace_back();
  step_starts_.push_back(t);
}

void PhaseClock::op_begin(int64_t t) {
  if (!running_ || !on_owner_thread()) return;
  charge(t);
  in_op_ = true;
}

void PhaseClock::op_end(int64_t t) {
  if (!running_ || !on_owner_thread()) return;
  charge(t);
  in_op_ = false;
}

std::vector<int64_t> PhaseClock::step_table() const {
  std::vector<int64_t> table(rows_.size() * names_.size(), 0);
  for (size_t i = 0; i < rows_.size(); ++i)
    for (size_t j = 0; j < rows_[i].size(); ++j) table[i * names_.size() + j] = rows_[i][j];
  return table;
}

void set_phase_observer(const PhaseObserver* observer) {
  g_phase_observer.store(observer, std::memory_order_release);
}
const LaunchObserver* launch_observer() { return g_launch_observer.load(std::memory_order_acquire); }
void set_launch_observer(const LaunchObserver* observer) {
  g_launch_observer.store(observer, std::memory_order_release);
}

PhaseClock* active_clock() { return g_active.load(std::memory_order_acquire); }

uint32_t intern(const std::string& name) {
  std::lock_guard<std::mutex> lock(g_names_mutex);
  auto [it, fresh] = g_ids.try_emplace(name, uint32_t(g_names.size()));
  if (fresh) g_names.push_back(name);
  return it->second;
}

std::string interned(uint32_t id) {
  std::lock_guard<std::mutex> lock(g_names_mutex);
  if (id >= g_names.size()) throw std::out_of_range("no name has this id");
  return g_names[id];
}

void push_module(uint32_t id) { t_modules.push_back(id); }
void pop_module() {
  if (!t_modules.empty()) t_modules.pop_back();
}
void push_op(uint32_t id) { t_ops.push_back(id); }
void pop_op() {
  if (!t_ops.empty()) t_ops.pop_back();
}

const SharedTable& shared_table() {
  static const SharedTable table{kSharedVersion,        now_ns,         table_current_phase, table_current_scope,
                                 table_on_clock_thread, table_op_begin, table_op_end,        &g_launch_observer};
  return table;
}

}  // namespace perfsuite
