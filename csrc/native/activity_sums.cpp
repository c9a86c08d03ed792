#include "activity_sums.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <map>
#include <mutex>
#include <stdexcept>

#include "activity_rows.h"
#include "call_table.h"
#include "kernel_names.h"
#include "work_records.h"

namespace perfsuite {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
constexpr uint32_t kMaxDevice = 1023;

constexpr const char* kCopyNames[] = {"unknown", "HtoD", "DtoH", "HtoA", "AtoH", "AtoA",
                                      "AtoD",    "DtoA", "DtoD", "HtoH", "PtoP"};
constexpr const char* kSyncNames[] = {"unknown", "event_synchronize", "stream_wait_event", "stream_synchronize",
                                      "context_synchronize"};

template <size_t N>
const char* name_in(const char* const (&names)[N], uint32_t i) {
  return names[i < N ? i : 0];
}

const char* overhead_name(uint32_t kind) {
  if (kind == cupti::kOverheadDriverCompiler) return "driver_compiler";
  return name_in(cupti::kOverheadNames, kind % 65536 == 0 ? kind / 65536 : 0);
}

template <size_t N>
bool contains(const uint32_t (&calls)[N], uint32_t cbid) {
  return std::find(std::begin(calls), std::end(calls), cbid) != std::end(calls);
}

}  // namespace

struct ActivitySums::Impl {
  Impl(uint32_t version, GetNextRecord next, const ActivityLimits& limits)
      : limits(limits),
        reader(version, next),
        host(limits.host_events),
        syncs(limits.host_events, 0),
        calls(limits.calls),
        names(limits.rows),
        rows(limits.rows) {}

  const ActivityLimits limits;
  const ActivityReader reader;
  HostTimeline host;

  std::mutex mutex;  // of all that follows
  StepFunction syncs;  // how many threads wait for the device
  CallTable calls;
  KernelNames names;
  RowTable rows;
  std::map<int32_t, DeviceTimeline> devices;
  DeviceTimeline* last_device = nullptr;
  int32_t busy_device = -1;  // whose busy time is kept by interval
  BusyIntervals busy;
  std::map<std::string, NamedSum> sync_sums, overhead_sums;
  ActivityData data;
  bool started = false, finished = false;
  int64_t start_ns = 0, stop_ns = kForever;
  int32_t data_phase = -1;
  int64_t newest_ns = 0;         // latest end of a record
  int64_t last_account_ns = 0;   // up to where account() went
  int64_t slices_from_ns = 0, slices_to_ns = 0;
  size_t slices_limit = 0;
  size_t near_launch = 0;

  // Reading.

  DeviceTimeline& device(int32_t ordinal) {
    if (!last_device || last_device->device() != ordinal)
      last_device = &devices.try_emplace(ordinal, ordinal, start_ns).first->second;
    if (busy_device < 0) busy_device = ordinal;
    return *last_device;
  }

  void add(const DeviceWork& work, uint32_t ordinal) {
    // CUPTI gives times of 0 where it could not collect them.
    if (work.start_ns <= 0 || work.end_ns < work.start_ns || ordinal > kMaxDevice) {
      ++data.untimed;
      return;
    }
    newest_ns = std::max(newest_ns, work.end_ns);
    DeviceTimeline& timeline = device(int32_t(ordinal));
    timeline.add(work);
    if (timeline.pending() < limits.pending) return;
    ++data.shortened;
    account(timeline.median_start_ns());
  }

  template <class Record>
  void work(const void* record) {
    const auto& r = *static_cast<const Record*>(record);
    add(work_of(r, names), r.device);
  }

  void call(const cupti::ApiRecord& record) {
    const int64_t start = int64_t(record.start), end = int64_t(record.end);
    if (start <= 0) return;
    calls.begin(record.correlation, start);
    if (end < start) return;
    newest_ns = std::max(newest_ns, end);
    if (record.kind == cupti::kRuntime ? contains(cupti::kRuntimeSyncCalls, record.cbid)
                                       : contains(cupti::kDriverSyncCalls, record.cbid))
      waited(start, end);
  }

