// What can be known about counters without a GPU: which metrics a chip has, in how many passes they are collected, the
// image that configures the hardware for them; and the evaluation of what was collected.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "counter_library.h"

namespace perfsuite {

// How metrics are collected: over time, or for each kernel by replaying it.
enum class Collection { kRanges = cupti_profiler::kRangeProfiler, kSampling = cupti_profiler::kPmSampling };

struct MetricProperties {
  std::string description, hw_unit, unit;
  int type;  // kCounter, kRatio or kThroughput
};

std::vector<std::string> supported_chips(const CounterLibrary& library);

// Metrics of one chip.
class CounterHost {
 public:
  // availability: what the device says of itself, empty to plan for a chip that is not here. Throws CounterError.
  CounterHost(std::shared_ptr<const CounterLibrary> library, std::string chip, Collection collection,
              std::vector<uint8_t> availability = {});
  ~CounterHost();
  CounterHost(const CounterHost&) = delete;
  CounterHost& operator=(const CounterHost&) = delete;

  // Of one type, without the roll-up (".sum").
  std::vector<std::string> base_metrics(int type) const;
  MetricProperties properties(const std::string& metric) const;
  // The image for these metrics. Throws CounterError where one of them is unknown.
  std::vector<uint8_t> config_image(const std::vector<std::string>& metrics) const;
  size_t passes(std::vector<uint8_t>& config_image) const;
  // Values of these metrics in range or sample `index` of a counter data image. Throws CounterError. The image must be
  // one that CUPTI made: given another one, CUPTI crashes where it looks for ranges.
  void evaluate(const uint8_t* data, size_t size, size_t index, const std::vector<const char*>& metrics,
                double* values) const;

  const CounterLibrary& library() const { return *library_; }

 private:
  cupti_profiler::Host make() const;
  void destroy(cupti_profiler::Host host) const;

  std::shared_ptr<const CounterLibrary> library_;
  std::string chip_;
  Collection collection_;
  std::vector<uint8_t> availability_;
  cupti_profiler::Host host_ = nullptr;
};

}  // namespace perfsuite
