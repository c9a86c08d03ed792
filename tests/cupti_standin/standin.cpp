// A scripted libcupti.so.13 for the tests: it writes the records of what the test launches into the client's buffers
// and hands them over on a worker thread of its own, as the real one does.
//
// A launch takes a correlation number, and the thread's external correlation id where one was pushed. The device runs
// work in order, each piece right after the one before it. Faults are scripted through standin_fail. What a client must
// not do is counted and described in standin_violation. Compile with -DOMIT_<function> to leave a function out.
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cupti_activity_abi.h"

using namespace perfsuite::cupti;
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr Result kInvalidParameter = 1, kQueueEmpty = 18, kNotInitialised = 15, kMultipleSubscribers = 39;
constexpr int kCustom2 = 5;
constexpr uint32_t kLaunchKernel = 211, kMemcpyAsync = 41, kDeviceSynchronize = 165;  // calls of the runtime

// The calls that this library knows, in the order of their numbers; "" is one of no interest.
std::map<int, std::map<uint32_t, std::string>> g_names{
    {1, {{1, "cuInit"}, {2, "cuLaunchKernel"}, {3, "cuStreamSynchronize"}, {4, "cuMemcpyHtoDAsync_v2"}}},
    {2, {}}};

struct Buffer {
  uint8_t* data;
  size_t bytes, used = 0;
};

struct State {
  std::mutex mutex;
  std::condition_variable changed;
  uint32_t version = 130001;
  void (*requested)(uint8_t**, size_t*, size_t*) = nullptr;
  void (*completed)(void*, uint32_t, uint8_t*, size_t, size_t) = nullptr;
  uint64_t (*clock)() = nullptr;
  std::set<uint32_t> kinds;
  std::set<std::pair<int, uint32_t>> off;  // calls that are left out while their kind is on
  bool all_sync_records = true, zeroed = false, other_client = false;
  void* subscriber = nullptr;
  std::map<std::string, Result> failing;
  std::map<std::thread::id, Buffer> filling;
  std::deque<Buffer> full;
  size_t delivering = 0, dropped = 0, held = 0, most_held = 0, flushes = 0, subscriptions = 0;
  uint32_t correlation = 0;
  uint64_t device_free_ns = 0;
  std::string violation;
  std::thread worker;
};

State& state() {
  static auto& instance = *new State();
  return instance;
}

thread_local std::vector<uint64_t> t_external;
thread_local bool t_in_callback = false;

void violate(const std::string& what) {
  if (state().violation.empty()) state().violation = what;
}

Result scripted(const char* function) {
  State& s = state();
  if (t_in_callback) violate(std::string(function) + " called inside a callback");
  const auto found = s.failing.find(function);
  return found == s.failing.end() ? kSuccess : found->second;
}

void deliver() {
  State& s = state();
  std::unique_lock<std::mutex> lock(s.mutex);
  for (;;) {
    s.changed.wait(lock, [&] { return !s.full.empty(); });
    const Buffer buffer = s.full.front();
    s.full.pop_front();
    ++s.delivering;
    --s.held;
    lock.unlock();
    t_in_callback = true;
    s.completed(nullptr, 0, buffer.data, buffer.bytes, buffer.used);
    t_in_callback = false;
    lock.lock();
    --s.delivering;
    s.changed.notify_all();
  }
}

// Room for a record in the thread's buffer; null where the client has no buffer.
uint8_t* room(State& s, size_t bytes) {
  Buffer& buffer = s.filling[std::this_thread::get_id()];
  if (buffer.data && buffer.used + bytes > buffer.bytes) {
    s.full.push_back(buffer);
    s.changed.notify_all();
    buffer = {};
  }
  if (!buffer.data) {
    size_t max_records = 1;
    t_in_callback = true;
    s.requested(&buffer.data, &buffer.bytes, &max_records);
    t_in_callback = false;
    if (!buffer.data) {
      ++s.dropped;
      return nullptr;
    }
    if (max_records != 0) violate("the client limits the number of records");
    if (reinterpret_cast<uintptr_t>(buffer.data) % 8) violate("a buffer is not aligned to 8 bytes");
    for (size_t i = 0; s.zeroed && i < buffer.bytes; ++i)
      if (buffer.data[i]) return violate("a buffer is not zero"), nullptr;
    if (!s.zeroed) std::memset(buffer.data, 0, buffer.bytes);
    s.most_held = ++s.held > s.most_held ? s.held : s.most_held;
  }
  uint8_t* record = buffer.data + buffer.used;
  buffer.used += bytes;
  return record;
}

