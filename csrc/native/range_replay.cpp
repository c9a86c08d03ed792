#include "range_replay.h"

#include <cstdlib>
#include <utility>

#include "kernel_names.h"
#include "launch_site.h"
#include "phases.h"

namespace perfsuite {

namespace abi = cupti_profiler;

namespace {

constexpr uint32_t kLaunches[] = {abi::kLaunchKernel,      abi::kLaunchKernelPtsz,      abi::kLaunchKernelEx,
                                  abi::kLaunchKernelExPtsz, abi::kLaunchCooperative,    abi::kLaunchCooperativePtsz,
                                  abi::kGraphLaunch,        abi::kGraphLaunchPtsz};

constexpr uint64_t kNotAlone = ~uint64_t(0);

void need_context() {
  if (!current_context())
    throw std::runtime_error("this thread has no CUDA context: run something on the GPU before the replay starts");
}

}  // namespace

std::vector<uint8_t> ranges_availability(const CounterLibrary& library) {
  const TargetSession session(library);
  need_context();
  auto p = abi::params<abi::ProfilerGetAvailability>();
  p.context = current_context();
  library.check(library.api().range_availability(&p), "cuptiProfilerGetCounterAvailability");
  std::vector<uint8_t> image(p.size);
  p.image = image.data();
  library.check(library.api().range_availability(&p), "cuptiProfilerGetCounterAvailability");
  image.resize(p.size);
  return image;
}

RangeReplay::RangeReplay(std::shared_ptr<const CounterHost> host, RangeReplayConfig config)
    : host_(std::move(host)), config_(std::move(config)), join_(config_.metrics.size()) {
  for (const std::string& metric : config_.metrics) names_.push_back(metric.c_str());
}

RangeReplay::~RangeReplay() {
  unsubscribe();
  disable();
}

void RangeReplay::start() {
  if (session_) throw std::runtime_error("the replay is running already: stop it first");
  image_ = host_->config_image(config_.metrics);
  passes_ = host_->passes(image_);
  session_.emplace(host_->library());
  try {
    need_context();
    subscribe();
    enable();
  } catch (...) {
    unsubscribe();
    disable();
    session_.reset();
    throw;
  }
}

void RangeReplay::flush() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (launches_.empty()) return;  // of the first step: what CUPTI decodes of no ranges is not said anywhere
  }
  collect();
  disable();
  enable();
}

void RangeReplay::stop() {
  if (!ranger_) throw std::runtime_error("the replay is not running");
  unsubscribe();
  collect();
  disable();
  session_.reset();
}

void RangeReplay::subscribe() {
  follow_launch_sites();
  host_->library().check(api().subscribe(&subscriber_, on_launch, this), "cuptiSubscribe");
  for (uint32_t callback : kLaunches)
    host_->library().check(api().enable_callback(1, subscriber_, abi::kDriverApi, callback), "cuptiEnableCallback");
}

void RangeReplay::unsubscribe() {
  if (subscriber_) api().unsubscribe(subscriber_);
  subscriber_ = nullptr;
  forget_launch_sites();
}

