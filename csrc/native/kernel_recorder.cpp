#include "kernel_recorder.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <ctime>
#include <deque>
#include <limits>
#include <stdexcept>

#include "activity_buffers.h"
#include "clock.h"
#include "phases.h"

namespace perfsuite {
namespace {

// The observer of one recording. Kept for the life of the process: an op that began in a recording tells its end to
// the same observer, however late that is.
struct Observer : LaunchObserver {
  decltype(cupti::Api::push_external_id) push;
  decltype(cupti::Api::pop_external_id) pop;
  std::shared_ptr<ActivitySums> sums;
  int32_t data_phase = -1;
  std::vector<int32_t> devices;
  mutable bool begun = false;  // the account

  void account_from(int64_t t_ns) const {
    if (begun) return;
    begun = true;
    sums->start(t_ns, data_phase);
    for (const int32_t device : devices) sums->expect_device(device);
  }
};

std::atomic<const Observer*> g_current{nullptr};  // of the recording that runs and is not paused
std::atomic<bool> g_taken{false};                 // a recorder runs in this process
std::atomic<bool> g_asked_for_time{false};

Observer& new_observer() {
  static auto& all = *new std::deque<Observer>();
  // An op on another thread may still be telling its end to the last one, but hardly to the one before it.
  for (Observer& old : all)
    if (&old != &all.back()) old.sums.reset();
  return all.emplace_back();
}

void op_begins(const LaunchObserver* self, int64_t t_ns, uint64_t site, bool outermost) {
  const Observer* observer = static_cast<const Observer*>(self);
  observer->push(cupti::kCustom2, site);
  if (outermost && g_current.load(std::memory_order_acquire) == observer) observer->sums->host().op(t_ns, 1);
}

// Also for a recording that has ended: a number that stays would be that of all later launches of the thread.
void op_ends(const LaunchObserver* self, int64_t t_ns, bool outermost) {
  const Observer* observer = static_cast<const Observer*>(self);
  observer->pop(cupti::kCustom2, nullptr);
  if (outermost && g_current.load(std::memory_order_acquire) == observer) observer->sums->host().op(t_ns, -1);
}

void phase_changes(int64_t t_ns, int32_t phase) {
  if (const Observer* observer = g_current.load(std::memory_order_acquire)) observer->sums->host().phase(t_ns, phase);
}

void clock_starts(int64_t t_ns) {
  if (const Observer* observer = g_current.load(std::memory_order_acquire)) observer->account_from(t_ns);
}

void observe(const Observer* observer) {
  static const PhaseObserver phases{clock_starts, phase_changes};
  g_current.store(observer, std::memory_order_release);
  set_launch_observer(observer);
  set_phase_observer(observer ? &phases : nullptr);
}

// A forked process has no CUPTI thread, and its locks may be held for ever: workers that load data record nothing.
void forget_in_forked_processes() {
  static const int once = pthread_atfork(nullptr, nullptr, [] { observe(nullptr); });
  (void)once;
}

uint64_t monotonic() {
  g_asked_for_time.store(true, std::memory_order_relaxed);
  return uint64_t(now_ns());
}

// What CUPTI uses on Linux when nobody registers a clock. A registered one stays until another is, so this is given
// back: the next client would find its records on our clock.
uint64_t real_time() {
  timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return uint64_t(t.tv_sec) * 1'000'000'000 + uint64_t(t.tv_nsec);
}

// Whether a driver or runtime function of this name gives the device work, "cuLaunchKernelEx", "cudaMemcpyAsync_v3020",
// or waits for it, "cuStreamSynchronize".
bool is_of_interest(const char* name) {
  if (std::strstr(name, "Synchronize")) return true;
  while (*name == '_') ++name;
  for (const char* prefix : {"cuda", "cu64", "cu"}) {
    if (std::strncmp(name, prefix, std::strlen(prefix)) != 0) continue;
    name += std::strlen(prefix);
    break;
  }
  for (const char* work : {"Launch", "Memcpy", "Memset", "GraphLaunch"})
    if (std::strncmp(name, work, std::strlen(work)) == 0) return true;
  return false;
}

struct Kind {
  uint32_t kind;
  const char* name;
  bool needed;  // without the others there is less to see
};
// Those that say where work comes from first, so that no work is seen without its origin.
constexpr Kind kKinds[] = {
    {cupti::kExternalCorrelation, "external correlation", true},
    {cupti::kSynchronization, "synchronisation", false},
    {cupti::kOverhead, "overhead", false},
    {cupti::kMemset, "memset", true},
    {cupti::kMemcpy, "memcpy", true},
    {cupti::kMemcpyPeer, "memcpy between GPUs", false},
    {cupti::kConcurrentKernel, "kernels", true},
};

}  // namespace

struct KernelRecorder::Recording {
  Observer* observer = nullptr;
  KernelData data;
  int64_t paused_ns = 0, pause_began_ns = 0;  // pause_began_ns 0: not paused
  int64_t slices_from_ns = 0;
  size_t slices_limit = 0;