  void waited(int64_t start, int64_t end) {
    if (std::max(start, start_ns) < last_account_ns && end > start_ns) ++data.late_syncs;
    syncs.append(start, +1);
    syncs.append(end, -1);
  }

  void synchronization(const cupti::SynchronizationRecord& record) {
    const int64_t start = int64_t(record.start), end = int64_t(record.end);
    if (start <= 0 || end < start) return;
    newest_ns = std::max(newest_ns, end);
    sum_up(sync_sums, name_in(kSyncNames, record.type), start, end);
    if (record.type == cupti::kEventSynchronize || record.type == cupti::kStreamSynchronize ||
        record.type == cupti::kContextSynchronize)
      waited(start, end);
  }

  void overhead(const cupti::OverheadRecord& record) {
    sum_up(overhead_sums, overhead_name(record.overhead), int64_t(record.start), int64_t(record.end));
  }

  // Those that overlap the account, cut to it.
  void sum_up(std::map<std::string, NamedSum>& sums, const char* name, int64_t start, int64_t end) {
    if (start <= 0 || end < start || end <= start_ns || start >= stop_ns) return;
    NamedSum& sum = sums[name];
    ++sum.count;
    sum.time_ns += std::min(end, stop_ns) - std::max(start, start_ns);
  }

  void read(uint8_t* buffer, size_t valid_bytes) {
    const bool whole = reader.read(buffer, valid_bytes, [this](uint32_t kind, const void* record) {
      ++data.records;
      switch (kind) {
        case cupti::kKernel:
        case cupti::kConcurrentKernel: return work<cupti::KernelRecord>(record);
        case cupti::kMemcpy: return work<cupti::MemcpyRecord>(record);
        case cupti::kMemcpyPeer: return work<cupti::MemcpyPeerRecord>(record);
        case cupti::kMemset: return work<cupti::MemsetRecord>(record);
        case cupti::kGraphTrace: return work<cupti::GraphTraceRecord>(record);
        case cupti::kDriver:
        case cupti::kRuntime: return call(*static_cast<const cupti::ApiRecord*>(record));
        case cupti::kSynchronization:
          return synchronization(*static_cast<const cupti::SynchronizationRecord*>(record));
        case cupti::kOverhead: return overhead(*static_cast<const cupti::OverheadRecord*>(record));
        case cupti::kExternalCorrelation: {
          const auto& external = *static_cast<const cupti::ExternalCorrelationRecord*>(record);
          if (limits.external_kind == 0 || limits.external_kind == external.external_kind)
            calls.external(external.correlation, external.external);
          return;
        }
        default: ++data.unknown;
      }
    });
    if (!whole) ++data.damaged;
  }

  // Accounting: what a DeviceTimeline books its time to.

  struct Launch {
    uint32_t row;
    int64_t launch_ns;
  };

  const CallTable::Call* launch_call(const DeviceWork& work) const {
    const CallTable::Call* call = calls.find(work.correlation);
    return call || work.runtime_correlation == 0 ? call : calls.find(work.runtime_correlation);
  }
  int64_t launch_ns(const DeviceWork& work) const {
    const CallTable::Call* call = launch_call(work);
    return call && call->begun ? call->start_ns : kLaunchUnknown;
  }

  Launch launch(const DeviceWork& work, int32_t ordinal) {
    RowKey key{0, work.name, HostTimeline::kNoPhase, ordinal, work.kind, work.copy, work.pinned, work.graph};
    const CallTable::Call* call = launch_call(work);
    int64_t launch_ns = kLaunchUnknown;
    if (call) key.external = call->external;
    if (call && call->begun) {
      launch_ns = call->start_ns;
      const StepFunction& phases = host.phases_;
      if (launch_ns >= phases.known_from_ns()) key.phase = phases.value_before(phases.after(launch_ns, near_launch));
    } else {
      ++data.unlaunched;
    }
    const uint32_t row = rows.find(key);
    if (RowTable::is_other(rows.keys()[row])) ++data.other;
    RowSums& sums = rows[row];
    sums.last = work;
    if (work.kind != WorkKind::kKernel) sums.bytes += uint64_t(work.bytes);
    return {row, launch_ns};
  }

