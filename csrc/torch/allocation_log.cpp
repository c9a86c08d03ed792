#include "allocation_log.h"

#include <mutex>
#include <stdexcept>
#include <utility>

#include "../native/clock.h"

namespace perfsuite {
namespace allocation_log {
namespace {

// Threads that free while the process ends may still come here: it is never destroyed.
struct State {
  std::mutex mutex;
  AllocationLog log;
  size_t limit = 0;
};

State& state() {
  static auto& instance = *new State();
  return instance;
}

}  // namespace

std::atomic<bool> running{false};

void start(size_t limit) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (running) throw std::runtime_error("a log of allocations is already running in this process");
  s.log = AllocationLog{};
  s.limit = limit;
  s.log.events.reserve(limit);  // no allocation of its own while it runs
  running = true;
}

AllocationLog stop() {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!running) throw std::runtime_error("no log of allocations is running");
  running = false;
  return std::exchange(s.log, AllocationLog{});
}

void note(const void* block, int64_t bytes) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!running) return;
  if (s.log.events.size() < s.limit)
    s.log.events.push_back({now_ns(), int64_t(reinterpret_cast<uintptr_t>(block)), bytes});
  else
    ++s.log.dropped;
}

}  // namespace allocation_log
}  // namespace perfsuite