  ActivitySums& sums() { return *observer->sums; }
};

KernelRecorder::KernelRecorder(CuptiLibrary library) : library_(std::move(library)) {}

KernelRecorder::~KernelRecorder() {
  try {
    if (recording_) stop(now_ns());
  } catch (const std::exception&) {
    // Nobody asks for the sums.
  }
}

void KernelRecorder::check(const char* function, cupti::Result code) const {
  if (code != cupti::kSuccess) throw std::runtime_error(library_.why(function, code));
}

void KernelRecorder::start(int32_t data_phase, const std::vector<int32_t>& devices, bool with_clock) {
  if (g_taken.exchange(true)) throw std::runtime_error("a kernel recorder is already running in this process");
  try {
    subscribe();
    // Before anything is enabled: records keep the clock that they began with.
    check("cuptiActivityRegisterTimestampCallback", library_.api.register_timestamp(monotonic));
    check("cuptiActivityRegisterCallbacks",
          library_.api.register_callbacks(ActivityBuffers::requested, ActivityBuffers::completed));
  } catch (...) {
    give_back();
    throw;
  }
  forget_in_forked_processes();

  ActivityLimits limits;
  limits.external_kind = cupti::kCustom2;
  auto recording = std::make_unique<Recording>();
  recording->observer = &new_observer();
  Observer& observer = *recording->observer;
  observer.begin = op_begins;
  observer.end = op_ends;
  observer.push = library_.api.push_external_id;
  observer.pop = library_.api.pop_external_id;
  observer.sums = std::make_shared<ActivitySums>(library_.version, library_.api.next_record, limits);
  observer.data_phase = data_phase;
  observer.devices = devices;
  recording_ = std::move(recording);
  if (const PhaseClock* clock = active_clock()) observer.sums->host().phase(now_ns(), clock->current());

  // Not through recording_, which stop() takes while the buffers' thread still runs.
  ActivitySums& sums = *observer.sums;
  ActivityBuffers::instance().start({[&sums](uint8_t* buffer, size_t bytes) { sums.consume(buffer, bytes); },
                                     [this, &sums] {
                                       flush(0);
                                       count_dropped(sums);
                                     },
                                     library_.version >= cupti::kRefusesBuffers});
  g_asked_for_time = false;
  observe(&observer);
  try {
    enable();
  } catch (...) {
    observe(nullptr);
    disable();
    flush(cupti::kFlushForced);
    ActivityBuffers::instance().stop();
    recording_.reset();
    give_back();
    throw;
  }
  if (!with_clock) observer.account_from(now_ns());
}

void KernelRecorder::subscribe() {
  // No callback is enabled: the subscription is held so that two clients do not disturb each other unseen.
  const auto ignore = [](void*, int, uint32_t, const void*) {};
  char holder[cupti::kOldNameBytes] = "";
  cupti::Result code;
  if (library_.api.subscribe_v2) {
    cupti::SubscriberParams params{sizeof params, "perfsuite", holder, sizeof holder};
    code = library_.api.subscribe_v2(&subscriber_, ignore, nullptr, &params);
  } else {
    code = library_.api.subscribe(&subscriber_, ignore, nullptr);
  }
  if (code == cupti::kSuccess) return;
  subscriber_ = nullptr;
  if (code != cupti::kMultipleSubscribers) check("cuptiSubscribe", code);
  throw std::runtime_error("another CUPTI client holds the GPU's activity records" +
                           (*holder ? " (" + std::string(holder) + ")" : std::string()) +
                           ": torch.profiler after its first use with CUDA, Nsight or Proton; run without it");
}

void KernelRecorder::enable() {
  // Older libraries know neither; they clear buffers themselves and record queries too.
  size_t bytes = 1;
  uint8_t on = 1;
  library_.api.set_attribute(cupti::kZeroedBuffers, &bytes, &on);
  if (library_.api.enable_all_sync_records) library_.api.enable_all_sync_records(0);
  enable_calls();
  for (const Kind& kind : kKinds) {
    const cupti::Result code = library_.api.enable(kind.kind);
    if (code == cupti::kSuccess)
      kinds_.push_back(kind.kind);
    else if (kind.needed)
      throw std::runtime_error(library_.why("cuptiActivityEnable for " + std::string(kind.name), code));
    else
      note("not recorded: " + std::string(kind.name) + " (" + library_.why("cuptiActivityEnable", code) + ")");
  }
}

// The kind first, then all but what is of interest off: CUPTI forgets the choices of a kind that is enabled again, and
// calls of the runtime that are chosen alone, without their kind, are not recorded once there is a CUDA context.
// By name: there are more of them in each version.
void KernelRecorder::enable_calls() {
  const cupti::Api& api = library_.api;
  constexpr uint32_t kManyCalls = 1 << 14;  // a library that knows every number would never end the loop
  for (const int domain : {cupti::kDriverApi, cupti::kRuntimeApi}) {
    const uint32_t kind = domain == cupti::kDriverApi ? cupti::kDriver : cupti::kRuntime;
    check("cuptiActivityEnable for API calls", api.enable(kind));
    kinds_.push_back(kind);
    const auto choose = domain == cupti::kDriverApi ? api.enable_driver_api : api.enable_runtime_api;
    size_t left_out = 0;
    const char* name = nullptr;
    for (uint32_t id = 1; api.callback_name && choose && id < kManyCalls; ++id) {
      if (api.callback_name(domain, id, &name) != cupti::kSuccess || !name) break;
      left_out += !is_of_interest(name) && choose(id, 0) == cupti::kSuccess;
    }
    if (left_out == 0) note("this CUPTI records all API calls or none: all are recorded, at a higher cost");
  }
}

// Once: enable() runs again after a pause.
void KernelRecorder::note(const std::string& text) {
  std::vector<std::string>& notes = recording_->data.notes;
  if (std::find(notes.begin(), notes.end(), text) == notes.end()) notes.push_back(text);
}

void KernelRecorder::disable() {
  for (auto kind = kinds_.rbegin(); kind != kinds_.rend(); ++kind) library_.api.disable(*kind);
  kinds_.clear();
  if (library_.api.enable_all_sync_records) library_.api.enable_all_sync_records(1);
}

void KernelRecorder::give_back() {
  size_t bytes = 1;
  uint8_t off = 0;
  library_.api.set_attribute(cupti::kZeroedBuffers, &bytes, &off);
  if (subscriber_) {
    library_.api.register_timestamp(real_time);
    library_.api.unsubscribe(subscriber_);
  }
  subscriber_ = nullptr;
  g_taken = false;
}

cupti::Result KernelRecorder::flush(uint32_t flag) {
  std::lock_guard<std::mutex> lock(flush_mutex_);
  return library_.api.flush_all(flag);
}

void KernelRecorder::count_dropped(ActivitySums& sums) {
  size_t dropped = 0;
  if (library_.api.num_dropped(nullptr, 0, &dropped) == cupti::kSuccess && dropped > 0) sums.dropped(dropped);
}

void KernelRecorder::pause() {
  if (!recording_) throw std::runtime_error("the kernel recorder is not running");
  if (recording_->pause_began_ns != 0) throw std::runtime_error("the kernel recorder is paused already");
  observe(nullptr);
  disable();
  recording_->pause_began_ns = now_ns();
}

void KernelRecorder::resume() {
  if (!recording_ || recording_->pause_began_ns == 0) throw std::runtime_error("the kernel recorder is not paused");
  recording_->paused_ns += now_ns() - recording_->pause_began_ns;
  recording_->pause_began_ns = 0;
  observe(recording_->observer);
  enable();
}

void KernelRecorder::begin_slices(size_t limit) {
  if (!recording_) throw std::runtime_error("the kernel recorder is not running");
  recording_->slices_from_ns = now_ns();
  recording_->slices_limit = limit;
  recording_->sums().keep_slices(recording_->slices_from_ns, std::numeric_limits<int64_t>::max(), limit);
}

void KernelRecorder::end_slices() {
  if (!recording_) throw std::runtime_error("the kernel recorder is not running");
  if (recording_->slices_limit == 0) return;
  recording_->sums().keep_slices(recording_->slices_from_ns, now_ns(), recording_->slices_limit);
  recording_->slices_limit = 0;
}

KernelData KernelRecorder::stop(int64_t stop_ns) {
  if (!recording_) throw std::runtime_error("the kernel recorder is not running");
  const auto recording = std::move(recording_);
  KernelData& data = recording->data;
  if (recording->pause_began_ns != 0) recording->paused_ns += now_ns() - recording->pause_began_ns;
  recording->observer->account_from(stop_ns);  // where no clock has started
  recording->sums().stop(stop_ns);
  observe(nullptr);
  disable();
  const cupti::Result flushed = flush(cupti::kFlushForced);
  if (flushed != cupti::kSuccess)
    data.notes.push_back("records may be missing: " + library_.why("cuptiActivityFlushAll", flushed));
  ActivityBuffers& buffers = ActivityBuffers::instance();
  const size_t held = buffers.stop();
  count_dropped(recording->sums());
  give_back();
  if (held > 0) data.notes.push_back(std::to_string(held) + " buffers did not come back from CUPTI: records are lost");
  if (recording->paused_ns > 0)
    data.notes.push_back("paused for " + std::to_string(recording->paused_ns) + " ns, which count as idle");
  data.buffers_most_held = int64_t(buffers.most_held());
  data.sums = recording->sums().finish(stop_ns);
  if (data.sums.records > 0 && !g_asked_for_time)
    data.notes.push_back("CUPTI did not ask for perfsuite's clock: another client has registered its own");
  return std::move(data);
}

}  // namespace perfsuite