template <class Record>
void write(State& s, const Record& record, size_t bytes) {
  if (s.kinds.empty()) violate("a record while nothing is enabled");
  if (uint8_t* place = room(s, bytes)) std::memcpy(place, &record, sizeof record < bytes ? sizeof record : bytes);
}

uint64_t now(State& s) {
  if (s.clock) return s.clock();
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

size_t size_of(uint32_t kind) {
  switch (kind) {
    case kConcurrentKernel: return 216;
    case kMemcpy: return 96;
    case kSynchronization: return 56;
    case kExternalCorrelation: return kExternalCorrelationBytes;
    case kRuntime: case kDriver: return kApiBytes;
    default: return 0;
  }
}

// The record of a call of the runtime, after that of the external id it happens under.
void write_call(State& s, uint32_t cbid, uint32_t correlation, uint64_t start, uint64_t end) {
  if (!s.kinds.count(kRuntime) || s.off.count({2, cbid})) return;
  if (s.kinds.count(kExternalCorrelation) && !t_external.empty())
    write(s, ExternalCorrelationRecord{kExternalCorrelation, kCustom2, t_external.back(), correlation},
          kExternalCorrelationBytes);
  ApiRecord call{};
  call.kind = kRuntime;
  call.cbid = cbid;
  call.start = start;
  call.end = end;
  call.correlation = correlation;
  write(s, call, kApiBytes);
}

}  // namespace

// ---- what the test does

EXPORT void standin_reset() {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  s.version = 130001;
  s.failing.clear();
  s.violation.clear();
  s.other_client = false;
  s.dropped = s.most_held = s.flushes = s.subscriptions = 0;
  for (uint32_t id = 1; id <= 220; ++id) g_names[2][id] = "cudaGetDevice_v" + std::to_string(id);
  g_names[2][kLaunchKernel] = "cudaLaunchKernel_v7000";
  g_names[2][kMemcpyAsync] = "cudaMemcpyAsync_v3020";
  g_names[2][kDeviceSynchronize] = "cudaDeviceSynchronize_v3020";
}
EXPORT void standin_version(uint32_t version) { state().version = version; }
EXPORT void standin_fail(const char* function, int code) { state().failing[function] = code; }
EXPORT void standin_other_client(int there) { state().other_client = there; }

// Launches a kernel that takes duration_ns; returns its correlation number.
EXPORT uint32_t standin_launch(const char* name, uint64_t duration_ns) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  const uint32_t correlation = ++s.correlation;
  const uint64_t begin = now(s);
  const uint64_t start = begin + 1000 > s.device_free_ns ? begin + 1000 : s.device_free_ns;
  s.device_free_ns = start + duration_ns;
  write_call(s, kLaunchKernel, correlation, begin, begin + 500);
  if (!s.kinds.count(kConcurrentKernel)) return correlation;
  KernelRecord kernel{};
  kernel.kind = kConcurrentKernel;
  kernel.registers = 32;
  kernel.start = start;
  kernel.end = s.device_free_ns;
  kernel.stream = 7;
  for (int i = 0; i < 3; ++i) kernel.grid[i] = i + 2, kernel.block[i] = 32 >> i;
  kernel.correlation = correlation;
  static std::set<std::string> names;  // as the real ones, they outlive the record
  kernel.name = names.insert(name).first->c_str();
  write(s, kernel, size_of(kConcurrentKernel));
  return correlation;
}

EXPORT void standin_copy(uint64_t bytes, uint64_t duration_ns, int pinned) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  const uint32_t correlation = ++s.correlation;
  const uint64_t begin = now(s);
  const uint64_t start = begin + 1000 > s.device_free_ns ? begin + 1000 : s.device_free_ns;
  s.device_free_ns = start + duration_ns;
  write_call(s, kMemcpyAsync, correlation, begin, begin + 500);
  if (!s.kinds.count(kMemcpy)) return;
  MemcpyRecord copy{};
  copy.kind = kMemcpy;
  copy.copy = kHtoD;
  copy.source = uint8_t(pinned ? kPinned : kPageable);
  copy.destination = 3;  // device
  copy.bytes = bytes;
  copy.start = start;
  copy.end = s.device_free_ns;
  copy.stream = 7;
  copy.correlation = correlation;
  write(s, copy, size_of(kMemcpy));
}

