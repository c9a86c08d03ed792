// Hardware counters over time: CUPTI's PM sampling, read out on a thread of its own.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "counter_host.h"
#include "sample_clock.h"
#include "sample_store.h"

namespace perfsuite {

// What device `device` says of its counters; given to CounterHost it leaves out those that are not there. Throws
// std::runtime_error, with the reason where this user or this GPU cannot sample.
std::vector<uint8_t> sampling_availability(const CounterLibrary& library, size_t device);

struct PmSamplingConfig {
  size_t device;
  std::vector<std::string> metrics;
  std::vector<int> kinds;  // of SampleStore, for each metric
  int trigger;             // kTriggerTimeNs or kTriggerSysclkCycles
  uint64_t interval;       // ns or cycles of the system clock
  size_t hardware_buffer_bytes;
  uint32_t max_samples;      // decoded at a time
  int64_t decode_period_ns;  // the hardware's buffer must hold the samples of this time
  size_t max_rows;
};

class PmSampling {
 public:
  PmSampling(std::shared_ptr<const CounterHost> host, PmSamplingConfig config);
  ~PmSampling();
  PmSampling(const PmSampling&) = delete;
  PmSampling& operator=(const PmSampling&) = delete;

  void start();  // throws std::runtime_error and leaves nothing behind
  void stop();   // decodes what is left, and gives the counters back

  // After stop().
  const SampleStore& store() const { return store_; }
  const SampleClock& clock() const { return clock_; }
  int64_t overflows() const { return overflows_; }  // times the hardware's buffer was full and sampling began again
  const std::string& error() const { return error_; }  // why sampling ended before stop(); empty where it did not
  int64_t cpu_ns() const { return cpu_ns_; }           // CPU time of the thread

 private:
  void run();
  void begin();     // the hardware's sampling
  void end();
  bool decode();    // all that is there; true where the buffer was full
  void read_clock();
  void release();

  const cupti_profiler::Api& api() const { return host_->library().api(); }

  std::shared_ptr<const CounterHost> host_;
  const PmSamplingConfig config_;
  std::vector<const char*> names_;
  cupti_profiler::PmSampler sampler_ = nullptr;
  std::optional<TargetSession> session_;
  std::vector<uint8_t> data_;
  std::vector<double> values_;
  int64_t started_ns_ = 0;
  bool first_of_stretch_ = true;
  SampleStore store_;
  SampleClock clock_;
  int64_t overflows_ = 0, cpu_ns_ = 0;
  std::string error_;

  std::thread thread_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
};

}  // namespace perfsuite
