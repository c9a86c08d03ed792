// Every block that the CPU allocator account sees allocated and freed over a stretch, one by one, in order.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace perfsuite {

struct AllocationEvent {
  int64_t t_ns;   // monotonic
  int64_t block;  // address
  int64_t bytes;  // as malloc rounds them; below zero: freed
};

struct AllocationLog {
  std::vector<AllocationEvent> events;
  int64_t dropped = 0;  // events beyond the limit
};

namespace allocation_log {

extern std::atomic<bool> running;  // asked for each block: a branch when it is not

// Both throw std::runtime_error where it runs already, or does not run.
void start(size_t limit);
AllocationLog stop();
void note(const void* block, int64_t bytes);

}  // namespace allocation_log
}  // namespace perfsuite