// Returns when the device's clock has passed its last work: cudaDeviceSynchronize.
EXPORT void standin_synchronize() {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  const uint32_t correlation = ++s.correlation;
  const uint64_t begin = now(s);
  while (now(s) < s.device_free_ns) std::this_thread::yield();
  const uint64_t end = now(s);
  write_call(s, kDeviceSynchronize, correlation, begin, end);
  if (!s.kinds.count(kSynchronization)) return;
  SynchronizationRecord wait{};
  wait.kind = kSynchronization;
  wait.type = kContextSynchronize;
  wait.start = begin;
  wait.end = end;
  wait.correlation = correlation;
  write(s, wait, size_of(kSynchronization));
}

EXPORT const char* standin_violation() { return state().violation.c_str(); }
// "enabled kinds", "calls", ...: what is on now or has happened since the reset.
EXPORT int64_t standin_count(const char* what) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  const std::string name = what;
  if (name == "kinds") return int64_t(s.kinds.size());
  if (name == "calls") {
    int64_t recorded = 0;
    for (const int domain : {1, 2})
      for (const auto& [id, called] : g_names[domain])
        recorded += s.kinds.count(domain == 1 ? kDriver : kRuntime) && !s.off.count({domain, id});
    return recorded;
  }
  if (name == "subscribed") return s.subscriber != nullptr;
  if (name == "subscriptions") return int64_t(s.subscriptions);
  if (name == "zeroed") return s.zeroed;
  if (name == "all_sync_records") return s.all_sync_records;
  if (name == "held") return int64_t(s.held);
  if (name == "most_held") return int64_t(s.most_held);
  if (name == "flushes") return int64_t(s.flushes);
  if (name == "pushed") return int64_t(t_external.size());
  if (name == "clock_ns") return int64_t(now(s));
  return -1;
}

// ---- the library

