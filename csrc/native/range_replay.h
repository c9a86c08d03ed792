// Counters of each kernel of a few steps: CUPTI's range profiler, with a range around every launch and the kernel
// replayed until all its metrics are collected.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "counter_host.h"
#include "launch_join.h"

namespace perfsuite {

// As sampling_availability, for the device of the calling thread's CUDA context, of which there must be one.
std::vector<uint8_t> ranges_availability(const CounterLibrary& library);

struct RangeReplayConfig {
  std::vector<std::string> metrics;
  size_t max_ranges;            // launches between two flushes that there is room for
  int64_t (*site)() = nullptr;  // number of the op that the calling thread is in; null: current_launch_site()
};

class RangeReplay {
 public:
  RangeReplay(std::shared_ptr<const CounterHost> host, RangeReplayConfig config);
  ~RangeReplay();
  RangeReplay(const RangeReplay&) = delete;
  RangeReplay& operator=(const RangeReplay&) = delete;

  // All three on one thread, with the CUDA context to be profiled, and with nothing in flight on the device.
  void start();  // throws std::runtime_error and leaves nothing behind
  void flush();  // reads what was measured so far and goes on; nothing where nothing was launched
  void stop();

  const LaunchJoin& join() const { return join_; }
  size_t passes() const { return passes_; }

 private:
  static void on_launch(void* user, int domain, uint32_t callback, const cupti_profiler::CallbackData* data);
  void subscribe();
  void unsubscribe();
  void enable();
  void collect();  // ends the ranges and reads them
  void disable();
  const cupti_profiler::Api& api() const { return host_->library().api(); }

  std::shared_ptr<const CounterHost> host_;
  const RangeReplayConfig config_;
  std::vector<const char*> names_;
  std::vector<uint8_t> image_, data_;
  cupti_profiler::Ranger ranger_ = nullptr;
  cupti_profiler::Subscriber subscriber_ = nullptr;
  std::optional<TargetSession> session_;
  size_t passes_ = 0;
  LaunchJoin join_;

  std::mutex mutex_;  // over what the callbacks write
  std::vector<Launch> launches_;
  int under_way_ = 0;
  uint64_t overlaps_ = 0;  // counts the times that a launch began while another was under way
};

}  // namespace perfsuite
