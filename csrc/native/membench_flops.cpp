#include <stdexcept>

#include "membench.h"
#include "membench_kernels.h"
#include "membench_team.h"

namespace perfsuite {

FmaRun run_fma(const std::vector<int>& cpus, int64_t iterations, int repetitions, const std::string& isa) {
  if (iterations < 1) throw std::invalid_argument("iterations must be at least 1");
  const KernelSet& set = kernel_set(isa);
  FmaRun result;
  result.checksums.resize(cpus.size());
  auto body = [&](int t) { result.checksums[size_t(t)] = set.fma(iterations, -1.0f, 1.0f); };
  auto nothing = [](int) {};
  const TeamTimes times = run_team(cpus, repetitions, nothing, body, nothing);
  result.samples_ns = times.samples_ns;
  result.pinned = times.pinned;
  result.flops = 2 * iterations * set.fma_floats * int64_t(cpus.size());
  return result;
}

}  // namespace perfsuite
