#include "nvml_source.h"

#include <dlfcn.h>

#include <cstdlib>

namespace perfsuite {
namespace {

using nvml::Api;
using nvml::Device;
using nvml::FieldValue;
using nvml::Return;

struct Field {
  unsigned id;
  const char* name;
  const char* unit;
  double scale;    // from NVML's unit to this one
  int driver = 0;  // the first in which the id means this
};

// Read together: NVML answers those that need the same driver call with one. PCIe traffic comes from the byte counters,
// because nvmlDeviceGetPcieThroughput blocks its caller for 20 ms.
constexpr Field kFields[] = {
    {nvml::kFieldPowerInstant, "power_instant_w", "W", 1e-3},
    {nvml::kFieldPowerAverage, "power_average_w", "W", 1e-3},
    {nvml::kFieldTotalEnergy, "energy_j", "J", 1e-3},
    {nvml::kFieldMemoryTemperature, "temperature_memory_c", "C", 1},
    {nvml::kFieldPcieTxBytes, "pcie_tx_bytes", "B", 1},
    {nvml::kFieldPcieRxBytes, "pcie_rx_bytes", "B", 1},
    {nvml::kFieldSwPowerCap, "clock_event_sw_power_cap_ns", "ns", 1},
    {nvml::kFieldSyncBoost, "clock_event_sync_boost_ns", "ns", 1},
    {nvml::kFieldSwThermal, "clock_event_sw_thermal_ns", "ns", 1, nvml::kClockEventFieldsDriver},
    {nvml::kFieldHwThermal, "clock_event_hw_thermal_ns", "ns", 1, nvml::kClockEventFieldsDriver},
    {nvml::kFieldPowerBrake, "clock_event_power_brake_ns", "ns", 1, nvml::kClockEventFieldsDriver},
};

double number(const FieldValue& value) {
  switch (value.value_type) {
    case nvml::kDouble: return value.value.as_double;
    case nvml::kUnsignedInt: return value.value.as_unsigned;
    case nvml::kUnsignedLong: return double(value.value.as_unsigned_long);
    case nvml::kUnsignedLongLong: return double(value.value.as_unsigned_long_long);
    case nvml::kSignedLongLong: return double(value.value.as_long_long);
    case nvml::kSignedInt: return value.value.as_int;
    case nvml::kUnsignedShort: return value.value.as_unsigned_short;
    default: return kMissing;
  }
}

std::string field_text(unsigned id, const std::string& name) {
  return "field " + std::to_string(id) + " (" + name + ")";
}

// A code that no wrapper returns when the function itself is there.
constexpr Return kSymbolMissing = -1;

template <class... P, class... A>
Return call(Return (*function)(P...), A... arguments) {
  return function ? function(arguments...) : kSymbolMissing;
}

}  // namespace

const NvmlSource::Call& NvmlSource::power_usage_call() {
  static const Call entry{"nvmlDeviceGetPowerUsage",
                          [](const Api& api, Device device, double* values) {
                            unsigned mw = 0;
                            const Return code = call(api.power_usage, device, &mw);
                            values[0] = 1e-3 * mw;
                            return code;
                          },
                          {{"power_usage_w", "W", ""}}};
  return entry;
}

const NvmlSource::Call& NvmlSource::total_energy_call() {
  static const Call entry{"nvmlDeviceGetTotalEnergyConsumption",
                          [](const Api& api, Device device, double* values) {
                            unsigned long long mj = 0;
                            const Return code = call(api.total_energy, device, &mj);
                            values[0] = 1e-3 * double(mj);
                            return code;
                          },
                          {{"energy_j", "J", ""}}};
  return entry;
}

const std::vector<NvmlSource::Call>& NvmlSource::status_calls() {
  static const std::vector<Call> table{
      {"nvmlDeviceGetUtilizationRates",
       [](const Api& api, Device device, double* values) {
         nvml::Utilization rates{};
         const Return code = call(api.utilization, device, &rates);
         values[0] = rates.gpu;
         values[1] = rates.memory;
         return code;
       },
       {{"utilisation_gpu_percent", "%", ""}, {"utilisation_memory_percent", "%", ""}}},
      {"nvmlDeviceGetClockInfo",
       [](const Api& api, Device device, double* values) {
         unsigned mhz = 0;
         const Return code = call(api.clock, device, nvml::kClockSm, &mhz);
         values[0] = mhz;
         return code;
       },
       {{"clock_sm_mhz", "MHz", ""}}},
      {"nvmlDeviceGetClockInfo",
       [](const Api& api, Device device, double* values) {
         unsigned mhz = 0;
         const Return code = call(api.clock, device, nvml::kClockMemory, &mhz);
         values[0] = mhz;
         return code;
       },
       {{"clock_memory_mhz", "MHz", ""}}},
      {"nvmlDeviceGetTemperature",
       [](const Api& api, Device device, double* values) {
         unsigned celsius = 0;
         const Return code = call(api.temperature, device, nvml::kTemperatureCore, &celsius);
         values[0] = celsius;
         return code;
       },
       {{"temperature_core_c", "C", ""}}},
      {"nvmlDeviceGetCurrentClocksEventReasons",
       [](const Api& api, Device device, double* values) {
         unsigned long long bits = 0;
         // The same query had the older name before driver 535.
         auto* query = api.clock_event_reasons ? api.clock_event_reasons : api.throttle_reasons;
         const Return code = call(query, device, &bits);
         values[0] = double(bits);
         return code;
       },
       {{"clock_event_reasons", "bitmask", ""}}},
      {"nvmlDeviceGetMemoryInfo",
       [](const Api& api, Device device, double* values) {
         nvml::Memory memory{};
         const Return code = call(api.memory, device, &memory);
         values[0] = double(memory.used);
         return code;
       },
       {{"memory_used_bytes", "B", ""}}},
  };
  return table;
}

NvmlSource::NvmlSource(const std::string& library) {
  unavailable_ = load(library);
  if (!unavailable_.empty()) return;
  unsigned count = 0;
  const Return code = call(api_.count, &count);
  if (code != nvml::kSuccess)
    unavailable_ = why("nvmlDeviceGetCount_v2", code, false);
  else if (count == 0)
    unavailable_ = library + " sees no GPU";
  for (unsigned i = 0; code == nvml::kSuccess && i < count; ++i) {
    Gpu gpu;
    gpu.index = i;
    Device device = nullptr;
    const Return got = call(api_.handle, i, &device);
    if (got == nvml::kSuccess)
      describe(gpu, device);
    else
      gpu.reason = gpu.power_limit_reason = why("nvmlDeviceGetHandleByIndex_v2", got, false);
    gpus_.push_back(gpu);
    plan(gpu, device);
  }
}

NvmlSource::~NvmlSource() {
  plans_.clear();  // gives back the samples of GPM
  if (initialised_) call(api_.shutdown);  // the library itself stays loaded: others in the process may hold it
}

std::string NvmlSource::load(const std::string& library) {
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* error = dlerror();
    return "no NVIDIA driver: " + (error ? std::string(error) : library + " cannot be loaded");
  }
#define PERFSUITE_NVML_LOAD(symbol, member, parameters) \
  api_.member = reinterpret_cast<decltype(api_.member)>(dlsym(handle, #symbol));
  PERFSUITE_NVML_FUNCTIONS(PERFSUITE_NVML_LOAD)
#undef PERFSUITE_NVML_LOAD
  api_.error_string = reinterpret_cast<decltype(api_.error_string)>(dlsym(handle, "nvmlErrorString"));
  const Return code = call(api_.init);
  initialised_ = code == nvml::kSuccess;
  char version[nvml::kDriverVersionBytes] = "";
  if (initialised_ && call(api_.driver_version, version, nvml::kDriverVersionBytes) == nvml::kSuccess)
    driver_ = std::atoi(version);  // "580.159.03"
  return initialised_ ? "" : why("nvmlInit_v2", code, false);
}

void NvmlSource::describe(Gpu& gpu, Device device) const {
  char text[nvml::kNameBytes] = "";
  if (call(api_.name, device, text, nvml::kNameBytes) == nvml::kSuccess) gpu.name = text;
  char uuid[nvml::kUuidBytes] = "";
  if (call(api_.uuid, device, uuid, nvml::kUuidBytes) == nvml::kSuccess) gpu.uuid = uuid;
  unsigned now = 0, pending = 0;
  gpu.mig = call(api_.mig_mode, device, &now, &pending) == nvml::kSuccess && now == 1;
  unsigned mw = 0;
  const Return code = call(api_.power_limit, device, &mw);
  if (code == nvml::kSuccess)
    gpu.power_limit_w = 1e-3 * mw;
  else
    gpu.power_limit_reason = why("nvmlDeviceGetEnforcedPowerLimit", code, gpu.mig);
}

// Tries everything once: what this GPU or driver does not have is then known with its reason, and costs nothing later.
void NvmlSource::plan(const Gpu& gpu, Device device) {
  const std::string prefix = "gpu" + std::to_string(gpu.index) + "_";
  Plan plan;
  plan.device = device;

  for (const Field& field : kFields) {
    // One by one: a driver that refuses the whole call for a field that it does not know must not cost the others.
    FieldValue value{field.id, 0, 0, 0, 0, kSymbolMissing, {}};
    Return all = nvml::kSuccess;
    std::string absent = gpu.reason;
    if (absent.empty() && driver_ < field.driver)
      absent = field_text(field.id, field.name) + ": means this from driver " + std::to_string(field.driver) + " on";
    if (absent.empty()) all = call(api_.field_values, device, 1, &value);
    if (absent.empty() && all != nvml::kSuccess) absent = why("nvmlDeviceGetFieldValues", all, gpu.mig);
    if (absent.empty() && value.result != nvml::kSuccess)
      absent = why(field_text(field.id, field.name), value.result, gpu.mig);
    const bool replace = !absent.empty() && gpu.reason.empty();
    if (replace && field.id == nvml::kFieldTotalEnergy) {  // has a function of its own with the same meaning
      plan_call(gpu, total_energy_call(), plan, plan.timed);
      continue;
    }
    if (absent.empty()) plan.fields.push_back({field.id, columns_.size(), field.scale});
    columns_.push_back({prefix + field.name, field.unit, absent});
    // Its meaning depends on the architecture (an average over a second, or not), so it is a column of its own.
    if (replace && field.id == nvml::kFieldPowerAverage) plan_call(gpu, power_usage_call(), plan, plan.timed);
  }
  for (const Call& entry : status_calls()) plan_call(gpu, entry, plan, plan.rest);
  plan.read_ns = columns_.size();
  columns_.push_back({prefix + "read_ns", "ns", gpu.reason});
  plan_gpm(gpu, plan);
  if (buffer_.size() < plan.fields.size()) buffer_.resize(plan.fields.size());
  plans_.push_back(std::move(plan));
}

void NvmlSource::plan_gpm(const Gpu& gpu, Plan& plan) {
  std::string absent = gpu.reason;
  if (absent.empty() && gpu.mig) absent = "GPM: MIG mode is on, and it is not read of single instances";
  if (absent.empty()) {
    plan.gpm = std::make_unique<Gpm>(api_, plan.device);
    absent = plan.gpm->open([&](const char* symbol, Return code) { return why(symbol, code, gpu.mig); });
    if (!absent.empty()) plan.gpm.reset();
  }
  plan.first_gpm = columns_.size();
  for (const Gpm::Metric& metric : Gpm::metrics())
    columns_.push_back({"gpu" + std::to_string(gpu.index) + "_" + metric.column.name, metric.column.unit, absent});
}

void NvmlSource::plan_call(const Gpu& gpu, const Call& entry, Plan& plan, std::vector<PlannedCall>& calls) {
  std::string absent = gpu.reason;
  double ignored[2];
  if (absent.empty()) {
    const Return code = entry.read(api_, plan.device, ignored);
    if (code != nvml::kSuccess) absent = why(entry.symbol, code, gpu.mig);
  }
  if (absent.empty()) calls.push_back({&entry, columns_.size()});
  for (const Column& column : entry.columns)
    columns_.push_back({"gpu" + std::to_string(gpu.index) + "_" + column.name, column.unit, absent});
}

void NvmlSource::read(Reading& row) {
  // Power and energy of all GPUs come first, nearest to the sample's time; read_ns bounds how much later that was.
  for (size_t i = 0; i < plans_.size(); ++i) {
    if (!gpus_[i].reason.empty()) continue;
    read_fields(plans_[i], row);
    read_calls(plans_[i], plans_[i].timed, row);
    row.set(plans_[i].read_ns, row.elapsed_ns());
  }
  for (const Plan& plan : plans_) {
    read_calls(plan, plan.rest, row);
    if (plan.gpm) read_gpm(plan, row);
  }
}

void NvmlSource::read_fields(const Plan& plan, Reading& row) {
  if (plan.fields.empty()) return;
  for (size_t i = 0; i < plan.fields.size(); ++i)
    buffer_[i] = FieldValue{plan.fields[i].field, 0, 0, 0, 0, kSymbolMissing, {}};
  const Return all = call(api_.field_values, plan.device, int(plan.fields.size()), buffer_.data());
  for (size_t i = 0; i < plan.fields.size(); ++i) {
    const PlannedField& field = plan.fields[i];
    if (all != nvml::kSuccess)
      row.fail(field.column, why("nvmlDeviceGetFieldValues", all, mig(plan)));
    else if (buffer_[i].result != nvml::kSuccess)
      row.fail(field.column, why("field " + std::to_string(field.field), buffer_[i].result, mig(plan)));
    else if (const double value = number(buffer_[i]); std::isnan(value))
      row.fail(field.column, "field " + std::to_string(field.field) + ": a value of an unknown type");
    else
      row.set(field.column, field.scale * value);
  }
}

void NvmlSource::read_calls(const Plan& plan, const std::vector<PlannedCall>& calls, Reading& row) {
  for (const PlannedCall& planned : calls) {
    double values[2];
    const Return code = planned.call->read(api_, plan.device, values);
    for (size_t i = 0; i < planned.call->columns.size(); ++i) {
      if (code == nvml::kSuccess)
        row.set(planned.first + i, values[i]);
      else
        row.fail(planned.first + i, why(planned.call->symbol, code, mig(plan)));
    }
  }
}

void NvmlSource::read_gpm(const Plan& plan, Reading& row) {
  const Gpm::Window window = plan.gpm->read([&] { return row.now_ns(); });
  if (!window.ended && !window.failed) return;
  for (size_t i = 0; i < Gpm::kMetrics; ++i) {
    const Gpm::Metric& metric = Gpm::metrics()[i];
    const nvml::GpmMetric& got = window.metrics[i];
    const size_t column = plan.first_gpm + i;
    if (window.failed)
      row.fail(column, why(window.failed, window.code, mig(plan)));
    else if (got.result != nvml::kSuccess)
      row.fail(column, why("GPM metric " + std::to_string(metric.id), got.result, mig(plan)));
    else if (!std::isfinite(got.value) || got.value < 0)
      row.fail(column, "GPM metric " + std::to_string(metric.id) + ": not a number or below zero");
    else
      row.set(column, metric.scale * got.value);
  }
}

std::string NvmlSource::why(const std::string& what, Return code, bool mig) const {
  if (code == kSymbolMissing) return what + ": not in this driver's library";
  std::string text = what + ": ";
  const char* known = api_.error_string ? api_.error_string(code) : nullptr;
  text += known ? std::string(known) : "NVML error " + std::to_string(code);
  if (code == nvml::kNotSupported && mig) text += " (MIG mode is on)";
  return text;
}

}  // namespace perfsuite