EXPORT Result cuptiGetVersion(uint32_t* version) { return *version = state().version, scripted("cuptiGetVersion"); }
EXPORT Result cuptiGetResultString(Result code, const char** text) {
  *text = code == kNotInitialised ? "CUPTI_ERROR_NOT_INITIALIZED" : "CUPTI_ERROR_SCRIPTED";
  return kSuccess;
}
EXPORT Result cuptiSubscribe(void** subscriber, void*, void*) {
  State& s = state();
  if (const Result code = scripted("cuptiSubscribe")) return code;
  if (s.subscriber || s.other_client) return kMultipleSubscribers;
  *subscriber = s.subscriber = &s;
  ++s.subscriptions;
  return kSuccess;
}
#ifndef OMIT_cuptiSubscribe_v2
struct Params {
  size_t bytes;
  const char* name;
  char* old_name;
  size_t old_name_bytes;
};
EXPORT Result cuptiSubscribe_v2(void** subscriber, void* callback, void* user, Params* params) {
  if (params->bytes != sizeof *params) return kInvalidParameter;
  if (state().other_client) std::snprintf(params->old_name, params->old_name_bytes, "CUPTI for Scripted");
  return cuptiSubscribe(subscriber, callback, user);
}
#endif
EXPORT Result cuptiUnsubscribe(void* subscriber) {
  State& s = state();
  if (subscriber != s.subscriber) return kInvalidParameter;
  if (!s.kinds.empty()) violate("unsubscribed while something is enabled");
  s.subscriber = nullptr;
  return kSuccess;
}
EXPORT Result cuptiActivityRegisterCallbacks(decltype(State::requested) requested,
                                             decltype(State::completed) completed) {
  State& s = state();
  if (const Result code = scripted("cuptiActivityRegisterCallbacks")) return code;
  std::lock_guard<std::mutex> lock(s.mutex);
  s.requested = requested;
  s.completed = completed;
  if (!s.worker.joinable()) s.worker = std::thread(deliver);
  return kSuccess;
}
EXPORT Result cuptiActivityRegisterTimestampCallback(uint64_t (*clock)()) {
  State& s = state();
  if (!s.kinds.empty()) violate("the clock is changed while something is enabled");
  if (const Result code = scripted("cuptiActivityRegisterTimestampCallback")) return code;
  s.clock = clock;
  s.device_free_ns = 0;
  return kSuccess;
}
EXPORT Result cuptiActivitySetAttribute(int attribute, size_t* bytes, void* value) {
  if (attribute != 5 || *bytes != 1) return kInvalidParameter;
  if (const Result code = scripted("cuptiActivitySetAttribute")) return code;
  state().zeroed = *static_cast<uint8_t*>(value);
  return kSuccess;
}
EXPORT Result cuptiActivityEnable(uint32_t kind) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (kind == kKernel) violate("KERNEL runs kernels one after the other");
  if (!s.requested) violate("enabled before the callbacks were registered");
  if (const Result code = scripted(("cuptiActivityEnable " + std::to_string(kind)).c_str())) return code;
  s.kinds.insert(kind);
  for (const auto& [domain, of] : {std::pair{1, kDriver}, std::pair{2, kRuntime}})  // choices are forgotten
    if (kind == of) s.off.erase(s.off.lower_bound({domain, 0}), s.off.lower_bound({domain + 1, 0}));
  return kSuccess;
}
EXPORT Result cuptiActivityDisable(uint32_t kind) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.kinds.erase(kind)) violate("disables a kind that it had not enabled");
  return kSuccess;
}
[[maybe_unused]] static Result choose(int domain, uint32_t id, uint8_t on) {
  State& s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (!g_names[domain].count(id)) return kInvalidParameter;
  // The real library records nothing of a call that is chosen while its kind is off and a CUDA context is there.
  if (!s.kinds.count(domain == 1 ? kDriver : kRuntime)) violate("chooses among the calls of a kind that is off");
  if (on)
    s.off.erase({domain, id});
  else
    s.off.insert({domain, id});
  return kSuccess;
}
#ifndef OMIT_cuptiActivityEnableDriverApi
EXPORT Result cuptiActivityEnableDriverApi(uint32_t id, uint8_t on) { return choose(1, id, on); }
#endif
#ifndef OMIT_cuptiActivityEnableRuntimeApi
EXPORT Result cuptiActivityEnableRuntimeApi(uint32_t id, uint8_t on) { return choose(2, id, on); }
#endif
EXPORT Result cuptiGetCallbackName(int domain, uint32_t id, const char** name) {
  const auto found = g_names[domain].find(id);
  if (found == g_names[domain].end()) return kInvalidParameter;
  *name = found->second.c_str();
  return kSuccess;
}
EXPORT Result cuptiActivityEnableAllSyncRecords(uint8_t on) { return state().all_sync_records = on, kSuccess; }
EXPORT Result cuptiActivityFlushAll(uint32_t) {
  State& s = state();
  if (const Result code = scripted("cuptiActivityFlushAll")) return code;
  std::unique_lock<std::mutex> lock(s.mutex);
  ++s.flushes;
  for (auto& [thread, buffer] : s.filling)
    if (buffer.data) s.full.push_back(buffer);
  s.filling.clear();
  s.changed.notify_all();
  s.changed.wait(lock, [&] { return s.full.empty() && s.delivering == 0; });
  return kSuccess;
}
EXPORT Result cuptiActivityGetNextRecord(uint8_t* buffer, size_t valid_bytes, void** record) {
  uint8_t* next = buffer;
  if (*record) next = static_cast<uint8_t*>(*record) + size_of(*static_cast<uint32_t*>(*record));
  if (next >= buffer + valid_bytes) return kMaxLimitReached;
  if (size_of(*reinterpret_cast<uint32_t*>(next)) == 0) return kInvalidKind;
  *record = next;
  return kSuccess;
}
EXPORT Result cuptiActivityGetNumDroppedRecords(void*, uint32_t, size_t* dropped) {
  State& s = state();
  if (t_in_callback) violate("asks for dropped records inside a callback");
  std::lock_guard<std::mutex> lock(s.mutex);
  *dropped = s.dropped;
  s.dropped = 0;
  return kSuccess;
}
#ifndef OMIT_cuptiActivityPushExternalCorrelationId
EXPORT Result cuptiActivityPushExternalCorrelationId(int kind, uint64_t id) {
  if (kind != kCustom2) violate("pushes ids of a kind that others use");
  return t_external.push_back(id), kSuccess;
}
#endif
EXPORT Result cuptiActivityPopExternalCorrelationId(int, uint64_t* last) {
  if (t_external.empty()) return violate("pops an id that was not pushed"), kQueueEmpty;
  if (last) *last = t_external.back();
  t_external.pop_back();
  return kSuccess;
}