  void ran(uint32_t row, int64_t ns) {
    RowSums& sums = rows[row];
    ++sums.calls;
    sums.time_ns += ns;
    sums.min_ns = std::min(sums.min_ns, ns);
    sums.max_ns = std::max(sums.max_ns, ns);
  }

  // Stretches end where an interval does, so that shares of both are the same to the nanosecond.
  int64_t interval_end(int32_t ordinal, int64_t t_ns) { return ordinal == busy_device ? busy.enter(t_ns) : kForever; }

  void share(uint32_t row, int32_t ordinal, int64_t ns) {
    rows[row].share_ns += ns;
    if (ordinal != busy_device) return;
    if (!busy.has_column(row)) busy.name_row(row, row_name(rows.keys()[row]));
    busy.add(row, ns);
  }

  void slice(const DeviceWork& work, uint32_t row, int32_t ordinal, int64_t start, int64_t launch_ns) {
    if (start >= slices_to_ns || work.end_ns <= slices_from_ns) return;
    if (data.slices.size() >= slices_limit) {
      ++data.slices_dropped;
      return;
    }
    if (launch_ns == kLaunchUnknown) launch_ns = -1;
    data.slices.push_back({start, work.end_ns, row, ordinal, work.stream, work.correlation, launch_ns});
  }

  void idle(IdleCauses& causes, int64_t from_ns, int64_t to_ns, int64_t launch_ns) {
    causes.add(from_ns, to_ns, launch_ns, host.phases_, syncs, host.ops_, data_phase);
  }

  void settle() {
    syncs.settle();
    host.phases_.settle();
    host.ops_.settle();
  }

  // All devices up to until_ns. Host events and launch calls of that time have come, or are taken for missing.
  void account(int64_t until_ns) {
    std::lock_guard<std::mutex> reading(host.reading_);
    settle();
    until_ns = std::min(until_ns, stop_ns);
    for (auto& [ordinal, timeline] : devices) timeline.account(until_ns, stop_ns, *this);
    last_account_ns = until_ns;
  }

  void consume(uint8_t* buffer, size_t valid_bytes) {
    if (!started || finished) return;
    read(buffer, valid_bytes);
    // Not after every buffer: each time all that is pending is looked through.
    const int64_t until_ns = newest_ns - limits.horizon_ns;
    if (until_ns - last_account_ns >= limits.horizon_ns / 8) account(until_ns);
  }

  // The result.

  static const char* copy_name(const RowKey& key) {
    return key.kind == WorkKind::kMemcpy && !RowTable::is_other(key) ? name_in(kCopyNames, key.copy) : "";
  }
  std::string row_name(const RowKey& key) const {
    const std::string name = readable_kernel_name(names.name(key.name)), copy = copy_name(key);
    return copy.empty() ? name : name + " " + copy;
  }

  void finish_rows() {
    for (size_t i = 0; i < rows.keys().size(); ++i) {
      const RowKey& key = rows.keys()[i];
      const RowSums& sums = rows[uint32_t(i)];
      ActivityRow row;
      row.name = row_name(key);
      row.kind = key.kind;
      row.copy = copy_name(key);
      row.pinned = key.pinned;
      row.graph = key.graph;
      row.external = key.external;
      row.phase = key.phase;
      row.device = key.device;
      row.calls = sums.calls;
      row.time_ns = sums.time_ns;
      row.min_ns = sums.calls ? sums.min_ns : 0;
      row.max_ns = sums.max_ns;
      row.share_ns = sums.share_ns;
      row.bytes = int64_t(sums.bytes);
      if (key.kind == WorkKind::kKernel) {
        row.grid = {sums.last.grid_x, sums.last.grid_y, sums.last.grid_z};
        row.block = {sums.last.block[0], sums.last.block[1], sums.last.block[2]};
        row.registers = sums.last.registers;
        row.shared_bytes = sums.last.shared_bytes;
      }
      data.rows.push_back(std::move(row));
    }
  }

