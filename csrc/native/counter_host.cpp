#include "counter_host.h"

#include <utility>

namespace perfsuite {

namespace abi = cupti_profiler;

std::vector<std::string> supported_chips(const CounterLibrary& library) {
  auto p = abi::params<abi::HostGetSupportedChips>();
  library.check(library.api().host_chips(&p), "cuptiProfilerHostGetSupportedChips");
  return {p.names, p.names + p.count};
}

CounterHost::CounterHost(std::shared_ptr<const CounterLibrary> library, std::string chip, Collection collection,
                         std::vector<uint8_t> availability)
    : library_(std::move(library)),
      chip_(std::move(chip)),
      collection_(collection),
      availability_(std::move(availability)),
      host_(make()) {}

CounterHost::~CounterHost() { destroy(host_); }

abi::Host CounterHost::make() const {
  auto p = abi::params<abi::HostInitialize>();
  p.profiler = int(collection_);
  p.chip = chip_.c_str();
  p.availability = availability_.empty() ? nullptr : availability_.data();
  library_->check(library_->api().host_initialize(&p), "cuptiProfilerHostInitialize");
  return p.host;
}

void CounterHost::destroy(abi::Host host) const {
  auto p = abi::params<abi::HostDeinitialize>();
  p.host = host;
  library_->api().host_deinitialize(&p);
}

std::vector<std::string> CounterHost::base_metrics(int type) const {
  auto p = abi::params<abi::HostGetBaseMetrics>();
  p.host = host_;
  p.type = type;
  library_->check(library_->api().host_base_metrics(&p), "cuptiProfilerHostGetBaseMetrics");
  return {p.names, p.names + p.count};
}

MetricProperties CounterHost::properties(const std::string& metric) const {
  auto p = abi::params<abi::HostGetMetricProperties>();
  p.host = host_;
  p.name = metric.c_str();
  library_->check(library_->api().host_properties(&p), "cuptiProfilerHostGetMetricProperties");
  const auto text = [](const char* s) { return std::string(s ? s : ""); };
  return {text(p.description), text(p.hw_unit), text(p.unit), p.type};
}

std::vector<uint8_t> CounterHost::config_image(const std::vector<std::string>& metrics) const {
  // Metrics add up in a host object for ever: each image has one of its own.
  const abi::Host host = make();
  try {
    std::vector<const char*> names;
    for (const std::string& metric : metrics) names.push_back(metric.c_str());
    auto add = abi::params<abi::HostConfigAddMetrics>();
    add.host = host;
    add.names = names.data();
    add.count = names.size();
    library_->check(library_->api().host_add_metrics(&add), "cuptiProfilerHostConfigAddMetrics");
    auto size = abi::params<abi::HostGetConfigImageSize>();
    size.host = host;
    library_->check(library_->api().host_config_size(&size), "cuptiProfilerHostGetConfigImageSize");
    std::vector<uint8_t> image(size.size);
    auto get = abi::params<abi::HostGetConfigImage>();
    get.host = host;
    get.size = image.size();
    get.image = image.data();
    library_->check(library_->api().host_config(&get), "cuptiProfilerHostGetConfigImage");
    destroy(host);
    return image;
  } catch (...) {
    destroy(host);
    throw;
  }
}

size_t CounterHost::passes(std::vector<uint8_t>& config_image) const {
  auto p = abi::params<abi::HostGetNumOfPasses>();
  p.size = config_image.size();
  p.image = config_image.data();
  library_->check(library_->api().host_passes(&p), "cuptiProfilerHostGetNumOfPasses");
  return p.passes;
}

void CounterHost::evaluate(const uint8_t* data, size_t size, size_t index, const std::vector<const char*>& metrics,
                           double* values) const {
  auto p = abi::params<abi::HostEvaluate>();
  p.host = host_;
  p.data = data;
  p.data_size = size;
  p.index = index;
  p.names = const_cast<const char**>(metrics.data());
  p.count = metrics.size();
  p.values = values;
  library_->check(library_->api().host_evaluate(&p), "cuptiProfilerHostEvaluateToGpuValues");
}

}  // namespace perfsuite
