#include "membench_team.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "clock.h"

namespace perfsuite {
namespace {

// Spins, because waking a sleeping thread costs tens of microseconds; yields after a while, so that more threads than
// processors still get on.
class Barrier {
 public:
  explicit Barrier(int threads) : threads_(threads) {}
  void wait() {
    const int round = round_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round_.load(std::memory_order_acquire) == round; ++spins)
      if (spins > 10'000) std::this_thread::yield();
  }

 private:
  const int threads_;
  std::atomic<int> arrived_{0};
  std::atomic<int> round_{0};
};

bool pin_calling_thread(int cpu) {
  if (cpu < 0) return false;
  cpu_set_t* set = CPU_ALLOC(size_t(cpu) + 1);  // cpu_set_t itself ends at 1,024 processors
  if (!set) return false;
  const size_t bytes = CPU_ALLOC_SIZE(size_t(cpu) + 1);
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(size_t(cpu), bytes, set);
  const bool pinned = sched_setaffinity(0, bytes, set) == 0;
  CPU_FREE(set);
  return pinned;
}

enum Gate : int { kWait, kGo, kGiveUp };

}  // namespace

TeamTimes run_team(const std::vector<int>& cpus, int repetitions, const TeamWork& prepare, const TeamWork& body,
                   const TeamWork& finish) {
  if (cpus.empty()) throw std::invalid_argument("cpus is empty: name one processor for each thread");
  if (repetitions < 1) throw std::invalid_argument("repetitions must be at least 1");
  const size_t threads = cpus.size(), reps = size_t(repetitions);
  std::vector<int64_t> starts(threads * reps), ends(threads * reps);
  std::atomic<int> gate{kWait}, pinned{0};
  Barrier barrier{int(threads)};

  auto member = [&](size_t t) {
    while (gate.load(std::memory_order_acquire) == kWait) std::this_thread::yield();
    if (gate.load(std::memory_order_acquire) == kGiveUp) return;
    if (pin_calling_thread(cpus[t])) pinned.fetch_add(1);
    prepare(int(t));
    for (size_t r = 0; r < reps; ++r) {
      barrier.wait();
      starts[t * reps + r] = now_ns();
      body(int(t));
      ends[t * reps + r] = now_ns();
    }
    barrier.wait();
    finish(int(t));
  };

  std::vector<std::thread> team;
  team.reserve(threads);
  std::string refused;
  try {
    for (size_t t = 0; t < threads; ++t) team.emplace_back(member, t);
  } catch (const std::system_error& e) {
    refused = e.what();
  }
  gate.store(refused.empty() ? kGo : kGiveUp, std::memory_order_release);
  for (auto& thread : team) thread.join();
  if (!refused.empty())
    throw std::runtime_error("cannot start " + std::to_string(threads) + " threads (" + refused + "): ask for fewer");

  TeamTimes times;
  times.pinned = pinned.load();
  for (size_t r = 0; r < reps; ++r) {
    int64_t first = starts[r], last = ends[r];
    for (size_t t = 1; t < threads; ++t) {
      first = std::min(first, starts[t * reps + r]);
      last = std::max(last, ends[t * reps + r]);
    }
    times.samples_ns.push_back(last - first);
  }
  return times;
}

}  // namespace perfsuite
