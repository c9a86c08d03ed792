// Sums of CUPTI activity records, made while the records arrive: constant memory for runs of any length.
//
// Needs no CUPTI: completed buffers are handed in, and the library's own function that walks them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "activity_reader.h"
#include "busy_intervals.h"
#include "device_timeline.h"
#include "host_timeline.h"
#include "idle_causes.h"

namespace perfsuite {

struct ActivityLimits {
  // Time t is accounted once a record that ended at t + horizon_ns or later was seen, or at finish(). What arrives for
  // an accounted time is late. CUPTI hands out a buffer when it is full or flushed: flush at least twice a horizon.
  int64_t horizon_ns = 3'000'000'000;
  size_t pending = 1 << 20;  // records of one device waiting for their horizon; where there are more it is shortened
  size_t calls = 1 << 20;        // latest correlation ids whose call and external id are remembered; a power of two
  size_t host_events = 1 << 20;  // latest phase changes, op changes and synchronising calls, each
  size_t rows = 1 << 15;         // what comes after that many rows goes to rows named "(other)"
  uint32_t external_kind = 0;    // CUpti_ExternalCorrelationKind whose ids are taken; 0: any
};

// Work of one name, launched at one site in one phase of the host, on one device. Times are those between start and
// stop: work that began before or ended after is cut.
struct ActivityRow {
  std::string name;  // demangled, template arguments kept, at most 300 characters; "(other)", "(cuda graph)"
  WorkKind kind = WorkKind::kKernel;
  std::string copy;     // memcpy: "HtoD", "DtoH", "DtoD", "HtoH", "PtoP", "HtoA", ..., "unknown"
  int8_t pinned = -1;   // memcpy with a side on the host: 1 pinned, 0 pageable; -1 not known or no such side
  bool graph = false;   // launched as part of a CUDA graph: external and phase are those of the graph's launch
  uint64_t external = 0;  // external correlation id of the launch, 0: none
  int32_t phase = -1;   // the clock thread's when the launch call began; -1: none, or the call is not known
  int32_t device = 0;
  int64_t calls = 0, time_ns = 0, min_ns = 0, max_ns = 0;
  int64_t share_ns = 0;  // of the device's busy time: what ran at once shares each stretch equally
  int64_t bytes = 0;     // memcpy and memset
  std::array<int64_t, 3> grid{}, block{};  // kernels, last seen
  int64_t registers = 0, shared_bytes = 0;
};

struct DeviceAccount {  // busy_ns + idle_ns == clock_ns; the rows' share_ns of this device add up to busy_ns
  int32_t device = 0;
  int64_t clock_ns = 0, busy_ns = 0, idle_ns = 0;
  int64_t overlap_ns = 0;                        // durations - busy, without late work
  std::vector<IdleRow> idle;                     // adds up to idle_ns
  std::vector<std::pair<int32_t, int64_t>> busy;  // (phase of launch, ns), adds up to busy_ns
  std::array<GapClass, kGapClasses> gaps{};
};

struct NamedSum {
  std::string name;
  int64_t count = 0, time_ns = 0;
};

struct Slice {
  int64_t start_ns, end_ns, row, device, stream, correlation;
  int64_t launch_ns;  // when the launch call began; -1: not known
};

struct ActivityData {
  std::vector<ActivityRow> rows;  // in the order they were first seen
  std::vector<DeviceAccount> devices;
  std::vector<NamedSum> syncs, overheads;  // by type of synchronising call, by kind of CUPTI's overhead
  std::vector<Slice> slices;               // by start
  BusyTable busy;                          // of the first device; a column adds up to the share_ns of its name's rows
  int64_t slices_dropped = 0;   // beyond the limit of keep_slices
  uint64_t records = 0;         // all that were read
  uint64_t dropped = 0;         // as told by dropped()
  uint64_t late = 0;            // device records that arrived after a part of their time was accounted: that part,
  int64_t late_ns = 0;          // late_ns, is in time_ns of their row and in no device's busy time
  uint64_t unknown = 0;         // records of a kind that is not read here
  uint64_t damaged = 0;         // buffers that could not be read to their end
  uint64_t untimed = 0;         // device records without valid times or device: in no row
  uint64_t outside = 0;         // device records of work that lies before start or after stop
  uint64_t unlaunched = 0;      // device records whose launch call was not seen or is forgotten
  uint64_t late_syncs = 0;      // synchronising calls that arrived after a part of their time was accounted
  uint64_t other = 0;           // device records that went to "(other)" rows
  uint64_t shortened = 0;       // times the horizon was shortened because too many records were pending
};

class ActivitySums {
 public:
  // cupti_version is cuptiGetVersion()'s. With next null buffers are walked by the record sizes of that version, which
  // is for tests. Throws std::invalid_argument where the records of that version are not known here.
  ActivitySums(uint32_t cupti_version, GetNextRecord next, const ActivityLimits& limits = {});
  ~ActivitySums();

  HostTimeline& host();
  // The account begins at t_ns; records that come before this call are ignored. data_phase: where the host waits for
  // data; -1: no such phase.
  void start(int64_t t_ns, int32_t data_phase);
  // This device is accounted even if no record tells of it (CUDA's ordinal). The first one that is expected, else the
  // first one that a record tells of, is that of ActivityData::busy.
  void expect_device(int32_t device);
  // A completed buffer. Any thread; never throws and never keeps a pointer into the buffer or to a kernel's name.
  void consume(uint8_t* buffer, size_t valid_bytes) noexcept;
  void dropped(uint64_t n);  // records that CUPTI says it dropped
  // Keeps the slices of work that overlaps [from_ns, to_ns), at most `limit` (56 bytes each). May be called again to
  // move the window; acts on all time that is not accounted yet.
  void keep_slices(int64_t from_ns, int64_t to_ns, size_t limit);
  // Optional: the clock stopped at t_ns, records of the time before are still to come.
  void stop(int64_t t_ns);
  // Accounts what is pending. Throws std::runtime_error where time after stop_ns was accounted already (records kept
  // coming for a horizon after stop_ns and nobody called stop()). Call once.
  ActivityData finish(int64_t stop_ns);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace perfsuite