void RangeReplay::enable() {
  const CounterLibrary& library = host_->library();
  auto on = abi::params<abi::RangeEnable>();
  on.context = current_context();
  library.check(api().range_enable(&on), "cuptiRangeProfilerEnable");
  ranger_ = on.ranger;

  auto size = abi::params<abi::RangeGetDataSize>();
  size.ranger = ranger_;
  size.names = names_.data();
  size.count = names_.size();
  size.max_ranges = config_.max_ranges;
  size.max_tree_nodes = uint32_t(config_.max_ranges);
  library.check(api().range_data_size(&size), "cuptiRangeProfilerGetCounterDataSize");
  data_.resize(size.size);
  auto make = abi::params<abi::RangeInitializeData>();
  make.ranger = ranger_;
  make.data = data_.data();
  make.size = data_.size();
  library.check(api().range_initialize_data(&make), "cuptiRangeProfilerCounterDataImageInitialize");

  auto set = abi::params<abi::RangeSetConfig>();
  set.ranger = ranger_;
  set.config = image_.data();
  set.config_size = image_.size();
  set.data = data_.data();
  set.data_size = data_.size();
  set.range = abi::kAutoRange;
  set.replay = abi::kKernelReplay;
  set.max_ranges_per_pass = config_.max_ranges;
  set.nesting_levels = set.min_nesting_level = set.target_nesting_level = 1;
  library.check(api().range_set_config(&set), "cuptiRangeProfilerSetConfig");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    launches_.clear();
  }
  auto go = abi::params<abi::RangeStart>();
  go.ranger = ranger_;
  library.check(api().range_start(&go), "cuptiRangeProfilerStart");
}

void RangeReplay::collect() {
  const CounterLibrary& library = host_->library();
  auto stop = abi::params<abi::RangeStop>();
  stop.ranger = ranger_;
  library.check(api().range_stop(&stop), "cuptiRangeProfilerStop");
  std::vector<Launch> launches;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    launches.swap(launches_);
  }
  auto decode = abi::params<abi::RangeDecode>();
  decode.ranger = ranger_;
  library.check(api().range_decode(&decode), "cuptiRangeProfilerDecodeData");
  auto info = abi::params<abi::RangeDataInfo>();
  info.data = data_.data();
  info.size = data_.size();
  library.check(api().range_data_info(&info), "cuptiRangeProfilerGetCounterDataInfo");
  std::vector<MeasuredRange> ranges(info.total);
  for (size_t i = 0; i < ranges.size(); ++i) {
    auto range = abi::params<abi::RangeInfo>();
    range.data = data_.data();
    range.size = data_.size();
    range.index = i;
    range.delimiter = "/";
    library.check(api().range_info(&range), "cuptiRangeProfilerCounterDataGetRangeInfo");
    char* end = nullptr;
    ranges[i].position = range.name ? std::strtoll(range.name, &end, 10) : -1;
    if (!range.name || end == range.name || *end) ranges[i].position = -1;  // in no order: nothing will join
    ranges[i].values.resize(names_.size());
    host_->evaluate(data_.data(), data_.size(), i, names_, ranges[i].values.data());
  }
  join_.add(launches, std::move(ranges), int64_t(decode.dropped));
}

void RangeReplay::disable() {
  if (!ranger_) return;
  auto p = abi::params<abi::RangeDisable>();
  p.ranger = ranger_;
  api().range_disable(&p);
  ranger_ = nullptr;
}

void RangeReplay::on_launch(void* user, int, uint32_t callback, const abi::CallbackData* data) {
  RangeReplay& self = *static_cast<RangeReplay*>(user);
  std::lock_guard<std::mutex> lock(self.mutex_);
  if (data->site == abi::kApiEnter) {
    const bool alone = self.under_way_ == 0;
    self.overlaps_ += !alone;
    ++self.under_way_;
    *data->correlation_data = alone ? self.overlaps_ : kNotAlone;
    return;
  }
  if (self.under_way_ == 0) return;  // a launch that had begun before this was subscribed
  --self.under_way_;
  if (data->return_value && *static_cast<const int*>(data->return_value) != 0) return;  // nothing was launched
  const bool graph = callback == abi::kGraphLaunch || callback == abi::kGraphLaunchPtsz;
  // A range is made while its launch call is under way: two calls at once may be in either order.
  const bool ordered = self.under_way_ == 0 && *data->correlation_data == self.overlaps_;
  const int64_t site = self.config_.site ? self.config_.site() : current_launch_site();
  const int32_t phase = shared_table().current_phase();
  self.launches_.push_back({graph ? kGraphName : readable_kernel_name(data->symbol ? data->symbol : ""), site, phase, ordered});
}

}  // namespace perfsuite
