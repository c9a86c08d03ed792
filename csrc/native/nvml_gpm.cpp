#include "nvml_gpm.h"

namespace perfsuite {

const std::array<Gpm::Metric, Gpm::kMetrics>& Gpm::metrics() {
  constexpr double kPercent = 1e-2, kMiB = 1 << 20;
  static const std::array<Metric, kMetrics> table{{
      {nvml::kGpmSm, {"gpm_sm_share", "share", ""}, kPercent},
      {nvml::kGpmAnyTensor, {"gpm_tensor_share", "share", ""}, kPercent},
      {nvml::kGpmDram, {"gpm_dram_share", "share", ""}, kPercent},
      {nvml::kGpmPcieTx, {"gpm_pcie_tx_bytes_per_s", "B/s", ""}, kMiB},
      {nvml::kGpmPcieRx, {"gpm_pcie_rx_bytes_per_s", "B/s", ""}, kMiB},
      {nvml::kGpmNvlinkTx, {"gpm_nvlink_tx_bytes_per_s", "B/s", ""}, kMiB},
      {nvml::kGpmNvlinkRx, {"gpm_nvlink_rx_bytes_per_s", "B/s", ""}, kMiB},
  }};
  return table;
}

Gpm::~Gpm() {
  for (nvml::GpmSample sample : {newest_, spare_})
    if (sample) api_.gpm_free(sample);
}

Gpm::Window Gpm::between(nvml::GpmSample first, nvml::GpmSample second) const {
  nvml::GpmMetricsGet request{};
  request.version = nvml::kGpmMetricsGetVersion;
  request.num_metrics = kMetrics;
  request.first = first;
  request.second = second;
  for (size_t i = 0; i < kMetrics; ++i) request.metrics[i].id = metrics()[i].id;
  Window window;
  window.code = api_.gpm_metrics(&request);
  window.ended = window.code == nvml::kSuccess;
  if (!window.ended) window.failed = "nvmlGpmMetricsGet";
  for (size_t i = 0; i < kMetrics; ++i) window.metrics[i] = request.metrics[i];
  return window;
}

}  // namespace perfsuite
