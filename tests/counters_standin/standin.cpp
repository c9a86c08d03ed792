// A scripted libcupti.so: PM sampling and kernel replay without a GPU. Samples come as time passes, kernels when the test
// launches them. It counts what it is asked to begin and to end.
#include <atomic>
#include <cmath>
#include <cstring>
#include <ctime>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "cupti_profiler_abi.h"

using namespace perfsuite::cupti_profiler;

namespace {

struct Record {
  uint64_t start, end;
  int64_t number;  // of the sample since its stretch began, or of the kernel
};
struct Image {  // counter data
  uint64_t magic, capacity, count;
  Record records[1];
};
constexpr uint64_t kMagic = 0x706572667375;

struct State {
  std::recursive_mutex mutex;
  std::map<std::string, int> fail;  // function -> result
  std::map<std::string, int64_t> calls;
  int64_t offset_ns = 0;     // of CUPTI's clock from ours
  int64_t stamps_off_ns = 0;  // of the samples' clock from CUPTI's
  int64_t overflow_at = -1;  // samples of a stretch that fill the buffer
  uint64_t interval = 0;
  int trigger = -1;
  bool sampling = false;
  uint64_t next = 0, until = 0;
  int64_t number = 0;

  bool ranging = false;
  RangeSetConfig ranges{};
  std::vector<Record> measured;
  int64_t dropped = 0, kernels = 0;
  Callback callback = nullptr;
  void* user = nullptr;
  std::map<uint32_t, bool> enabled;
} g;

int64_t mono() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
uint64_t stamp() { return uint64_t(mono() + g.offset_ns + g.stamps_off_ns); }

Image* image(const uint8_t* data) { return reinterpret_cast<Image*>(const_cast<uint8_t*>(data)); }
size_t image_size(size_t capacity) { return sizeof(Image) + capacity * sizeof(Record); }
void make(uint8_t* data, size_t size) { *image(data) = {kMagic, (size - sizeof(Image)) / sizeof(Record), 0, {}}; }

double value(const std::string& name, const Record& record) {
  const double n = double(record.number);
  if (record.number == 0 && record.end) return 1e18;  // what was counted before sampling began
  if (name == "dram__bytes_read.sum") return 1000 + n;
  if (name.find("hit_rate") != std::string::npos) return record.number % 2 ? 50 : NAN;
  if (name.find("pct") != std::string::npos) return record.number % 2 ? 100 : 0;
  return 7;
}

}  // namespace

