// The parts of CUPTI that plan, collect and evaluate hardware counters (profiler host, PM sampling, range profiler, and
// the callbacks on kernel launches), declared so that no vendor header is needed to build.
// cupti_profiler_check.cpp compares all of it with the vendor's headers where those are installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace perfsuite::cupti_profiler {

using Result = int;  // CUptiResult
constexpr Result kSuccess = 0, kInvalidParameter = 1, kInvalidOperation = 7, kOutOfMemory = 8, kInvalidMetricName = 17;
constexpr Result kHardwareBusy = 26, kNotSupported = 27, kInsufficientPrivileges = 35, kMultipleSubscribers = 39;
constexpr Result kVirtualizedInsufficientPrivileges = 40, kConfidentialComputing = 41, kMigDevice = 43;
constexpr Result kInvalidChipName = 46, kUnknown = 999;

// CUpti_MetricType and CUpti_ProfilerType
constexpr int kCounter = 0, kRatio = 1, kThroughput = 2;
constexpr int kRangeProfiler = 0, kPmSampling = 1;

// CUpti_PmSampling_TriggerMode, _HardwareBuffer_AppendMode, _DecodeStopReason
constexpr int kTriggerSysclkCycles = 0, kTriggerTimeNs = 1;
constexpr int kKeepOldest = 0, kKeepLatest = 1;
constexpr int kStopOther = 0, kStopImageFull = 1, kStopEndOfRecords = 2;

// CUpti_ProfilerRange, CUpti_ProfilerReplayMode
constexpr int kAutoRange = 1, kKernelReplay = 2;

// CUpti_CallbackDomain, CUpti_ApiCallbackSite, and the CUPTI_DRIVER_TRACE_CBID_* of what launches kernels
constexpr int kDriverApi = 1;
constexpr int kApiEnter = 0, kApiExit = 1;
constexpr uint32_t kLaunchKernel = 307, kLaunchKernelPtsz = 442, kLaunchCooperative = 477, kLaunchCooperativePtsz = 478;
constexpr uint32_t kGraphLaunch = 514, kGraphLaunchPtsz = 515, kLaunchKernelEx = 652, kLaunchKernelExPtsz = 653;

using Host = void*;       // CUpti_Profiler_Host_Object*
using PmSampler = void*;  // CUpti_PmSampling_Object*
using Ranger = void*;     // CUpti_RangeProfiler_Object*
using Context = void*;    // CUcontext
using Subscriber = void*;

// Each struct begins with its size: to the end of its last member, without padding. CUPTI refuses another one.
struct Head {
  size_t struct_size;
  void* priv;
};

struct HostInitialize : Head { int profiler; const char* chip; const uint8_t* availability; Host host; };
struct HostDeinitialize : Head { Host host; };
struct HostGetSupportedChips : Head { size_t count; const char* const* names; };
struct HostGetBaseMetrics : Head { Host host; int type; const char** names; size_t count; };
struct HostGetMetricProperties : Head {
  Host host;
  const char *name, *description, *hw_unit, *unit;
  int type;
};
struct HostConfigAddMetrics : Head { Host host; const char** names; size_t count; };
struct HostGetConfigImageSize : Head { Host host; size_t size; };
struct HostGetConfigImage : Head { Host host; size_t size; uint8_t* image; };
struct HostGetNumOfPasses : Head { size_t size; uint8_t* image; size_t passes; };
struct HostEvaluate : Head {
  Host host;
  const uint8_t* data;
  size_t data_size, index;
  const char** names;
  size_t count;
  double* values;
};

struct DeviceGetChipName : Head { size_t device; const char* name; };
struct ProfilerInitialize : Head {};
struct ProfilerDeInitialize : Head {};
struct ProfilerGetAvailability : Head { Context context; size_t size; uint8_t* image; };

