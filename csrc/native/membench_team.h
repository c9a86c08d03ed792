// Threads that start together: the frame that every microbenchmark runs in.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace perfsuite {

struct TeamTimes {
  std::vector<int64_t> samples_ns;  // one per repetition: first start to last end
  int pinned = 0;
};

// What thread number `thread` does; must not throw.
using TeamWork = std::function<void(int thread)>;

// On one thread per entry of cpus: prepare once, body `repetitions` times (each after a barrier of all), finish once.
// A refused affinity is counted, never an error. Throws std::invalid_argument without cpus or repetitions, and
// std::runtime_error where the system does not give that many threads.
TeamTimes run_team(const std::vector<int>& cpus, int repetitions, const TeamWork& prepare, const TeamWork& body,
                   const TeamWork& finish);

}  // namespace perfsuite
