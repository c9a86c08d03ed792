// CUPTI's counter interfaces, found at run time.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cupti_profiler_abi.h"

namespace perfsuite {

// A call into CUPTI that failed, with one line on why.
class CounterError : public std::runtime_error {
 public:
  CounterError(const std::string& reason, cupti_profiler::Result result) : std::runtime_error(reason), result(result) {}
  const cupti_profiler::Result result;
};

class CounterLibrary {
 public:
  // folder: holds libnvperf_host.so; cupti: what dlopen takes. Throws std::runtime_error. Libraries stay loaded: CUPTI
  // has threads and handlers of its own, and cannot be unloaded safely.
  CounterLibrary(const std::string& folder, const std::string& cupti);

  // CUPTI's own number, 130001 for 13.0 update 1; 0 where it does not say. Safe without a driver in every release.
  uint32_t version() const { return version_; }
  const cupti_profiler::Api& api() const { return api_; }
  const std::string& folder() const { return folder_; }

  // Throws CounterError where `result` is not success.
  void check(cupti_profiler::Result result, const char* call) const;
  // One line on a failed call.
  std::string explain(cupti_profiler::Result result, const char* call) const;

 private:
  std::string folder_;
  cupti_profiler::Api api_;
  uint32_t version_ = 0;
};

// Why no target-side function may be called: without the driver, or before it is initialised, CUPTI's segfault. Empty
// where they may. Initialises the driver.
std::string driver_missing();

// CUPTI's target side between cuptiProfilerInitialize and cuptiProfilerDeInitialize. NVIDIA's own samples ask nothing of a
// device before the first, not even its name. One at a time.
class TargetSession {
 public:
  explicit TargetSession(const CounterLibrary& library);  // throws std::runtime_error
  ~TargetSession();
  TargetSession(const TargetSession&) = delete;
  TargetSession& operator=(const TargetSession&) = delete;

 private:
  const CounterLibrary& library_;
};

// CUDA context of the calling thread, or null where it has none or there is no driver; and the number of its device.
cupti_profiler::Context current_context();
size_t current_device();  // throws std::runtime_error where there is no context

// Name of the chip of CUDA device `device`, e.g. "GH100". Throws std::runtime_error.
std::string chip_of(const CounterLibrary& library, size_t device);

}  // namespace perfsuite
