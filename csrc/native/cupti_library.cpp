#include "cupti_library.h"

#include <dlfcn.h>
#include <link.h>

#include <cstring>
#include <stdexcept>

#include "activity_sums.h"

namespace perfsuite {
namespace {

std::string last_error() {
  const char* error = dlerror();
  return error ? error : "it cannot be loaded";
}

// Why no GPU can be used through this driver; empty where one can.
std::string driver_trouble(const std::string& driver) {
  void* handle = dlopen(driver.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return "no NVIDIA driver: " + last_error();
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(handle, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(dlsym(handle, "cuDeviceGetCount"));
  if (!init || !count) return driver + " is no NVIDIA driver: it has no cuInit";
  if (const int code = init(0)) return "the NVIDIA driver does not start: cuInit returns " + std::to_string(code);
  int devices = 0;
  if (const int code = count(&devices)) return "cuDeviceGetCount returns " + std::to_string(code);
  return devices > 0 ? "" : "the NVIDIA driver sees no GPU";
}

// Path of the libcupti that is in the process; empty where none is. The first one is torch's: torch links to it.
std::string loaded_cupti() {
  std::string path;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* found) {
        const char* name = std::strrchr(info->dlpi_name, '/');
        if (std::strncmp(name ? name + 1 : info->dlpi_name, "libcupti.so", 11) != 0) return 0;
        *static_cast<std::string*>(found) = info->dlpi_name;
        return 1;
      },
      &path);
  return path;
}

void* open_library(const std::vector<std::string>& candidates, bool take_loaded, CuptiLibrary& library) {
  if (take_loaded) library.path = loaded_cupti();
  if (!library.path.empty()) {
    if (void* handle = dlopen(library.path.c_str(), RTLD_NOW | RTLD_NOLOAD)) return handle;
    library.unavailable = "CUPTI is loaded but cannot be used: " + last_error();
    return nullptr;
  }
  library.unavailable = "no libcupti.so in the process or beside torch: install torch with CUDA";
  for (const std::string& candidate : candidates) {
    if (void* handle = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      library.path = candidate;
      return handle;
    }
    library.unavailable = "no CUPTI: " + last_error();
  }
  return nullptr;
}

}  // namespace

std::string CuptiLibrary::why(const std::string& function, cupti::Result code) const {
  const char* text = nullptr;
  if (!api.result_string || api.result_string(code, &text) != cupti::kSuccess || !text)
    return function + ": CUPTI error " + std::to_string(code);
  return function + ": " + text;
}

CuptiLibrary open_cupti(const std::string& driver, const std::vector<std::string>& candidates, bool take_loaded) {
  CuptiLibrary library;
  library.unavailable = driver_trouble(driver);
  if (!library.unavailable.empty()) return library;
  void* handle = open_library(candidates, take_loaded, library);
  if (!handle) return library;
  library.unavailable.clear();

  cupti::Api& api = library.api;
#define PERFSUITE_CUPTI_LOAD(symbol, member, parameters) \
  api.member = reinterpret_cast<decltype(api.member)>(dlsym(handle, #symbol));
#define PERFSUITE_CUPTI_REQUIRE(symbol, member, parameters) \
  if (!api.member && library.unavailable.empty()) library.unavailable = library.path + " has no " #symbol;
  PERFSUITE_CUPTI_FUNCTIONS(PERFSUITE_CUPTI_LOAD)
  PERFSUITE_CUPTI_OPTIONAL_FUNCTIONS(PERFSUITE_CUPTI_LOAD)
  PERFSUITE_CUPTI_SUBSCRIBE_V2(PERFSUITE_CUPTI_LOAD)
  PERFSUITE_CUPTI_FUNCTIONS(PERFSUITE_CUPTI_REQUIRE)
#undef PERFSUITE_CUPTI_LOAD
#undef PERFSUITE_CUPTI_REQUIRE
  if (!library.unavailable.empty()) return library;

  if (const cupti::Result code = api.version(&library.version)) {
    library.unavailable = library.why("cuptiGetVersion", code);
    return library;
  }
  try {
    ActivityLimits small;
    small.pending = small.calls = small.host_events = small.rows = 16;
    ActivitySums(library.version, api.next_record, small);
  } catch (const std::invalid_argument& error) {
    library.unavailable = library.path + ": " + error.what();
  }
  return library;
}

}  // namespace perfsuite