struct PmEnable : Head { size_t device; PmSampler sampler; };
struct PmDisable : Head { PmSampler sampler; };
struct PmStart : Head { PmSampler sampler; };
struct PmStop : Head { PmSampler sampler; };
struct PmGetAvailability : Head { size_t device; size_t size; uint8_t* image; };
struct PmSetConfig : Head {
  PmSampler sampler;
  size_t config_size;
  const uint8_t* config;
  size_t hardware_buffer_bytes;
  uint64_t interval;
  int trigger, append;
};
struct PmGetDataSize : Head { PmSampler sampler; const char** names; size_t count; uint32_t max_samples; size_t size; };
struct PmInitializeData : Head { PmSampler sampler; size_t size; uint8_t* data; };
struct PmDecode : Head { PmSampler sampler; uint8_t* data; size_t size; int stop_reason; uint8_t overflow; };
struct PmDataInfo : Head { const uint8_t* data; size_t size, total, populated, completed; };
struct PmSampleInfo : Head { PmSampler sampler; const uint8_t* data; size_t size, index; uint64_t start, end; };

struct RangeEnable : Head { Context context; Ranger ranger; };
struct RangeDisable : Head { Ranger ranger; };
struct RangeStart : Head { Ranger ranger; };
struct RangeStop : Head { Ranger ranger; size_t pass, nesting_level; uint8_t all_passes_submitted; };
struct RangeSetConfig : Head {
  Ranger ranger;
  size_t config_size;
  const uint8_t* config;
  size_t data_size;
  uint8_t* data;
  int range, replay;
  size_t max_ranges_per_pass;
  uint16_t nesting_levels, min_nesting_level;
  size_t pass;
  uint16_t target_nesting_level;
};
struct RangeDecode : Head { Ranger ranger; size_t dropped; };
struct RangeGetDataSize : Head {
  Ranger ranger;
  const char** names;
  size_t count, max_ranges;
  uint32_t max_tree_nodes;
  size_t size;
};
struct RangeInitializeData : Head { Ranger ranger; size_t size; uint8_t* data; };
struct RangeDataInfo : Head { const uint8_t* data; size_t size, total; };
struct RangeInfo : Head { const uint8_t* data; size_t size, index; const char *delimiter, *name; };

struct CallbackData {  // CUpti_CallbackData
  int site;
  const char* function;
  const void* parameters;
  void* return_value;
  const char* symbol;
  Context context;
  uint32_t context_id;
  uint64_t* correlation_data;
  uint32_t correlation_id;
};
using Callback = void (*)(void* user, int domain, uint32_t callback, const CallbackData* data);

