// What torch allocates on the CPU: an allocator around torch's own that counts, installed while the account runs.
//
// Not the reporting interface of torch's profiler: that one takes a lock and a hash table per block, misses threads
// that do not inherit its state, and is in use when torch.profiler runs at the same time.
#pragma once

#include <cstdint>
#include <vector>

#include "../native/shared.h"

namespace perfsuite {

struct AllocatorSums {
  int64_t peak_bytes = 0;     // most at one time, of the blocks that an account has seen allocated; as malloc rounds them
  int64_t current_bytes = 0;  // of those, what is not freed yet
  int64_t churn_bytes = 0;    // all that was asked for
  int64_t allocations = 0;
  std::vector<int64_t> churn_by_phase, allocations_by_phase;  // by phase + 1; all threads, -1 and up
};

struct HeldBytes {
  int64_t current;
  int64_t peak;
};

namespace allocator_account {

// Both throw std::runtime_error: where it runs already, does not run, or torch's allocator cannot be wrapped.
void start(const SharedTable& shared);
AllocatorSums stop();

// As of now, and after stop() as of the last free.
HeldBytes held();

}  // namespace allocator_account
}  // namespace perfsuite
