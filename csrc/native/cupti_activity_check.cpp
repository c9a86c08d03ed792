// Compares cupti_activity_abi.h with the vendor's header at compile time, where that is on the include path. No code.
#include "cupti_activity_abi.h"

#if __has_include(<cupti.h>) && __has_include(<cuda.h>)
#include <cuda.h>
#include <cupti.h>

namespace perfsuite::cupti {
namespace {

#pragma GCC diagnostic ignored "-Wenum-compare"
static_assert(kSuccess == CUPTI_SUCCESS && kMaxLimitReached == CUPTI_ERROR_MAX_LIMIT_REACHED);
static_assert(kInvalidKind == CUPTI_ERROR_INVALID_KIND);

static_assert(kMemcpy == CUPTI_ACTIVITY_KIND_MEMCPY && kMemset == CUPTI_ACTIVITY_KIND_MEMSET);
static_assert(kKernel == CUPTI_ACTIVITY_KIND_KERNEL && kConcurrentKernel == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
static_assert(kDriver == CUPTI_ACTIVITY_KIND_DRIVER && kRuntime == CUPTI_ACTIVITY_KIND_RUNTIME);
static_assert(kOverhead == CUPTI_ACTIVITY_KIND_OVERHEAD && kMemcpyPeer == CUPTI_ACTIVITY_KIND_MEMCPY2);
static_assert(kSynchronization == CUPTI_ACTIVITY_KIND_SYNCHRONIZATION);
static_assert(kExternalCorrelation == CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION);
static_assert(kGraphTrace == CUPTI_ACTIVITY_KIND_GRAPH_TRACE);

static_assert(kHtoD == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD && kDtoH == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH);
static_assert(kHtoA == CUPTI_ACTIVITY_MEMCPY_KIND_HTOA && kAtoH == CUPTI_ACTIVITY_MEMCPY_KIND_ATOH);
static_assert(kAtoA == CUPTI_ACTIVITY_MEMCPY_KIND_ATOA && kAtoD == CUPTI_ACTIVITY_MEMCPY_KIND_ATOD);
static_assert(kDtoA == CUPTI_ACTIVITY_MEMCPY_KIND_DTOA && kDtoD == CUPTI_ACTIVITY_MEMCPY_KIND_DTOD);
static_assert(kHtoH == CUPTI_ACTIVITY_MEMCPY_KIND_HTOH && kPtoP == CUPTI_ACTIVITY_MEMCPY_KIND_PTOP);
static_assert(kPageable == CUPTI_ACTIVITY_MEMORY_KIND_PAGEABLE && kPinned == CUPTI_ACTIVITY_MEMORY_KIND_PINNED);

static_assert(kEventSynchronize == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_EVENT_SYNCHRONIZE);
static_assert(kStreamWaitEvent == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_WAIT_EVENT);
static_assert(kStreamSynchronize == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_STREAM_SYNCHRONIZE);
static_assert(kContextSynchronize == CUPTI_ACTIVITY_SYNCHRONIZATION_TYPE_CONTEXT_SYNCHRONIZE);

static_assert(kOverheadDriverCompiler == CUPTI_ACTIVITY_OVERHEAD_DRIVER_COMPILER);
static_assert(1 << 16 == CUPTI_ACTIVITY_OVERHEAD_CUPTI_BUFFER_FLUSH);
static_assert(2 << 16 == CUPTI_ACTIVITY_OVERHEAD_CUPTI_INSTRUMENTATION);
static_assert(3 << 16 == CUPTI_ACTIVITY_OVERHEAD_CUPTI_RESOURCE);
static_assert(4 << 16 == CUPTI_ACTIVITY_OVERHEAD_RUNTIME_TRIGGERED_MODULE_LOADING);
static_assert(5 << 16 == CUPTI_ACTIVITY_OVERHEAD_LAZY_FUNCTION_LOADING);
static_assert(6 << 16 == CUPTI_ACTIVITY_OVERHEAD_COMMAND_BUFFER_FULL);
static_assert(7 << 16 == CUPTI_ACTIVITY_OVERHEAD_ACTIVITY_BUFFER_REQUEST);

static_assert(kRuntimeSyncCalls[0] == CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_v3020);
static_assert(kRuntimeSyncCalls[1] == CUPTI_RUNTIME_TRACE_CBID_cudaThreadSynchronize_v3020);
static_assert(kRuntimeSyncCalls[2] == CUPTI_RUNTIME_TRACE_CBID_cudaStreamSynchronize_v3020);
static_assert(kRuntimeSyncCalls[3] == CUPTI_RUNTIME_TRACE_CBID_cudaEventSynchronize_v3020);
static_assert(kRuntimeSyncCalls[4] == CUPTI_RUNTIME_TRACE_CBID_cudaDeviceSynchronize_v3020);
static_assert(kRuntimeSyncCalls[5] == CUPTI_RUNTIME_TRACE_CBID_cudaMemcpy_ptds_v7000);
static_assert(kRuntimeSyncCalls[6] == CUPTI_RUNTIME_TRACE_CBID_cudaStreamSynchronize_ptsz_v7000);
static_assert(kDriverSyncCalls[0] == CUPTI_DRIVER_TRACE_CBID_cuCtxSynchronize);
static_assert(kDriverSyncCalls[1] == CUPTI_DRIVER_TRACE_CBID_cuEventSynchronize);
static_assert(kDriverSyncCalls[2] == CUPTI_DRIVER_TRACE_CBID_cuStreamSynchronize);
static_assert(kDriverSyncCalls[3] == CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoD_v2);
static_assert(kDriverSyncCalls[4] == CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoH_v2);
static_assert(kDriverSyncCalls[5] == CUPTI_DRIVER_TRACE_CBID_cuMemcpy);
static_assert(kDriverSyncCalls[6] == CUPTI_DRIVER_TRACE_CBID_cuMemcpyHtoD_v2_ptds);
static_assert(kDriverSyncCalls[7] == CUPTI_DRIVER_TRACE_CBID_cuMemcpyDtoH_v2_ptds);
static_assert(kDriverSyncCalls[8] == CUPTI_DRIVER_TRACE_CBID_cuMemcpy_ptds);
static_assert(kDriverSyncCalls[9] == CUPTI_DRIVER_TRACE_CBID_cuStreamSynchronize_ptsz);
#if CUPTI_API_VERSION >= 130000
static_assert(kDriverSyncCalls[10] == CUPTI_DRIVER_TRACE_CBID_cuCtxSynchronize_v2);
#endif

// The vendor's record of this header's version.
#if CUPTI_API_VERSION >= 130400
using VendorKernel = CUpti_ActivityKernel13;
using VendorMemcpy = CUpti_ActivityMemcpy7;
using VendorMemset = CUpti_ActivityMemset5;
#elif CUPTI_API_VERSION >= 130100
using VendorKernel = CUpti_ActivityKernel11;
#elif CUPTI_API_VERSION >= 130000
using VendorKernel = CUpti_ActivityKernel10;
#else
using VendorKernel = CUpti_ActivityKernel9;
#endif
#if CUPTI_API_VERSION < 130400
#if CUPTI_API_VERSION >= 26
using VendorMemcpy = CUpti_ActivityMemcpy6;
#else
using VendorMemcpy = CUpti_ActivityMemcpy5;
#endif
using VendorMemset = CUpti_ActivityMemset4;
#endif
#if CUPTI_API_VERSION >= 26
using VendorSynchronization = CUpti_ActivitySynchronization2;
#else
using VendorSynchronization = CUpti_ActivitySynchronization;
#endif

#define PERFSUITE_SAME(Ours, our_field, Theirs, their_field)                          \
  static_assert(offsetof(Ours, our_field) == offsetof(Theirs, their_field) &&         \
                    sizeof(Ours::our_field) == sizeof(Theirs::their_field),           \
                #Theirs "::" #their_field)

#define PERFSUITE_SAME_WORK(Ours, Theirs)                    \
  PERFSUITE_SAME(Ours, kind, Theirs, kind);                  \
  PERFSUITE_SAME(Ours, start, Theirs, start);                \
  PERFSUITE_SAME(Ours, end, Theirs, end);                    \
  PERFSUITE_SAME(Ours, device, Theirs, deviceId);            \
  PERFSUITE_SAME(Ours, context, Theirs, contextId);          \
  PERFSUITE_SAME(Ours, stream, Theirs, streamId);            \
  PERFSUITE_SAME(Ours, correlation, Theirs, correlationId);  \
  PERFSUITE_SAME(Ours, graph, Theirs, graphId)

PERFSUITE_SAME_WORK(KernelRecord, VendorKernel);
PERFSUITE_SAME(KernelRecord, registers, VendorKernel, registersPerThread);
PERFSUITE_SAME(KernelRecord, grid[0], VendorKernel, gridX);
PERFSUITE_SAME(KernelRecord, grid[1], VendorKernel, gridY);
PERFSUITE_SAME(KernelRecord, grid[2], VendorKernel, gridZ);
PERFSUITE_SAME(KernelRecord, block[0], VendorKernel, blockX);
PERFSUITE_SAME(KernelRecord, block[1], VendorKernel, blockY);
PERFSUITE_SAME(KernelRecord, block[2], VendorKernel, blockZ);
PERFSUITE_SAME(KernelRecord, static_shared_bytes, VendorKernel, staticSharedMemory);
PERFSUITE_SAME(KernelRecord, dynamic_shared_bytes, VendorKernel, dynamicSharedMemory);
PERFSUITE_SAME(KernelRecord, name, VendorKernel, name);

PERFSUITE_SAME_WORK(MemcpyRecord, VendorMemcpy);
PERFSUITE_SAME(MemcpyRecord, copy, VendorMemcpy, copyKind);
PERFSUITE_SAME(MemcpyRecord, source, VendorMemcpy, srcKind);
PERFSUITE_SAME(MemcpyRecord, destination, VendorMemcpy, dstKind);
PERFSUITE_SAME(MemcpyRecord, bytes, VendorMemcpy, bytes);
PERFSUITE_SAME(MemcpyRecord, runtime_correlation, VendorMemcpy, runtimeCorrelationId);

PERFSUITE_SAME_WORK(MemcpyPeerRecord, CUpti_ActivityMemcpyPtoP4);
PERFSUITE_SAME(MemcpyPeerRecord, bytes, CUpti_ActivityMemcpyPtoP4, bytes);

PERFSUITE_SAME_WORK(MemsetRecord, VendorMemset);
PERFSUITE_SAME(MemsetRecord, bytes, VendorMemset, bytes);

PERFSUITE_SAME_WORK(GraphTraceRecord, CUpti_ActivityGraphTrace2);

PERFSUITE_SAME(ApiRecord, kind, CUpti_ActivityAPI, kind);
PERFSUITE_SAME(ApiRecord, cbid, CUpti_ActivityAPI, cbid);
PERFSUITE_SAME(ApiRecord, start, CUpti_ActivityAPI, start);
PERFSUITE_SAME(ApiRecord, end, CUpti_ActivityAPI, end);
PERFSUITE_SAME(ApiRecord, correlation, CUpti_ActivityAPI, correlationId);

PERFSUITE_SAME(OverheadRecord, kind, CUpti_ActivityOverhead3, kind);
PERFSUITE_SAME(OverheadRecord, overhead, CUpti_ActivityOverhead3, overheadKind);
PERFSUITE_SAME(OverheadRecord, start, CUpti_ActivityOverhead3, start);
PERFSUITE_SAME(OverheadRecord, end, CUpti_ActivityOverhead3, end);

PERFSUITE_SAME(SynchronizationRecord, kind, VendorSynchronization, kind);
PERFSUITE_SAME(SynchronizationRecord, type, VendorSynchronization, type);
PERFSUITE_SAME(SynchronizationRecord, start, VendorSynchronization, start);
PERFSUITE_SAME(SynchronizationRecord, end, VendorSynchronization, end);

PERFSUITE_SAME(ExternalCorrelationRecord, kind, CUpti_ActivityExternalCorrelation, kind);
PERFSUITE_SAME(ExternalCorrelationRecord, external_kind, CUpti_ActivityExternalCorrelation, externalKind);
PERFSUITE_SAME(ExternalCorrelationRecord, external, CUpti_ActivityExternalCorrelation, externalId);
PERFSUITE_SAME(ExternalCorrelationRecord, correlation, CUpti_ActivityExternalCorrelation, correlationId);

constexpr bool sizes_agree() {
  for (const RecordSizes& sizes : kKnownVersions)
    if (sizes.version == CUPTI_API_VERSION)
      return sizes.kernel == sizeof(VendorKernel) && sizes.memcpy == sizeof(VendorMemcpy) &&
             sizes.memset == sizeof(VendorMemset) && sizes.synchronization == sizeof(VendorSynchronization);
  return true;  // a version in between: no sizes are stated for it
}
static_assert(sizes_agree());
static_assert(kMemcpyPeerBytes == sizeof(CUpti_ActivityMemcpyPtoP4) && kApiBytes == sizeof(CUpti_ActivityAPI));
static_assert(kOverheadBytes == sizeof(CUpti_ActivityOverhead3));
static_assert(kExternalCorrelationBytes == sizeof(CUpti_ActivityExternalCorrelation));
static_assert(kGraphTraceBytes == sizeof(CUpti_ActivityGraphTrace2));

}  // namespace
}  // namespace perfsuite::cupti
#endif
