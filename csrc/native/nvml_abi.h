// The part of NVIDIA's NVML interface that is used here, declared so that no vendor header is needed to build.
// nvml_check.cpp compares all of it with the vendor's nvml.h where that is installed.
#pragma once

#include <cstdint>

namespace perfsuite::nvml {

using Return = int;      // nvmlReturn_t
using Device = void*;    // nvmlDevice_t
constexpr Return kSuccess = 0, kNotSupported = 3, kFunctionNotFound = 13, kGpuIsLost = 15;

constexpr unsigned kFieldMemoryTemperature = 82;   // C
constexpr unsigned kFieldTotalEnergy = 83;         // mJ since the driver was loaded
constexpr unsigned kFieldPowerAverage = 185;       // mW
constexpr unsigned kFieldPowerInstant = 186;       // mW
constexpr unsigned kFieldPcieTxBytes = 197, kFieldPcieRxBytes = 198;
// Time during which the clocks were lowered for this reason, ns.
constexpr unsigned kFieldSwPowerCap = 74, kFieldSyncBoost = 76;
constexpr unsigned kFieldSwThermal = 269, kFieldHwThermal = 270, kFieldPowerBrake = 271;
// Those three mean something else in the drivers before this one, which had the counters at 251 to 253.
constexpr int kClockEventFieldsDriver = 580;

constexpr int kTemperatureCore = 0;                // NVML_TEMPERATURE_GPU
constexpr int kClockSm = 1, kClockMemory = 2;      // nvmlClockType_t
constexpr unsigned kNameBytes = 96, kUuidBytes = 96, kDriverVersionBytes = 80;

// nvmlValueType_t
constexpr int kDouble = 0, kUnsignedInt = 1, kUnsignedLong = 2, kUnsignedLongLong = 3, kSignedLongLong = 4;
constexpr int kSignedInt = 5, kUnsignedShort = 6;

union Value {
  double as_double;
  int as_int;
  unsigned as_unsigned;
  unsigned long as_unsigned_long;
  unsigned long long as_unsigned_long_long;
  long long as_long_long;
  unsigned short as_unsigned_short;
};

struct FieldValue {  // nvmlFieldValue_t
  unsigned field;
  unsigned scope;  // 0: the GPU
  long long timestamp_us;
  long long latency_us;
  int value_type;
  Return result;
  Value value;
};

struct Utilization {  // nvmlUtilization_t
  unsigned gpu, memory;
};

struct Memory {  // nvmlMemory_t
  unsigned long long total, free, used;
};

// GPU performance monitoring (GPM), Hopper and later. The ids are written out here: bindings of some versions have them
// wrong.
using GpmSample = void*;  // nvmlGpmSample_t
constexpr unsigned kGpmSupportVersion = 1, kGpmMetricsGetVersion = 1;
constexpr unsigned kGpmSm = 2, kGpmAnyTensor = 5, kGpmDram = 10;              // %
constexpr unsigned kGpmPcieTx = 20, kGpmPcieRx = 21;                          // MiB/s
constexpr unsigned kGpmNvlinkRx = 60, kGpmNvlinkTx = 61;                      // MiB/s
// Length of the array in the first header that had GPM. Later headers have more under the same version, so no driver
// may rely on more than `num_metrics` of them.
constexpr unsigned kGpmMetricsLength = 98;

struct GpmSupport {  // nvmlGpmSupport_t
  unsigned version, is_supported;
};

struct GpmMetric {  // nvmlGpmMetric_t
  unsigned id;
  Return result;
  double value;
  const char *short_name, *long_name, *unit;
};

struct GpmMetricsGet {  // nvmlGpmMetricsGet_t
  unsigned version, num_metrics;
  GpmSample first, second;
  GpmMetric metrics[kGpmMetricsLength];
};

// name in the library, member, parameters. Members are null where the installed driver has no such function.
#define PERFSUITE_NVML_FUNCTIONS(F)                                                             \
  F(nvmlInit_v2, init, ())                                                                      \
  F(nvmlShutdown, shutdown, ())                                                                 \
  F(nvmlSystemGetDriverVersion, driver_version, (char*, unsigned))                              \
  F(nvmlDeviceGetCount_v2, count, (unsigned*))                                                  \
  F(nvmlDeviceGetHandleByIndex_v2, handle, (unsigned, Device*))                                 \
  F(nvmlDeviceGetName, name, (Device, char*, unsigned))                                         \
  F(nvmlDeviceGetUUID, uuid, (Device, char*, unsigned))                                         \
  F(nvmlDeviceGetMigMode, mig_mode, (Device, unsigned*, unsigned*))                             \
  F(nvmlDeviceGetEnforcedPowerLimit, power_limit, (Device, unsigned*))                          \
  F(nvmlDeviceGetFieldValues, field_values, (Device, int, FieldValue*))                         \
  F(nvmlDeviceGetPowerUsage, power_usage, (Device, unsigned*))                                  \
  F(nvmlDeviceGetTotalEnergyConsumption, total_energy, (Device, unsigned long long*))           \
  F(nvmlDeviceGetUtilizationRates, utilization, (Device, Utilization*))                         \
  F(nvmlDeviceGetClockInfo, clock, (Device, int, unsigned*))                                    \
  F(nvmlDeviceGetTemperature, temperature, (Device, int, unsigned*))                            \
  F(nvmlDeviceGetCurrentClocksEventReasons, clock_event_reasons, (Device, unsigned long long*)) \
  F(nvmlDeviceGetCurrentClocksThrottleReasons, throttle_reasons, (Device, unsigned long long*)) \
  F(nvmlDeviceGetMemoryInfo, memory, (Device, Memory*))                                         \
  F(nvmlGpmQueryDeviceSupport, gpm_support, (Device, GpmSupport*))                              \
  F(nvmlGpmSampleAlloc, gpm_alloc, (GpmSample*))                                                \
  F(nvmlGpmSampleFree, gpm_free, (GpmSample))                                                   \
  F(nvmlGpmSampleGet, gpm_sample, (Device, GpmSample))                                          \
  F(nvmlGpmMetricsGet, gpm_metrics, (GpmMetricsGet*))

struct Api {
#define PERFSUITE_NVML_MEMBER(symbol, member, parameters) Return(*member) parameters = nullptr;
  PERFSUITE_NVML_FUNCTIONS(PERFSUITE_NVML_MEMBER)
#undef PERFSUITE_NVML_MEMBER
  const char* (*error_string)(Return) = nullptr;  // nvmlErrorString
};

}  // namespace perfsuite::nvml
