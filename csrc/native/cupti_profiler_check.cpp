// Compares cupti_profiler_abi.h with the vendor's headers at compile time, where those are on the include path.
// Emits no code.
#include "cupti_profiler_abi.h"
#include "signature_shape.h"

#if __has_include(<cupti_profiler_host.h>) && __has_include(<cupti_range_profiler.h>) && __has_include(<cuda.h>)
#include <cupti.h>
#include <cupti_pmsampling.h>
#include <cupti_profiler_host.h>
#include <cupti_profiler_target.h>
#include <cupti_range_profiler.h>
#include <cupti_target.h>


namespace perfsuite::cupti_profiler {
namespace {

static_assert(kSuccess == CUPTI_SUCCESS && kInvalidParameter == CUPTI_ERROR_INVALID_PARAMETER);
static_assert(kInvalidOperation == CUPTI_ERROR_INVALID_OPERATION && kOutOfMemory == CUPTI_ERROR_OUT_OF_MEMORY);
static_assert(kInvalidMetricName == CUPTI_ERROR_INVALID_METRIC_NAME && kHardwareBusy == CUPTI_ERROR_HARDWARE_BUSY);
static_assert(kNotSupported == CUPTI_ERROR_NOT_SUPPORTED && kUnknown == CUPTI_ERROR_UNKNOWN);
static_assert(kInsufficientPrivileges == CUPTI_ERROR_INSUFFICIENT_PRIVILEGES);
static_assert(kMultipleSubscribers == CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED);
static_assert(kVirtualizedInsufficientPrivileges == CUPTI_ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES);
static_assert(kConfidentialComputing == CUPTI_ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED);
static_assert(kMigDevice == CUPTI_ERROR_MIG_DEVICE_NOT_SUPPORTED && kInvalidChipName == CUPTI_ERROR_INVALID_CHIP_NAME);
static_assert(kCounter == CUPTI_METRIC_TYPE_COUNTER && kRatio == CUPTI_METRIC_TYPE_RATIO);
static_assert(kThroughput == CUPTI_METRIC_TYPE_THROUGHPUT);
static_assert(kRangeProfiler == CUPTI_PROFILER_TYPE_RANGE_PROFILER && kPmSampling == CUPTI_PROFILER_TYPE_PM_SAMPLING);
static_assert(kTriggerSysclkCycles == CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_SYSCLK_INTERVAL);
static_assert(kTriggerTimeNs == CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_TIME_INTERVAL);
static_assert(kKeepOldest == CUPTI_PM_SAMPLING_HARDWARE_BUFFER_APPEND_MODE_KEEP_OLDEST);
static_assert(kKeepLatest == CUPTI_PM_SAMPLING_HARDWARE_BUFFER_APPEND_MODE_KEEP_LATEST);
static_assert(kStopOther == CUPTI_PM_SAMPLING_DECODE_STOP_REASON_OTHER);
static_assert(kStopImageFull == CUPTI_PM_SAMPLING_DECODE_STOP_REASON_COUNTER_DATA_FULL);
static_assert(kStopEndOfRecords == CUPTI_PM_SAMPLING_DECODE_STOP_REASON_END_OF_RECORDS);
static_assert(kAutoRange == CUPTI_AutoRange && kKernelReplay == CUPTI_KernelReplay);
static_assert(kDriverApi == CUPTI_CB_DOMAIN_DRIVER_API && kApiEnter == CUPTI_API_ENTER && kApiExit == CUPTI_API_EXIT);
static_assert(kLaunchKernel == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel);
static_assert(kLaunchKernelPtsz == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernel_ptsz);
static_assert(kLaunchCooperative == CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel);
static_assert(kLaunchCooperativePtsz == CUPTI_DRIVER_TRACE_CBID_cuLaunchCooperativeKernel_ptsz);
static_assert(kGraphLaunch == CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch);
static_assert(kGraphLaunchPtsz == CUPTI_DRIVER_TRACE_CBID_cuGraphLaunch_ptsz);
static_assert(kLaunchKernelEx == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx);
static_assert(kLaunchKernelExPtsz == CUPTI_DRIVER_TRACE_CBID_cuLaunchKernelEx_ptsz);

#pragma GCC diagnostic ignored "-Winvalid-offsetof"
// The end of the last member is the size that CUPTI is told.
#define PERFSUITE_CUPTI_CHECK_STRUCT(ours, theirs, last, their_last)                                          \
  static_assert(sizeof(ours) == sizeof(theirs) && offsetof(ours, last) == offsetof(theirs, their_last), #ours); \
  static_assert(theirs##_STRUCT_SIZE == offsetof(ours, last) + sizeof(ours::last), #ours);
PERFSUITE_CUPTI_STRUCTS(PERFSUITE_CUPTI_CHECK_STRUCT)

template <class A, class B>
constexpr bool same = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B>;
#define PERFSUITE_CUPTI_CHECK_MEMBER(ours, member, theirs, their_member)                    \
  static_assert(offsetof(ours, member) == offsetof(theirs, their_member) &&                 \
                same<decltype(ours::member), decltype(theirs::their_member)>, #ours "::" #member);
#define M PERFSUITE_CUPTI_CHECK_MEMBER
M(HostInitialize, profiler, CUpti_Profiler_Host_Initialize_Params, profilerType)
M(HostInitialize, chip, CUpti_Profiler_Host_Initialize_Params, pChipName)
M(HostInitialize, availability, CUpti_Profiler_Host_Initialize_Params, pCounterAvailabilityImage)
M(HostGetSupportedChips, count, CUpti_Profiler_Host_GetSupportedChips_Params, numChips)
M(HostGetBaseMetrics, host, CUpti_Profiler_Host_GetBaseMetrics_Params, pHostObject)
M(HostGetBaseMetrics, type, CUpti_Profiler_Host_GetBaseMetrics_Params, metricType)
M(HostGetBaseMetrics, names, CUpti_Profiler_Host_GetBaseMetrics_Params, ppMetricNames)
M(HostGetMetricProperties, host, CUpti_Profiler_Host_GetMetricProperties_Params, pHostObject)
M(HostGetMetricProperties, name, CUpti_Profiler_Host_GetMetricProperties_Params, pMetricName)
M(HostGetMetricProperties, description, CUpti_Profiler_Host_GetMetricProperties_Params, pDescription)
M(HostGetMetricProperties, hw_unit, CUpti_Profiler_Host_GetMetricProperties_Params, pHwUnit)
M(HostGetMetricProperties, unit, CUpti_Profiler_Host_GetMetricProperties_Params, pDimUnit)
M(HostConfigAddMetrics, host, CUpti_Profiler_Host_ConfigAddMetrics_Params, pHostObject)
M(HostConfigAddMetrics, names, CUpti_Profiler_Host_ConfigAddMetrics_Params, ppMetricNames)
M(HostGetConfigImageSize, host, CUpti_Profiler_Host_GetConfigImageSize_Params, pHostObject)
M(HostGetConfigImage, host, CUpti_Profiler_Host_GetConfigImage_Params, pHostObject)
M(HostGetConfigImage, size, CUpti_Profiler_Host_GetConfigImage_Params, configImageSize)
M(HostGetNumOfPasses, size, CUpti_Profiler_Host_GetNumOfPasses_Params, configImageSize)
M(HostGetNumOfPasses, image, CUpti_Profiler_Host_GetNumOfPasses_Params, pConfigImage)
M(HostEvaluate, host, CUpti_Profiler_Host_EvaluateToGpuValues_Params, pHostObject)
M(HostEvaluate, data, CUpti_Profiler_Host_EvaluateToGpuValues_Params, pCounterDataImage)
M(HostEvaluate, data_size, CUpti_Profiler_Host_EvaluateToGpuValues_Params, counterDataImageSize)
M(HostEvaluate, index, CUpti_Profiler_Host_EvaluateToGpuValues_Params, rangeIndex)
M(HostEvaluate, names, CUpti_Profiler_Host_EvaluateToGpuValues_Params, ppMetricNames)
M(HostEvaluate, count, CUpti_Profiler_Host_EvaluateToGpuValues_Params, numMetrics)
M(DeviceGetChipName, device, CUpti_Device_GetChipName_Params, deviceIndex)
M(ProfilerGetAvailability, context, CUpti_Profiler_GetCounterAvailability_Params, ctx)
M(ProfilerGetAvailability, size, CUpti_Profiler_GetCounterAvailability_Params, counterAvailabilityImageSize)
M(PmEnable, device, CUpti_PmSampling_Enable_Params, deviceIndex)
M(PmGetAvailability, device, CUpti_PmSampling_GetCounterAvailability_Params, deviceIndex)
M(PmGetAvailability, size, CUpti_PmSampling_GetCounterAvailability_Params, counterAvailabilityImageSize)
M(PmSetConfig, sampler, CUpti_PmSampling_SetConfig_Params, pPmSamplingObject)
M(PmSetConfig, config_size, CUpti_PmSampling_SetConfig_Params, configSize)
M(PmSetConfig, config, CUpti_PmSampling_SetConfig_Params, pConfig)
M(PmSetConfig, hardware_buffer_bytes, CUpti_PmSampling_SetConfig_Params, hardwareBufferSize)
M(PmSetConfig, interval, CUpti_PmSampling_SetConfig_Params, samplingInterval)
M(PmSetConfig, trigger, CUpti_PmSampling_SetConfig_Params, triggerMode)
M(PmGetDataSize, sampler, CUpti_PmSampling_GetCounterDataSize_Params, pPmSamplingObject)
M(PmGetDataSize, names, CUpti_PmSampling_GetCounterDataSize_Params, pMetricNames)
M(PmGetDataSize, count, CUpti_PmSampling_GetCounterDataSize_Params, numMetrics)
M(PmGetDataSize, max_samples, CUpti_PmSampling_GetCounterDataSize_Params, maxSamples)
M(PmInitializeData, sampler, CUpti_PmSampling_CounterDataImage_Initialize_Params, pPmSamplingObject)
M(PmInitializeData, size, CUpti_PmSampling_CounterDataImage_Initialize_Params, counterDataSize)
M(PmDecode, sampler, CUpti_PmSampling_DecodeData_Params, pPmSamplingObject)
M(PmDecode, data, CUpti_PmSampling_DecodeData_Params, pCounterDataImage)
M(PmDecode, size, CUpti_PmSampling_DecodeData_Params, counterDataImageSize)
M(PmDecode, stop_reason, CUpti_PmSampling_DecodeData_Params, decodeStopReason)
M(PmDataInfo, data, CUpti_PmSampling_GetCounterDataInfo_Params, pCounterDataImage)
M(PmDataInfo, size, CUpti_PmSampling_GetCounterDataInfo_Params, counterDataImageSize)
M(PmDataInfo, total, CUpti_PmSampling_GetCounterDataInfo_Params, numTotalSamples)
M(PmDataInfo, populated, CUpti_PmSampling_GetCounterDataInfo_Params, numPopulatedSamples)
M(PmSampleInfo, sampler, CUpti_PmSampling_CounterData_GetSampleInfo_Params, pPmSamplingObject)
M(PmSampleInfo, data, CUpti_PmSampling_CounterData_GetSampleInfo_Params, pCounterDataImage)
M(PmSampleInfo, size, CUpti_PmSampling_CounterData_GetSampleInfo_Params, counterDataImageSize)
M(PmSampleInfo, index, CUpti_PmSampling_CounterData_GetSampleInfo_Params, sampleIndex)
M(PmSampleInfo, start, CUpti_PmSampling_CounterData_GetSampleInfo_Params, startTimestamp)
M(RangeEnable, context, CUpti_RangeProfiler_Enable_Params, ctx)
M(RangeStop, ranger, CUpti_RangeProfiler_Stop_Params, pRangeProfilerObject)
M(RangeStop, pass, CUpti_RangeProfiler_Stop_Params, passIndex)
M(RangeStop, nesting_level, CUpti_RangeProfiler_Stop_Params, targetNestingLevel)
M(RangeSetConfig, ranger, CUpti_RangeProfiler_SetConfig_Params, pRangeProfilerObject)
M(RangeSetConfig, config_size, CUpti_RangeProfiler_SetConfig_Params, configSize)
M(RangeSetConfig, config, CUpti_RangeProfiler_SetConfig_Params, pConfig)
M(RangeSetConfig, data_size, CUpti_RangeProfiler_SetConfig_Params, counterDataImageSize)
M(RangeSetConfig, data, CUpti_RangeProfiler_SetConfig_Params, pCounterDataImage)
M(RangeSetConfig, range, CUpti_RangeProfiler_SetConfig_Params, range)
M(RangeSetConfig, replay, CUpti_RangeProfiler_SetConfig_Params, replayMode)
M(RangeSetConfig, max_ranges_per_pass, CUpti_RangeProfiler_SetConfig_Params, maxRangesPerPass)
M(RangeSetConfig, nesting_levels, CUpti_RangeProfiler_SetConfig_Params, numNestingLevels)
M(RangeSetConfig, min_nesting_level, CUpti_RangeProfiler_SetConfig_Params, minNestingLevel)
M(RangeSetConfig, pass, CUpti_RangeProfiler_SetConfig_Params, passIndex)
M(RangeDecode, ranger, CUpti_RangeProfiler_DecodeData_Params, pRangeProfilerObject)
M(RangeGetDataSize, ranger, CUpti_RangeProfiler_GetCounterDataSize_Params, pRangeProfilerObject)
M(RangeGetDataSize, names, CUpti_RangeProfiler_GetCounterDataSize_Params, pMetricNames)
M(RangeGetDataSize, count, CUpti_RangeProfiler_GetCounterDataSize_Params, numMetrics)
M(RangeGetDataSize, max_ranges, CUpti_RangeProfiler_GetCounterDataSize_Params, maxNumOfRanges)
M(RangeGetDataSize, max_tree_nodes, CUpti_RangeProfiler_GetCounterDataSize_Params, maxNumRangeTreeNodes)
M(RangeInitializeData, ranger, CUpti_RangeProfiler_CounterDataImage_Initialize_Params, pRangeProfilerObject)
M(RangeInitializeData, size, CUpti_RangeProfiler_CounterDataImage_Initialize_Params, counterDataSize)
M(RangeDataInfo, data, CUpti_RangeProfiler_GetCounterDataInfo_Params, pCounterDataImage)
M(RangeDataInfo, size, CUpti_RangeProfiler_GetCounterDataInfo_Params, counterDataImageSize)
M(RangeInfo, data, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, pCounterDataImage)
M(RangeInfo, size, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, counterDataImageSize)
M(RangeInfo, index, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, rangeIndex)
M(RangeInfo, delimiter, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, rangeDelimiter)
M(CallbackData, site, CUpti_CallbackData, callbackSite)
M(CallbackData, function, CUpti_CallbackData, functionName)
M(CallbackData, parameters, CUpti_CallbackData, functionParams)
M(CallbackData, return_value, CUpti_CallbackData, functionReturnValue)
M(CallbackData, symbol, CUpti_CallbackData, symbolName)
M(CallbackData, context, CUpti_CallbackData, context)
M(CallbackData, context_id, CUpti_CallbackData, contextUid)
M(CallbackData, correlation_data, CUpti_CallbackData, correlationData)
M(CallbackData, correlation_id, CUpti_CallbackData, correlationId)
#undef M
static_assert(sizeof(CallbackData) == sizeof(CUpti_CallbackData));

#define PERFSUITE_CUPTI_CHECK_FUNCTION(symbol, member, parameters) \
  static_assert(equal(shape(decltype(&::symbol)(nullptr)), shape(decltype(Api::member)(nullptr))), #symbol);
PERFSUITE_CUPTI_PROFILER_FUNCTIONS(PERFSUITE_CUPTI_CHECK_FUNCTION)

}  // namespace
}  // namespace perfsuite::cupti_profiler
#endif
