// NVIDIA GPUs through NVML, found at run time.
#pragma once

#include <memory>

#include "nvml_abi.h"
#include "nvml_gpm.h"
#include "source.h"

namespace perfsuite {

struct Gpu {
  unsigned index = 0;
  std::string name, uuid;
  double power_limit_w = kMissing;  // the enforced one, read once
  std::string power_limit_reason;   // why it is missing
  bool mig = false;
  std::string reason;  // why nothing of this GPU can be read; empty where it can
};

class NvmlSource : public Source {
 public:
  explicit NvmlSource(const std::string& library);  // what dlopen takes, e.g. "libnvidia-ml.so.1"
  ~NvmlSource() override;
  NvmlSource(const NvmlSource&) = delete;
  NvmlSource& operator=(const NvmlSource&) = delete;

  const char* label() const override { return "gpu"; }
  std::string unavailable() const override { return unavailable_; }
  const std::vector<Column>& columns() const override { return columns_; }
  const std::vector<Gpu>& gpus() const { return gpus_; }
  void read(Reading& row) override;

 private:
  // One call into the library and the columns it fills.
  struct Call {
    const char* symbol;
    nvml::Return (*read)(const nvml::Api&, nvml::Device, double* values);
    std::vector<Column> columns;  // as named in the table; the name gets the GPU's prefix
  };
  struct PlannedCall {
    const Call* call;
    size_t first;  // column of its first value
  };
  struct PlannedField {
    unsigned field;
    size_t column;
    double scale;
  };
  // What is read of one GPU at each sample. What failed with "not there" when tried at the start is not in it.
  struct Plan {
    nvml::Device device = nullptr;
    std::vector<PlannedField> fields;
    std::vector<PlannedCall> timed;  // stand in for missing fields of power and energy
    std::vector<PlannedCall> rest;
    size_t read_ns = 0;
    std::unique_ptr<Gpm> gpm;  // null where this GPU has none
    size_t first_gpm = 0;      // column of its first metric
  };

  static const std::vector<Call>& status_calls();
  static const Call& power_usage_call();
  static const Call& total_energy_call();

  std::string load(const std::string& library);
  void describe(Gpu& gpu, nvml::Device device) const;
  void plan(const Gpu& gpu, nvml::Device device);
  void plan_call(const Gpu& gpu, const Call& call, Plan& plan, std::vector<PlannedCall>& calls);
  void plan_gpm(const Gpu& gpu, Plan& plan);
  void read_fields(const Plan& plan, Reading& row);
  void read_calls(const Plan& plan, const std::vector<PlannedCall>& calls, Reading& row);
  void read_gpm(const Plan& plan, Reading& row);
  bool mig(const Plan& plan) const { return gpus_[size_t(&plan - plans_.data())].mig; }
  std::string why(const std::string& what, nvml::Return code, bool mig) const;

  nvml::Api api_;
  bool initialised_ = false;
  int driver_ = 0;  // its major version; 0 where it does not say
  std::string unavailable_;
  std::vector<Gpu> gpus_;
  std::vector<Plan> plans_;
  std::vector<Column> columns_;
  std::vector<nvml::FieldValue> buffer_;
};

}  // namespace perfsuite
