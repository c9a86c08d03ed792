#include "counter_library.h"

#include <dlfcn.h>

namespace perfsuite {
namespace {

namespace abi = cupti_profiler;

void* open_or_throw(const std::string& name, int flags) {
  void* handle = dlopen(name.c_str(), flags);
  if (!handle) throw std::runtime_error(dlerror());
  return handle;
}

void* driver() {
  static void* const handle = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return handle;
}

}  // namespace

CounterLibrary::CounterLibrary(const std::string& folder, const std::string& cupti) : folder_(folder) {
  // CUPTI looks for this one by name in what is loaded already.
  open_or_throw(folder + "/libnvperf_host.so", RTLD_NOW | RTLD_GLOBAL);
  void* handle = open_or_throw(cupti, RTLD_NOW | RTLD_LOCAL);
#define PERFSUITE_CUPTI_FIND(symbol, member, parameters)                                \
  api_.member = reinterpret_cast<decltype(api_.member)>(dlsym(handle, #symbol));        \
  if (!api_.member) throw std::runtime_error(cupti + " has no " #symbol ": it is too old");
  PERFSUITE_CUPTI_PROFILER_FUNCTIONS(PERFSUITE_CUPTI_FIND)
#undef PERFSUITE_CUPTI_FIND
  if (api_.version(&version_) != abi::kSuccess) version_ = 0;
}

std::string CounterLibrary::explain(abi::Result result, const char* call) const {
  switch (result) {
    case abi::kInsufficientPrivileges:
    case abi::kVirtualizedInsufficientPrivileges:
      return "this user may not read GPU counters: run as root, or load the driver with "
             "NVreg_RestrictProfilingToAdminUsers=0";
    case abi::kMultipleSubscribers:
      return "another CUPTI client (a profiler or debugger) is active in this process: stop it first";
    case abi::kHardwareBusy:
      return "another process is using this GPU's counters: stop it first";
    case abi::kMigDevice:
      return "this GPU is split by MIG, where CUPTI reads no counters";
    case abi::kConfidentialComputing:
      return "confidential computing is on, where CUPTI reads no counters";
    case abi::kInvalidChipName:
      return "this CUPTI does not know the chip: a newer release may";
    default:
      break;
  }
  const char* text = nullptr;
  if (api_.result_string(result, &text) != abi::kSuccess || !text) text = "unknown error";
  return std::string(call) + " failed: " + text + " (" + std::to_string(result) + ")";
}

void CounterLibrary::check(abi::Result result, const char* call) const {
  if (result != abi::kSuccess) throw CounterError(explain(result, call), result);
}

std::string driver_missing() {
  if (!driver()) return "there is no NVIDIA driver here (no libcuda.so.1)";
  using Init = int (*)(unsigned);
  const auto init = reinterpret_cast<Init>(dlsym(driver(), "cuInit"));
  if (!init) return "libcuda.so.1 has no cuInit";
  const int result = init(0);
  if (result == 100) return "the driver finds no GPU";
  return result == 0 ? "" : "the driver does not start: cuInit returned " + std::to_string(result);
}

TargetSession::TargetSession(const CounterLibrary& library) : library_(library) {
  const std::string missing = driver_missing();
  if (!missing.empty()) throw std::runtime_error(missing);
  // CUPTI loads it by name: the one beside it, not one of another release that the linker finds first.
  dlopen((library.folder() + "/libnvperf_target.so").c_str(), RTLD_NOW | RTLD_GLOBAL);
  auto p = abi::params<abi::ProfilerInitialize>();
  library.check(library.api().initialize(&p), "cuptiProfilerInitialize");
}

TargetSession::~TargetSession() {
  auto p = abi::params<abi::ProfilerDeInitialize>();
  library_.api().deinitialize(&p);
}

abi::Context current_context() {
  if (!driver()) return nullptr;
  using Get = int (*)(abi::Context*);
  const auto get = reinterpret_cast<Get>(dlsym(driver(), "cuCtxGetCurrent"));
  abi::Context context = nullptr;
  return get && get(&context) == 0 ? context : nullptr;
}

size_t current_device() {
  using Get = int (*)(int*);
  const auto get = driver() ? reinterpret_cast<Get>(dlsym(driver(), "cuCtxGetDevice")) : nullptr;
  int device = 0;
  if (!get || get(&device) != 0) throw std::runtime_error("this thread has no CUDA context");
  return size_t(device);
}

std::string chip_of(const CounterLibrary& library, size_t device) {
  const TargetSession session(library);
  auto p = abi::params<abi::DeviceGetChipName>();
  p.device = device;
  library.check(library.api().chip_name(&p), "cuptiDeviceGetChipName");
  return p.name ? p.name : "";
}

}  // namespace perfsuite