// our struct, the vendor's, our last member, the vendor's last member
#define PERFSUITE_CUPTI_STRUCTS(S)                                                                                   \
  S(HostInitialize, CUpti_Profiler_Host_Initialize_Params, host, pHostObject)                                        \
  S(HostDeinitialize, CUpti_Profiler_Host_Deinitialize_Params, host, pHostObject)                                    \
  S(HostGetSupportedChips, CUpti_Profiler_Host_GetSupportedChips_Params, names, ppChipNames)                         \
  S(HostGetBaseMetrics, CUpti_Profiler_Host_GetBaseMetrics_Params, count, numMetrics)                                \
  S(HostGetMetricProperties, CUpti_Profiler_Host_GetMetricProperties_Params, type, metricType)                       \
  S(HostConfigAddMetrics, CUpti_Profiler_Host_ConfigAddMetrics_Params, count, numMetrics)                            \
  S(HostGetConfigImageSize, CUpti_Profiler_Host_GetConfigImageSize_Params, size, configImageSize)                    \
  S(HostGetConfigImage, CUpti_Profiler_Host_GetConfigImage_Params, image, pConfigImage)                              \
  S(HostGetNumOfPasses, CUpti_Profiler_Host_GetNumOfPasses_Params, passes, numOfPasses)                              \
  S(HostEvaluate, CUpti_Profiler_Host_EvaluateToGpuValues_Params, values, pMetricValues)                             \
  S(DeviceGetChipName, CUpti_Device_GetChipName_Params, name, pChipName)                                             \
  S(ProfilerInitialize, CUpti_Profiler_Initialize_Params, priv, pPriv)                                               \
  S(ProfilerDeInitialize, CUpti_Profiler_DeInitialize_Params, priv, pPriv)                                           \
  S(ProfilerGetAvailability, CUpti_Profiler_GetCounterAvailability_Params, image, pCounterAvailabilityImage)         \
  S(PmEnable, CUpti_PmSampling_Enable_Params, sampler, pPmSamplingObject)                                            \
  S(PmDisable, CUpti_PmSampling_Disable_Params, sampler, pPmSamplingObject)                                          \
  S(PmStart, CUpti_PmSampling_Start_Params, sampler, pPmSamplingObject)                                              \
  S(PmStop, CUpti_PmSampling_Stop_Params, sampler, pPmSamplingObject)                                                \
  S(PmGetAvailability, CUpti_PmSampling_GetCounterAvailability_Params, image, pCounterAvailabilityImage)             \
  S(PmSetConfig, CUpti_PmSampling_SetConfig_Params, append, hwBufferAppendMode)                                      \
  S(PmGetDataSize, CUpti_PmSampling_GetCounterDataSize_Params, size, counterDataSize)                                \
  S(PmInitializeData, CUpti_PmSampling_CounterDataImage_Initialize_Params, data, pCounterData)                       \
  S(PmDecode, CUpti_PmSampling_DecodeData_Params, overflow, overflow)                                                \
  S(PmDataInfo, CUpti_PmSampling_GetCounterDataInfo_Params, completed, numCompletedSamples)                          \
  S(PmSampleInfo, CUpti_PmSampling_CounterData_GetSampleInfo_Params, end, endTimestamp)                              \
  S(RangeEnable, CUpti_RangeProfiler_Enable_Params, ranger, pRangeProfilerObject)                                    \
  S(RangeDisable, CUpti_RangeProfiler_Disable_Params, ranger, pRangeProfilerObject)                                  \
  S(RangeStart, CUpti_RangeProfiler_Start_Params, ranger, pRangeProfilerObject)                                      \
  S(RangeStop, CUpti_RangeProfiler_Stop_Params, all_passes_submitted, isAllPassSubmitted)                            \
  S(RangeSetConfig, CUpti_RangeProfiler_SetConfig_Params, target_nesting_level, targetNestingLevel)                  \
  S(RangeDecode, CUpti_RangeProfiler_DecodeData_Params, dropped, numOfRangeDropped)                                  \
  S(RangeGetDataSize, CUpti_RangeProfiler_GetCounterDataSize_Params, size, counterDataSize)                          \
  S(RangeInitializeData, CUpti_RangeProfiler_CounterDataImage_Initialize_Params, data, pCounterData)                 \
  S(RangeDataInfo, CUpti_RangeProfiler_GetCounterDataInfo_Params, total, numTotalRanges)                             \
  S(RangeInfo, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, name, rangeName)

// A struct, zeroed, with its size filled in.
template <class P>
P params();
#pragma GCC diagnostic push
// Of a struct with a base: laid out as in C, which is checked against the vendor's.
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
#define PERFSUITE_CUPTI_PARAMS(ours, theirs, last, their_last)                      \
  template <>                                                                       \
  inline ours params<ours>() {                                                      \
    ours p{};                                                                       \
    p.struct_size = offsetof(ours, last) + sizeof(p.last);                          \
    return p;                                                                       \
  }
PERFSUITE_CUPTI_STRUCTS(PERFSUITE_CUPTI_PARAMS)
#undef PERFSUITE_CUPTI_PARAMS
#pragma GCC diagnostic pop