#define ENTER(function)                                   \
  std::lock_guard<std::recursive_mutex> lock(g.mutex);    \
  ++g.calls[#function];                                   \
  if (auto found = g.fail.find(#function); found != g.fail.end()) return found->second;

extern "C" {

void standin_fail(const char* function, int result) { g.fail[function] = result; }
void standin_clock(int64_t offset_ns, int64_t stamps_off_ns) {
  g.offset_ns = offset_ns;
  g.stamps_off_ns = stamps_off_ns;
}
void standin_overflow_at(int64_t sample) { g.overflow_at = sample; }
int64_t standin_calls(const char* function) {
  std::lock_guard<std::recursive_mutex> lock(g.mutex);
  return g.calls[function];
}
int standin_trigger() { return g.trigger; }

Result cuptiGetVersion(uint32_t* version) {
  *version = 130001;
  return kSuccess;
}
Result cuptiGetResultString(Result, const char** text) {
  *text = "SCRIPTED";
  return kSuccess;
}
Result cuptiGetTimestamp(uint64_t* t) {
  *t = uint64_t(mono() + g.offset_ns);
  return kSuccess;
}
Result cuptiProfilerHostInitialize(HostInitialize* p) {
  ENTER(cuptiProfilerHostInitialize)
  p->host = new int;
  return kSuccess;
}
Result cuptiProfilerHostDeinitialize(HostDeinitialize* p) {
  ENTER(cuptiProfilerHostDeinitialize)
  delete static_cast<int*>(p->host);
  return kSuccess;
}
Result cuptiProfilerHostGetSupportedChips(HostGetSupportedChips* p) {
  static const char* const names[] = {"GH100"};
  p->count = 1;
  p->names = names;
  return kSuccess;
}
Result cuptiProfilerHostGetMetricProperties(HostGetMetricProperties* p) {
  return std::strncmp(p->name, "nvl", 3) ? kSuccess : kInvalidMetricName;
}
Result cuptiProfilerHostConfigAddMetrics(HostConfigAddMetrics*) { return kSuccess; }
Result cuptiProfilerHostGetConfigImageSize(HostGetConfigImageSize* p) {
  p->size = 8;
  return kSuccess;
}
Result cuptiProfilerHostGetConfigImage(HostGetConfigImage*) { return kSuccess; }
Result cuptiProfilerHostGetNumOfPasses(HostGetNumOfPasses* p) {
  p->passes = 1;
  return kSuccess;
}
Result cuptiProfilerHostEvaluateToGpuValues(HostEvaluate* p) {
  ENTER(cuptiProfilerHostEvaluateToGpuValues)
  const Image* data = image(p->data);
  if (data->magic != kMagic || p->index >= data->count) return kInvalidParameter;
  for (size_t i = 0; i < p->count; ++i) p->values[i] = value(p->names[i], data->records[p->index]);
  return kSuccess;
}
Result cuptiDeviceGetChipName(DeviceGetChipName* p) {
  p->name = "GH100";
  return kSuccess;
}
Result cuptiProfilerInitialize(ProfilerInitialize*) {
  ENTER(cuptiProfilerInitialize)
  return kSuccess;
}
Result cuptiProfilerDeInitialize(ProfilerDeInitialize*) {
  ENTER(cuptiProfilerDeInitialize)
  return kSuccess;
}
Result cuptiProfilerGetCounterAvailability(ProfilerGetAvailability* p) {
  ENTER(cuptiProfilerGetCounterAvailability)
  p->size = 8;
  return kSuccess;
}
Result cuptiPmSamplingGetCounterAvailability(PmGetAvailability* p) {
  ENTER(cuptiPmSamplingGetCounterAvailability)
  p->size = 8;
  return kSuccess;
}

Result cuptiPmSamplingEnable(PmEnable* p) {
  ENTER(cuptiPmSamplingEnable)
  p->sampler = &g;
  return kSuccess;
}
Result cuptiPmSamplingDisable(PmDisable*) {
  ENTER(cuptiPmSamplingDisable)
  return g.sampling ? kInvalidOperation : kSuccess;
}
Result cuptiPmSamplingSetConfig(PmSetConfig* p) {
  ENTER(cuptiPmSamplingSetConfig)
  g.interval = p->interval;
  g.trigger = p->trigger;
  return p->append == kKeepOldest && p->hardware_buffer_bytes ? kSuccess : kInvalidParameter;
}
Result cuptiPmSamplingGetCounterDataSize(PmGetDataSize* p) {
  ENTER(cuptiPmSamplingGetCounterDataSize)
  p->size = image_size(p->max_samples);
  return kSuccess;
}
Result cuptiPmSamplingCounterDataImageInitialize(PmInitializeData* p) {
  ENTER(cuptiPmSamplingCounterDataImageInitialize)
  make(p->data, p->size);
  return kSuccess;
}
Result cuptiPmSamplingStart(PmStart*) {
  ENTER(cuptiPmSamplingStart)
  if (g.sampling) return kInvalidOperation;
  g.sampling = true;
  g.next = stamp();
  g.number = 0;
  return kSuccess;
}
Result cuptiPmSamplingStop(PmStop*) {
  ENTER(cuptiPmSamplingStop)
  if (!g.sampling) return kInvalidOperation;
  g.sampling = false;
  g.until = stamp();
  return kSuccess;
}
Result cuptiPmSamplingDecodeData(PmDecode* p) {
  ENTER(cuptiPmSamplingDecodeData)
  Image* data = image(p->data);
  const uint64_t until = g.sampling ? stamp() : g.until;
  p->stop_reason = kStopEndOfRecords;
  while (g.next + g.interval <= until) {
    if (g.number == g.overflow_at) {
      p->overflow = 1;
      return kOutOfMemory;
    }
    if (data->count == data->capacity) {
      p->stop_reason = kStopImageFull;
      break;
    }
    data->records[data->count++] = {g.next, g.next + g.interval, g.number++};
    g.next += g.interval;
  }
  return kSuccess;
}
Result cuptiPmSamplingGetCounterDataInfo(PmDataInfo* p) {
  p->total = image(p->data)->capacity;
  p->populated = p->completed = image(p->data)->count;
  return kSuccess;
}
Result cuptiPmSamplingCounterDataGetSampleInfo(PmSampleInfo* p) {
  p->start = image(p->data)->records[p->index].start;
  p->end = image(p->data)->records[p->index].end;
  return kSuccess;
}

Result cuptiRangeProfilerEnable(RangeEnable* p) {
  ENTER(cuptiRangeProfilerEnable)
  p->ranger = &g;
  return p->context ? kSuccess : kInvalidParameter;
}
Result cuptiRangeProfilerDisable(RangeDisable*) {
  ENTER(cuptiRangeProfilerDisable)
  g.ranging = false;
  return kSuccess;
}
Result cuptiRangeProfilerSetConfig(RangeSetConfig* p) {
  ENTER(cuptiRangeProfilerSetConfig)
  g.ranges = *p;
  return p->range == kAutoRange && p->replay == kKernelReplay ? kSuccess : kInvalidParameter;
}
Result cuptiRangeProfilerGetCounterDataSize(RangeGetDataSize* p) {
  ENTER(cuptiRangeProfilerGetCounterDataSize)
  p->size = image_size(p->max_ranges);
  return p->max_tree_nodes >= p->max_ranges ? kSuccess : kInvalidParameter;
}
Result cuptiRangeProfilerCounterDataImageInitialize(RangeInitializeData* p) {
  ENTER(cuptiRangeProfilerCounterDataImageInitialize)
  make(p->data, p->size);
  return kSuccess;
}
Result cuptiRangeProfilerStart(RangeStart*) {
  ENTER(cuptiRangeProfilerStart)
  g.ranging = true;
  g.measured.clear();
  g.dropped = 0;
  return kSuccess;
}
Result cuptiRangeProfilerStop(RangeStop* p) {
  ENTER(cuptiRangeProfilerStop)
  g.ranging = false;
  p->all_passes_submitted = 1;
  return kSuccess;
}
Result cuptiRangeProfilerDecodeData(RangeDecode* p) {
  ENTER(cuptiRangeProfilerDecodeData)
  Image* data = image(g.ranges.data);
  // Not in the order of execution, which is in the ranges' names alone.
  for (auto it = g.measured.rbegin(); it != g.measured.rend(); ++it) data->records[data->count++] = *it;
  p->dropped = size_t(g.dropped);
  return kSuccess;
}
Result cuptiRangeProfilerGetCounterDataInfo(RangeDataInfo* p) {
  p->total = image(p->data)->count;
  return kSuccess;
}
Result cuptiRangeProfilerCounterDataGetRangeInfo(RangeInfo* p) {
  static std::map<int64_t, std::string> names;
  const int64_t number = image(p->data)->records[p->index].number;
  names[number] = std::to_string(number);
  p->name = names[number].c_str();
  return kSuccess;
}

Result cuptiSubscribe(Subscriber* subscriber, Callback callback, void* user) {
  ENTER(cuptiSubscribe)
  g.callback = callback;
  g.user = user;
  *subscriber = &g;
  return kSuccess;
}
Result cuptiUnsubscribe(Subscriber) {
  ENTER(cuptiUnsubscribe)
  g.callback = nullptr;
  g.enabled.clear();
  return kSuccess;
}
Result cuptiEnableCallback(uint32_t enable, Subscriber, int domain, uint32_t callback) {
  ENTER(cuptiEnableCallback)
  g.enabled[callback] = enable;
  return domain == kDriverApi ? kSuccess : kInvalidParameter;
}

// One end of a launch of `callback`'s kind: `site` kApiEnter, then kApiExit with the driver's result. `slot` holds what
// the subscriber keeps between the two.
void standin_launch(uint32_t callback, int site, const char* symbol, int result, uint64_t* slot) {
  CallbackData data{};
  data.site = site;
  data.symbol = symbol;
  data.return_value = &result;
  data.correlation_data = slot;
  if (g.callback && g.enabled[callback]) g.callback(g.user, kDriverApi, callback, &data);
  if (site != kApiExit || result != 0 || !g.ranging) return;
  if (g.measured.size() < g.ranges.max_ranges_per_pass)
    g.measured.push_back({0, 0, g.kernels++});
  else
    ++g.dropped;
}
}
