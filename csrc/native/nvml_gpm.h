// One GPU's performance monitoring (GPM): activity and traffic as means over windows, Hopper and later.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "nvml_abi.h"
#include "source.h"

namespace perfsuite {

// NVML computes the metrics from two samples that must lie more than 100 ms apart: that is how often the driver renews
// them, and what it says for less is not valid.
class Gpm {
 public:
  static constexpr int64_t kWindowNs = 100'000'000;
  static constexpr size_t kMetrics = 7;
  struct Metric {
    unsigned id;
    Column column;  // without the GPU's prefix
    double scale;   // from NVML's unit to this one
  };
  static const std::array<Metric, kMetrics>& metrics();

  Gpm(const nvml::Api& api, nvml::Device device) : api_(api), device_(device) {}
  ~Gpm();
  Gpm(const Gpm&) = delete;
  Gpm& operator=(const Gpm&) = delete;

  // Why this GPU has none; empty where it has. `why` words the code that a call returned.
  template <class Why>
  std::string open(const Why& why);

  struct Window {
    bool ended = false;             // false: less than a window since the last sample, and nothing was read
    const char* failed = nullptr;   // the call that failed, with its code
    nvml::Return code = nvml::kSuccess;
    std::array<nvml::GpmMetric, kMetrics> metrics{};  // in the order of metrics(); value only where result is success
  };
  // now_ns() is the clock. The window that ends here began with the last call that ended one, or with the first call.
  template <class Now>
  Window read(const Now& now_ns);

 private:
  Window between(nvml::GpmSample first, nvml::GpmSample second) const;

  const nvml::Api& api_;
  nvml::Device device_;
  nvml::GpmSample newest_ = nullptr, spare_ = nullptr;
  int64_t newest_ns_ = 0;  // it had been taken by then
  bool begun_ = false;
};

template <class Why>
std::string Gpm::open(const Why& why) {
  if (!api_.gpm_support || !api_.gpm_alloc || !api_.gpm_free || !api_.gpm_sample || !api_.gpm_metrics)
    return "GPM: not in this driver's library";
  nvml::GpmSupport support{nvml::kGpmSupportVersion, 0};
  if (const nvml::Return code = api_.gpm_support(device_, &support))
    return why("nvmlGpmQueryDeviceSupport", code);
  if (!support.is_supported) return "GPM: this GPU or its driver does not have it (Hopper and later do, vGPUs do not)";
  for (nvml::GpmSample* sample : {&newest_, &spare_})
    if (const nvml::Return code = api_.gpm_alloc(sample)) return *sample = nullptr, why("nvmlGpmSampleAlloc", code);
  if (const nvml::Return code = api_.gpm_sample(device_, newest_)) return why("nvmlGpmSampleGet", code);
  return {};
}

template <class Now>
Gpm::Window Gpm::read(const Now& now_ns) {
  Window window;
  const int64_t begin_ns = now_ns();
  if (begun_ && begin_ns - newest_ns_ <= kWindowNs) return window;
  window.code = api_.gpm_sample(device_, spare_);
  if (window.code != nvml::kSuccess) {
    window.failed = "nvmlGpmSampleGet";
    return window;
  }
  if (begun_) window = between(newest_, spare_);
  std::swap(newest_, spare_);
  newest_ns_ = now_ns();
  begun_ = true;
  return window;
}

}  // namespace perfsuite
