// The part of CUPTI's activity records that is used here, declared so that no vendor header is needed to build.
// cupti_activity_check.cpp compares all of it with the vendor's cupti_activity.h where that is installed.
//
// A record's version (CUpti_ActivityKernel9, 10, ...) goes with the library's; newer ones append fields. What is
// declared here lies at the same offsets in the headers of every version in kKnownVersions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace perfsuite::cupti {

using Result = int;  // CUptiResult
constexpr Result kSuccess = 0, kMaxLimitReached = 12, kInvalidKind = 21;

enum ActivityKind : uint32_t {  // CUpti_ActivityKind
  kMemcpy = 1,
  kMemset = 2,
  kKernel = 3,
  kDriver = 4,
  kRuntime = 5,
  kConcurrentKernel = 10,
  kOverhead = 17,
  kMemcpyPeer = 22,  // CUPTI_ACTIVITY_KIND_MEMCPY2
  kSynchronization = 38,
  kExternalCorrelation = 39,
  kGraphTrace = 51,
};

// CUpti_ActivityMemcpyKind: direction of a copy, H host, D device, A array, P peer.
enum CopyKind : uint8_t { kHtoD = 1, kDtoH, kHtoA, kAtoH, kAtoA, kAtoD, kDtoA, kDtoD, kHtoH, kPtoP };
// CUpti_ActivityMemoryKind
enum MemoryKind : uint8_t { kPageable = 1, kPinned = 2 };
// CUpti_ActivitySynchronizationType. A stream that waits for an event does not keep the host waiting.
enum SynchronizationType : uint32_t {
  kEventSynchronize = 1,
  kStreamWaitEvent = 2,
  kStreamSynchronize = 3,
  kContextSynchronize = 4,
};

// Names of CUpti_ActivityOverheadKind. 1 is the driver's compiler; the others are counted in the upper half.
constexpr const char* kOverheadNames[] = {
    "unknown",
    "buffer_flush",
    "instrumentation",
    "resource",
    "runtime_triggered_module_loading",
    "lazy_function_loading",
    "command_buffer_full",
    "activity_buffer_request",
    "uvm_activity_init",
};
constexpr uint32_t kOverheadDriverCompiler = 1;

// Calls that return when the device has finished something: CUpti_runtime_api_trace_cbid, CUpti_driver_api_trace_cbid.
constexpr uint32_t kRuntimeSyncCalls[] = {
    31,   // cudaMemcpy
    126,  // cudaThreadSynchronize
    131,  // cudaStreamSynchronize
    137,  // cudaEventSynchronize
    165,  // cudaDeviceSynchronize
    215,  // cudaMemcpy_ptds
    239,  // cudaStreamSynchronize_ptsz
};
constexpr uint32_t kDriverSyncCalls[] = {
    17,   // cuCtxSynchronize
    121,  // cuEventSynchronize
    126,  // cuStreamSynchronize
    276,  // cuMemcpyHtoD_v2
    278,  // cuMemcpyDtoH_v2
    305,  // cuMemcpy
    397,  // cuMemcpyHtoD_v2_ptds
    398,  // cuMemcpyDtoH_v2_ptds
    408,  // cuMemcpy_ptds
    440,  // cuStreamSynchronize_ptsz
    800,  // cuCtxSynchronize_v2
};

struct KernelRecord {  // CUpti_ActivityKernel9 and later
  uint32_t kind;
  uint8_t cache_config, shared_memory_config;
  uint16_t registers;
  uint32_t partitioned[2];
  uint64_t start, end, completed;
  uint32_t device, context, stream;
  int32_t grid[3], block[3];
  int32_t static_shared_bytes, dynamic_shared_bytes;
  uint32_t local_bytes[2];
  uint32_t correlation;
  int64_t grid_id;
  const char* name;
  void* reserved;
  uint64_t queued, submitted;
  uint8_t launch_type, carveout[2], padding;
  uint32_t shared_memory_executed;
  uint64_t graph_node;
  uint32_t shared_memory_limit;
  uint32_t graph;
};

struct MemcpyRecord {  // CUpti_ActivityMemcpy5 and later
  uint32_t kind;
  uint8_t copy, source, destination, flags;
  uint64_t bytes, start, end;
  uint32_t device, context, stream, correlation, runtime_correlation, padding;
  void* reserved;
  uint64_t graph_node;
  uint32_t graph;
};

struct MemcpyPeerRecord {  // CUpti_ActivityMemcpyPtoP4
  uint32_t kind;
  uint8_t copy, source, destination, flags;
  uint64_t bytes, start, end;
  uint32_t device, context, stream;
  uint32_t source_device, source_context, destination_device, destination_context;
  uint32_t correlation;
  void* reserved;
  uint64_t graph_node;
  uint32_t graph;
};

struct MemsetRecord {  // CUpti_ActivityMemset4 and later
  uint32_t kind, value;
  uint64_t bytes, start, end;
  uint32_t device, context, stream, correlation;
  uint16_t flags, memory;
  uint32_t padding;
  void* reserved;
  uint64_t graph_node;
  uint32_t graph;
};

struct ApiRecord {  // CUpti_ActivityAPI
  uint32_t kind, cbid;
  uint64_t start, end;
  uint32_t process, thread, correlation, result;
};

struct OverheadRecord {  // CUpti_ActivityOverhead3
  uint32_t kind, overhead, object_kind, object[3];
  uint64_t start, end;
};

struct SynchronizationRecord {  // CUpti_ActivitySynchronization and later
  uint32_t kind, type;
  uint64_t start, end;
  uint32_t correlation, context, stream;
};

struct ExternalCorrelationRecord {  // CUpti_ActivityExternalCorrelation
  uint32_t kind, external_kind;
  uint64_t external;
  uint32_t correlation;
};

struct GraphTraceRecord {  // CUpti_ActivityGraphTrace2
  uint32_t kind, correlation;
  uint64_t start, end;
  uint32_t device, graph, context, stream;
};

// Whole sizes of the records that differ between the versions of the library (cuptiGetVersion), in bytes.
struct RecordSizes {
  uint32_t version, kernel, memcpy, memset, synchronization;
};
constexpr size_t kMemcpyPeerBytes = 96, kApiBytes = 40, kOverheadBytes = 56, kExternalCorrelationBytes = 24;
constexpr size_t kGraphTraceBytes = 56;
// CUDA 12.6, 12.8, 12.9, 13.0, 13.1, 13.2, 13.4
constexpr RecordSizes kKnownVersions[] = {
    {24, 208, 88, 88, 40},      {26, 208, 96, 88, 56},      {28, 208, 96, 88, 56},       {130001, 216, 96, 88, 56},
    {130101, 224, 96, 88, 56},  {130201, 224, 96, 88, 56},  {130401, 248, 112, 104, 56},
};

}  // namespace perfsuite::cupti
