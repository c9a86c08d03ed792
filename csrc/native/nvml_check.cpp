// Compares nvml_abi.h with the vendor's header at compile time, where that is on the include path. Emits no code.
#include "nvml_abi.h"
#include "signature_shape.h"

#if __has_include(<nvml.h>)
#include <nvml.h>

#include <cstddef>

namespace perfsuite::nvml {
namespace {

static_assert(kSuccess == NVML_SUCCESS && kNotSupported == NVML_ERROR_NOT_SUPPORTED);
static_assert(kFunctionNotFound == NVML_ERROR_FUNCTION_NOT_FOUND && kGpuIsLost == NVML_ERROR_GPU_IS_LOST);
static_assert(kFieldMemoryTemperature == NVML_FI_DEV_MEMORY_TEMP);
static_assert(kFieldTotalEnergy == NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION);
static_assert(kFieldPowerAverage == NVML_FI_DEV_POWER_AVERAGE && kFieldPowerInstant == NVML_FI_DEV_POWER_INSTANT);
static_assert(kFieldPcieTxBytes == NVML_FI_DEV_PCIE_COUNT_TX_BYTES);
static_assert(kFieldPcieRxBytes == NVML_FI_DEV_PCIE_COUNT_RX_BYTES);
static_assert(kTemperatureCore == NVML_TEMPERATURE_GPU && kClockSm == NVML_CLOCK_SM && kClockMemory == NVML_CLOCK_MEM);
static_assert(kNameBytes >= NVML_DEVICE_NAME_V2_BUFFER_SIZE && kUuidBytes >= NVML_DEVICE_UUID_V2_BUFFER_SIZE);
static_assert(kDriverVersionBytes >= NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE);
static_assert(kDouble == NVML_VALUE_TYPE_DOUBLE && kUnsignedInt == NVML_VALUE_TYPE_UNSIGNED_INT);
static_assert(kUnsignedLong == NVML_VALUE_TYPE_UNSIGNED_LONG);
static_assert(kUnsignedLongLong == NVML_VALUE_TYPE_UNSIGNED_LONG_LONG);
static_assert(kSignedLongLong == NVML_VALUE_TYPE_SIGNED_LONG_LONG && kSignedInt == NVML_VALUE_TYPE_SIGNED_INT);
static_assert(kUnsignedShort == NVML_VALUE_TYPE_UNSIGNED_SHORT);

static_assert(sizeof(Value) == sizeof(nvmlValue_t) && sizeof(FieldValue) == sizeof(nvmlFieldValue_t));
static_assert(offsetof(FieldValue, field) == offsetof(nvmlFieldValue_t, fieldId));
static_assert(offsetof(FieldValue, scope) == offsetof(nvmlFieldValue_t, scopeId));
static_assert(offsetof(FieldValue, value_type) == offsetof(nvmlFieldValue_t, valueType));
static_assert(offsetof(FieldValue, result) == offsetof(nvmlFieldValue_t, nvmlReturn));
static_assert(offsetof(FieldValue, value) == offsetof(nvmlFieldValue_t, value));
static_assert(sizeof(Utilization) == sizeof(nvmlUtilization_t));
static_assert(offsetof(Utilization, gpu) == offsetof(nvmlUtilization_t, gpu));
static_assert(sizeof(Memory) == sizeof(nvmlMemory_t) && offsetof(Memory, used) == offsetof(nvmlMemory_t, used));
static_assert(kFieldSwPowerCap == NVML_FI_DEV_PERF_POLICY_POWER && kFieldSyncBoost == NVML_FI_DEV_PERF_POLICY_SYNC_BOOST);
#if NVML_API_VERSION >= 13  // earlier headers have them elsewhere, or not at all
static_assert(kFieldSwThermal == NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN);
static_assert(kFieldHwThermal == NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN);
static_assert(kFieldPowerBrake == NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN);
#endif

static_assert(kGpmSupportVersion == NVML_GPM_SUPPORT_VERSION && kGpmMetricsGetVersion == NVML_GPM_METRICS_GET_VERSION);
static_assert(kGpmSm == NVML_GPM_METRIC_SM_UTIL && kGpmAnyTensor == NVML_GPM_METRIC_ANY_TENSOR_UTIL);
static_assert(kGpmDram == NVML_GPM_METRIC_DRAM_BW_UTIL);
static_assert(kGpmPcieTx == NVML_GPM_METRIC_PCIE_TX_PER_SEC && kGpmPcieRx == NVML_GPM_METRIC_PCIE_RX_PER_SEC);
static_assert(kGpmNvlinkRx == NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC);
static_assert(kGpmNvlinkTx == NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC);
static_assert(sizeof(GpmSupport) == sizeof(nvmlGpmSupport_t) && sizeof(GpmMetric) == sizeof(nvmlGpmMetric_t));
static_assert(offsetof(GpmSupport, is_supported) == offsetof(nvmlGpmSupport_t, isSupportedDevice));
static_assert(offsetof(GpmMetric, id) == offsetof(nvmlGpmMetric_t, metricId));
static_assert(offsetof(GpmMetric, result) == offsetof(nvmlGpmMetric_t, nvmlReturn));
static_assert(offsetof(GpmMetric, value) == offsetof(nvmlGpmMetric_t, value));
static_assert(offsetof(GpmMetricsGet, num_metrics) == offsetof(nvmlGpmMetricsGet_t, numMetrics));
static_assert(offsetof(GpmMetricsGet, first) == offsetof(nvmlGpmMetricsGet_t, sample1));
static_assert(offsetof(GpmMetricsGet, second) == offsetof(nvmlGpmMetricsGet_t, sample2));
static_assert(offsetof(GpmMetricsGet, metrics) == offsetof(nvmlGpmMetricsGet_t, metrics));
static_assert(kGpmMetricsLength <= NVML_GPM_METRIC_MAX);

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#define PERFSUITE_NVML_CHECK(symbol, member, parameters) \
  static_assert(equal(shape(decltype(&::symbol)(nullptr)), shape(decltype(Api::member)(nullptr))), #symbol);
PERFSUITE_NVML_FUNCTIONS(PERFSUITE_NVML_CHECK)

}  // namespace
}  // namespace perfsuite::nvml
#endif
