#include "pm_sampling.h"

#include <pthread.h>
#include <signal.h>

#include <chrono>
#include <utility>

#include "clock.h"

namespace perfsuite {

namespace abi = cupti_profiler;

std::vector<uint8_t> sampling_availability(const CounterLibrary& library, size_t device) {
  const TargetSession session(library);
  auto p = abi::params<abi::PmGetAvailability>();
  p.device = device;
  library.check(library.api().pm_availability(&p), "cuptiPmSamplingGetCounterAvailability");
  std::vector<uint8_t> image(p.size);
  p.image = image.data();
  library.check(library.api().pm_availability(&p), "cuptiPmSamplingGetCounterAvailability");
  image.resize(p.size);
  return image;
}

PmSampling::PmSampling(std::shared_ptr<const CounterHost> host, PmSamplingConfig config)
    : host_(std::move(host)),
      config_(std::move(config)),
      values_(config_.metrics.size()),
      store_(config_.kinds, config_.max_rows) {
  if (config_.metrics.size() != config_.kinds.size()) throw std::invalid_argument("a kind for each metric");
  for (const std::string& metric : config_.metrics) names_.push_back(metric.c_str());
}

PmSampling::~PmSampling() {
  if (thread_.joinable()) stop();
}

void PmSampling::start() {
  if (started_ns_) throw std::runtime_error("this sampling has run already: make another one");
  const CounterLibrary& library = host_->library();
  std::vector<uint8_t> image = host_->config_image(config_.metrics);
  if (const size_t passes = host_->passes(image); passes != 1)
    throw std::runtime_error("these metrics need " + std::to_string(passes) + " passes, and sampling has one");
  session_.emplace(library);
  try {
    auto enable = abi::params<abi::PmEnable>();
    enable.device = config_.device;
    library.check(api().pm_enable(&enable), "cuptiPmSamplingEnable");
    sampler_ = enable.sampler;

    auto set = abi::params<abi::PmSetConfig>();
    set.sampler = sampler_;
    set.config = image.data();
    set.config_size = image.size();
    set.hardware_buffer_bytes = config_.hardware_buffer_bytes;
    set.interval = config_.interval;
    set.trigger = config_.trigger;
    set.append = abi::kKeepOldest;  // what is lost is then reported, and Turing knows no other
    library.check(api().pm_set_config(&set), "cuptiPmSamplingSetConfig");

    auto size = abi::params<abi::PmGetDataSize>();
    size.sampler = sampler_;
    size.names = names_.data();
    size.count = names_.size();
    size.max_samples = config_.max_samples;
    library.check(api().pm_data_size(&size), "cuptiPmSamplingGetCounterDataSize");
    data_.resize(size.size);
    auto make = abi::params<abi::PmInitializeData>();
    make.sampler = sampler_;
    make.data = data_.data();
    make.size = data_.size();
    library.check(api().pm_initialize_data(&make), "cuptiPmSamplingCounterDataImageInitialize");
    read_clock();
    begin();
  } catch (...) {
    release();
    throw;
  }
  // Signals are Python's business and go to its threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    release();
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void PmSampling::stop() {
  if (!thread_.joinable()) throw std::runtime_error("the sampling is not running");
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  release();
}

void PmSampling::begin() {
  store_.restart();
  first_of_stretch_ = true;
  started_ns_ = now_ns();
  auto p = abi::params<abi::PmStart>();
  p.sampler = sampler_;
  host_->library().check(api().pm_start(&p), "cuptiPmSamplingStart");
}

void PmSampling::end() {
  auto p = abi::params<abi::PmStop>();
  p.sampler = sampler_;
  host_->library().check(api().pm_stop(&p), "cuptiPmSamplingStop");
}

void PmSampling::read_clock() {
  uint64_t cupti = 0;
  const int64_t before = now_ns();
  if (api().timestamp(&cupti) != abi::kSuccess) return;
  clock_.read_beside(before, int64_t(cupti), now_ns());
}

void PmSampling::run() {
  pthread_setname_np(pthread_self(), "perfsuite-pm");
  try {
    const auto period = std::chrono::nanoseconds(config_.decode_period_ns);
    for (bool stopping = false; !stopping;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        stopping = changed_.wait_for(lock, period, [this] { return stopping_; });
      }
      if (stopping) end();
      const bool full = decode();
      read_clock();
      if (full) ++overflows_;
      if (full && !stopping) {  // the hardware keeps what it had and takes no more
        end();
        begin();
      }
    }
  } catch (const std::exception& error) {
    error_ = error.what();
  }
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  cpu_ns_ = int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

bool PmSampling::decode() {
  const CounterLibrary& library = host_->library();
  for (bool full = false;;) {
    auto p = abi::params<abi::PmDecode>();
    p.sampler = sampler_;
    p.data = data_.data();
    p.size = data_.size();
    const abi::Result result = api().pm_decode(&p);
    const int64_t read_ns = now_ns();
    if (result != abi::kOutOfMemory) library.check(result, "cuptiPmSamplingDecodeData");
    full |= p.overflow || result == abi::kOutOfMemory;

    auto info = abi::params<abi::PmDataInfo>();
    info.data = data_.data();
    info.size = data_.size();
    library.check(api().pm_data_info(&info), "cuptiPmSamplingGetCounterDataInfo");
    for (size_t i = 0; i < info.completed; ++i) {
      auto sample = abi::params<abi::PmSampleInfo>();
      sample.sampler = sampler_;
      sample.data = data_.data();
      sample.size = data_.size();
      sample.index = i;
      library.check(api().pm_sample_info(&sample), "cuptiPmSamplingCounterDataGetSampleInfo");
      host_->evaluate(data_.data(), data_.size(), i, names_, values_.data());
      const int64_t samples = store_.num_samples();
      store_.add(sample.start, sample.end, values_.data());
      if (store_.num_samples() > samples) {  // not the first of a stretch, whose start may lie before it
        if (first_of_stretch_) clock_.not_before(int64_t(sample.start), started_ns_);
        first_of_stretch_ = false;
        if (i + 1 == info.completed) clock_.not_after(int64_t(sample.end), read_ns);
      }
    }
    auto make = abi::params<abi::PmInitializeData>();
    make.sampler = sampler_;
    make.data = data_.data();
    make.size = data_.size();
    library.check(api().pm_initialize_data(&make), "cuptiPmSamplingCounterDataImageInitialize");
    if (result != abi::kSuccess || p.stop_reason != abi::kStopImageFull || !info.completed) return full;
  }
}

void PmSampling::release() {
  if (sampler_) {
    auto p = abi::params<abi::PmDisable>();
    p.sampler = sampler_;
    api().pm_disable(&p);
    sampler_ = nullptr;
  }
  session_.reset();
}

}  // namespace perfsuite
