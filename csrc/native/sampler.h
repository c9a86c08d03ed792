// Reads all sources on a thread of its own, on an absolute schedule, without ever holding Python's lock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nvml_source.h"
#include "rapl.h"

namespace perfsuite {

struct SamplerConfig {
  int64_t period_ns;
  // Sample k is due at start + (k + jitter * u) * period, u uniform in (-0.5, 0.5): without drift, and out of step
  // with whatever repeats in the load or in the sensor.
  double jitter;
  uint64_t seed;
  std::string nvml;      // what dlopen takes
  std::string powercap;  // folder
  // A clock to run on instead of CLOCK_MONOTONIC; both or neither. sleep_until_ns returns 0 at the deadline and
  // anything else to end the sampling.
  int64_t (*now_ns)() = nullptr;
  int (*sleep_until_ns)(int64_t) = nullptr;
};

// A column that could not be read for a while.
struct Failure {
  int64_t first_ns;
  int64_t count;
};

struct Samples {
  std::vector<int64_t> t_ns, late_ns;
  std::vector<std::vector<double>> values;                      // chunks of rows
  std::map<std::pair<size_t, std::string>, Failure> failures;   // by column and reason
  int64_t missed = 0;   // deadlines that had passed before the sampler came to them
  int64_t dropped = 0;  // samples beyond the limit on memory
  int64_t cpu_ns = 0;   // CPU time of the sampling thread
};

// Time at which sample k is due, relative to the start. A pure function of its arguments.
int64_t due_ns(const SamplerConfig& config, int64_t k);

class Sampler {
 public:
  explicit Sampler(SamplerConfig config);  // opens the sources: may take as long as the driver takes to initialise
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  void start();  // returns once the first sample is taken
  // Takes a last sample. False where the thread did not come back in time, for instance because a driver call hangs: it
  // is then left behind, and what was sampled so far is there.
  bool stop(int64_t timeout_ns);

  std::vector<Column> columns() const;
  std::vector<std::pair<std::string, std::string>> unavailable() const;  // label of a source and its reason
  const std::vector<Gpu>& gpus() const;
  const std::vector<RaplZone>& zones() const;
  Samples samples() const;

 private:
  struct State;  // shared with the thread, which may outlive this object
  static void run(State& state);

  std::shared_ptr<State> state_;
  std::unique_ptr<std::thread> thread_;
};

}  // namespace perfsuite