  void finish_devices() {
    for (auto& [ordinal, timeline] : devices) {
      DeviceAccount account;
      account.device = ordinal;
      account.clock_ns = stop_ns - start_ns;
      account.busy_ns = timeline.busy_ns();
      account.idle_ns = timeline.idle_ns();
      account.overlap_ns = timeline.overlap_ns();
      account.idle = timeline.idle_rows();
      std::map<int32_t, int64_t> busy;
      for (const ActivityRow& row : data.rows)
        if (row.device == ordinal && row.share_ns) busy[row.phase] += row.share_ns;
      account.busy.assign(busy.begin(), busy.end());
      account.gaps = timeline.gaps();
      data.devices.push_back(std::move(account));
      data.late += timeline.late();
      data.late_ns += timeline.late_ns();
      data.outside += timeline.outside();
    }
  }

  ActivityData finish(int64_t t_ns) {
    if (!started || finished) throw std::runtime_error("these sums are not running");
    t_ns = std::min(stop_ns, t_ns);
    if (t_ns < start_ns) throw std::runtime_error("the account ends before it starts");
    for (const auto& [ordinal, timeline] : devices)
      if (timeline.accounted_until_ns() > t_ns)
        throw std::runtime_error("device time after the end of the account was accounted before it was told to stop");
    stop_ns = t_ns;
    finished = true;
    {
      std::lock_guard<std::mutex> reading(host.reading_);
      settle();
      for (auto& [ordinal, timeline] : devices) timeline.finish(stop_ns, *this);
    }
    finish_rows();
    finish_devices();
    if (busy_device >= 0) data.busy = busy.table(busy_device, stop_ns);
    for (auto& [name, sum] : sync_sums) data.syncs.push_back({name, sum.count, sum.time_ns});
    for (auto& [name, sum] : overhead_sums) data.overheads.push_back({name, sum.count, sum.time_ns});
    for (Slice& slice : data.slices) slice.end_ns = std::min(slice.end_ns, stop_ns);
    std::stable_sort(data.slices.begin(), data.slices.end(),
                     [](const Slice& a, const Slice& b) { return a.start_ns < b.start_ns; });
    return std::move(data);
  }
};

ActivitySums::ActivitySums(uint32_t cupti_version, GetNextRecord next, const ActivityLimits& limits) {
  if (limits.calls == 0 || (limits.calls & (limits.calls - 1)) != 0)
    throw std::invalid_argument("the number of calls to remember must be a power of two");
  if (limits.pending < 2 || limits.host_events < 1 || limits.horizon_ns < 0)
    throw std::invalid_argument("limits of the activity sums are out of range");
  impl_ = std::make_unique<Impl>(cupti_version, next, limits);
}
ActivitySums::~ActivitySums() = default;

HostTimeline& ActivitySums::host() { return impl_->host; }

void ActivitySums::start(int64_t t_ns, int32_t data_phase) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  if (impl_->started) throw std::runtime_error("these sums were started before");
  impl_->started = true;
  impl_->start_ns = impl_->last_account_ns = t_ns;
  impl_->data_phase = data_phase;
  impl_->busy.start(t_ns);
}

void ActivitySums::expect_device(int32_t device) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  if (!impl_->started) throw std::runtime_error("these sums are not running");
  impl_->device(device);
}

void ActivitySums::consume(uint8_t* buffer, size_t valid_bytes) noexcept {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  try {
    impl_->consume(buffer, valid_bytes);
  } catch (...) {  // out of memory
    ++impl_->data.damaged;
  }
}

void ActivitySums::dropped(uint64_t n) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->data.dropped += n;
}

void ActivitySums::keep_slices(int64_t from_ns, int64_t to_ns, size_t limit) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->slices_from_ns = from_ns;
  impl_->slices_to_ns = to_ns;
  impl_->slices_limit = limit;
  impl_->data.slices.reserve(limit);
}

void ActivitySums::stop(int64_t t_ns) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  impl_->stop_ns = std::min(impl_->stop_ns, t_ns);
}

ActivityData ActivitySums::finish(int64_t stop_ns) {
  std::lock_guard<std::mutex> lock(impl_->mutex);
  return impl_->finish(stop_ns);
}

}  // namespace perfsuite