// name in the library, member, parameters
#define PERFSUITE_CUPTI_PROFILER_FUNCTIONS(F)                                                     \
  F(cuptiGetVersion, version, (uint32_t*))                                                        \
  F(cuptiGetResultString, result_string, (Result, const char**))                                  \
  F(cuptiGetTimestamp, timestamp, (uint64_t*))                                                    \
  F(cuptiProfilerHostInitialize, host_initialize, (HostInitialize*))                              \
  F(cuptiProfilerHostDeinitialize, host_deinitialize, (HostDeinitialize*))                        \
  F(cuptiProfilerHostGetSupportedChips, host_chips, (HostGetSupportedChips*))                     \
  F(cuptiProfilerHostGetBaseMetrics, host_base_metrics, (HostGetBaseMetrics*))                    \
  F(cuptiProfilerHostGetMetricProperties, host_properties, (HostGetMetricProperties*))            \
  F(cuptiProfilerHostConfigAddMetrics, host_add_metrics, (HostConfigAddMetrics*))                 \
  F(cuptiProfilerHostGetConfigImageSize, host_config_size, (HostGetConfigImageSize*))             \
  F(cuptiProfilerHostGetConfigImage, host_config, (HostGetConfigImage*))                          \
  F(cuptiProfilerHostGetNumOfPasses, host_passes, (HostGetNumOfPasses*))                          \
  F(cuptiProfilerHostEvaluateToGpuValues, host_evaluate, (HostEvaluate*))                         \
  F(cuptiDeviceGetChipName, chip_name, (DeviceGetChipName*))                                      \
  F(cuptiProfilerInitialize, initialize, (ProfilerInitialize*))                                   \
  F(cuptiProfilerDeInitialize, deinitialize, (ProfilerDeInitialize*))                             \
  F(cuptiProfilerGetCounterAvailability, range_availability, (ProfilerGetAvailability*))          \
  F(cuptiPmSamplingGetCounterAvailability, pm_availability, (PmGetAvailability*))                 \
  F(cuptiPmSamplingEnable, pm_enable, (PmEnable*))                                                \
  F(cuptiPmSamplingDisable, pm_disable, (PmDisable*))                                             \
  F(cuptiPmSamplingSetConfig, pm_set_config, (PmSetConfig*))                                      \
  F(cuptiPmSamplingGetCounterDataSize, pm_data_size, (PmGetDataSize*))                            \
  F(cuptiPmSamplingCounterDataImageInitialize, pm_initialize_data, (PmInitializeData*))           \
  F(cuptiPmSamplingStart, pm_start, (PmStart*))                                                   \
  F(cuptiPmSamplingStop, pm_stop, (PmStop*))                                                      \
  F(cuptiPmSamplingDecodeData, pm_decode, (PmDecode*))                                            \
  F(cuptiPmSamplingGetCounterDataInfo, pm_data_info, (PmDataInfo*))                               \
  F(cuptiPmSamplingCounterDataGetSampleInfo, pm_sample_info, (PmSampleInfo*))                     \
  F(cuptiRangeProfilerEnable, range_enable, (RangeEnable*))                                       \
  F(cuptiRangeProfilerDisable, range_disable, (RangeDisable*))                                    \
  F(cuptiRangeProfilerSetConfig, range_set_config, (RangeSetConfig*))                             \
  F(cuptiRangeProfilerGetCounterDataSize, range_data_size, (RangeGetDataSize*))                   \
  F(cuptiRangeProfilerCounterDataImageInitialize, range_initialize_data, (RangeInitializeData*))  \
  F(cuptiRangeProfilerStart, range_start, (RangeStart*))                                          \
  F(cuptiRangeProfilerStop, range_stop, (RangeStop*))                                             \
  F(cuptiRangeProfilerDecodeData, range_decode, (RangeDecode*))                                   \
  F(cuptiRangeProfilerGetCounterDataInfo, range_data_info, (RangeDataInfo*))                      \
  F(cuptiRangeProfilerCounterDataGetRangeInfo, range_info, (RangeInfo*))                          \
  F(cuptiSubscribe, subscribe, (Subscriber*, Callback, void*))                                    \
  F(cuptiUnsubscribe, unsubscribe, (Subscriber))                                                  \
  F(cuptiEnableCallback, enable_callback, (uint32_t, Subscriber, int, uint32_t))

struct Api {
#define PERFSUITE_CUPTI_MEMBER(symbol, member, parameters) Result(*member) parameters = nullptr;
  PERFSUITE_CUPTI_PROFILER_FUNCTIONS(PERFSUITE_CUPTI_MEMBER)
#undef PERFSUITE_CUPTI_MEMBER
};

}  // namespace perfsuite::cupti_profiler
