#include "sampler.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>

#include "clock.h"
#include "procstat.h"

namespace perfsuite {
namespace {

constexpr size_t kChunkRows = 512;
constexpr size_t kValuesLimit = size_t(1) << 27;  // 1 GiB: over four days of one GPU at 20 samples a second

// splitmix64 (Steele, Lea, Flood 2014): a well-mixed function of a counter.
uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

int64_t thread_cpu_ns() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}

}  // namespace

int64_t due_ns(const SamplerConfig& config, int64_t k) {
  if (k == 0) return 0;
  const double u = double(mixed(config.seed ^ mixed(uint64_t(k))) >> 11) * 0x1p-53 - 0.5;
  return k * config.period_ns + int64_t(config.jitter * u * double(config.period_ns));
}

struct Sampler::State {
  explicit State(SamplerConfig c) : config(std::move(c)), nvml(config.nvml), rapl(config.powercap) {
    for (Source* source : sources()) width += source->columns().size();
  }

  std::array<Source*, 3> sources() { return {&nvml, &rapl, &proc}; }
  int64_t now() const { return config.now_ns ? config.now_ns() : now_ns(); }
  // True at the deadline, false where the sampling ends.
  bool sleep_until(int64_t deadline_ns);
  void sample(int64_t due);

  const SamplerConfig config;
  NvmlSource nvml;
  Rapl rapl;
  ProcStat proc;
  size_t width = 0;
  pid_t process = 0;

  std::mutex mutex;  // over what follows
  std::condition_variable changed;
  bool stopping = false, finished = false;
  Samples samples;
};

bool Sampler::State::sleep_until(int64_t deadline_ns) {
  if (config.sleep_until_ns) {
    if (config.sleep_until_ns(deadline_ns) != 0) return false;
    std::lock_guard<std::mutex> lock(mutex);
    return !stopping;
  }
  // steady_clock is CLOCK_MONOTONIC: the wait ends at an absolute time.
  const std::chrono::steady_clock::time_point deadline{std::chrono::nanoseconds(deadline_ns)};
  std::unique_lock<std::mutex> lock(mutex);
  return !changed.wait_until(lock, deadline, [this] { return stopping; });
}

void Sampler::State::sample(int64_t due) {
  std::vector<double> values(width, kMissing);
  std::vector<std::pair<size_t, std::string>> failures;
  const int64_t t = now();
  size_t first = 0;
  for (Source* source : sources()) {
    Reading row(values.data(), first, failures, t, config.now_ns ? config.now_ns : now_ns);
    source->read(row);
    first += source->columns().size();
  }
  const int64_t cpu = thread_cpu_ns();

  std::lock_guard<std::mutex> lock(mutex);
  samples.cpu_ns = cpu;
  for (auto& [column, reason] : failures) {
    Failure& failure = samples.failures.try_emplace({column, std::move(reason)}, Failure{t, 0}).first->second;
    ++failure.count;
  }
  const size_t count = samples.t_ns.size();
  if ((count + 1) * width > kValuesLimit) {
    ++samples.dropped;
  } else {
    if (count % kChunkRows == 0) {
      samples.values.emplace_back();
      samples.values.back().reserve(kChunkRows * width);
    }
    samples.values.back().insert(samples.values.back().end(), values.begin(), values.end());
    samples.t_ns.push_back(t);
    samples.late_ns.push_back(t - due);
  }
  changed.notify_all();
}

void Sampler::run(State& state) {
  pthread_setname_np(pthread_self(), "perfsuite-smplr");
  const int64_t start = state.now();
  state.sample(start);
  for (int64_t k = 1;; ++k) {
    const int64_t now = state.now();
    // Deadlines that have passed are given up, and counted, instead of being made up for in a burst.
    const int64_t behind = std::max<int64_t>(0, (now - start) / state.config.period_ns - k);
    int64_t missed = behind;
    for (k += behind; start + due_ns(state.config, k) <= now; ++k) ++missed;
    if (missed) {
      std::lock_guard<std::mutex> lock(state.mutex);
      state.samples.missed += missed;
    }
    const int64_t due = start + due_ns(state.config, k);
    if (!state.sleep_until(due)) break;
    state.sample(due);
  }
  state.sample(state.now());
  std::lock_guard<std::mutex> lock(state.mutex);
  state.finished = true;
  state.changed.notify_all();
}

Sampler::Sampler(SamplerConfig config) : state_(std::make_shared<State>(std::move(config))) {}

Sampler::~Sampler() {
  if (thread_) stop(1'000'000'000);
}

void Sampler::start() {
  if (state_->process) throw std::runtime_error("this sampler has run already: make another one");
  state_->process = getpid();
  // Signals are Python's business and go to its threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::make_unique<std::thread>([state = state_] { run(*state); });
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->changed.wait(lock, [this] { return !state_->samples.t_ns.empty(); });
}

bool Sampler::stop(int64_t timeout_ns) {
  if (!thread_) throw std::runtime_error("the sampler is not running");
  if (state_->process != getpid()) {  // a fork has this object but not its thread
    static_cast<void>(thread_.release());
    return false;
  }
  std::unique_lock<std::mutex> lock(state_->mutex);
  state_->stopping = true;
  state_->changed.notify_all();
  const bool finished =
      state_->changed.wait_for(lock, std::chrono::nanoseconds(timeout_ns), [this] { return state_->finished; });
  lock.unlock();
  if (finished)
    thread_->join();
  else
    thread_->detach();
  thread_.reset();
  return finished;
}

std::vector<Column> Sampler::columns() const {
  std::vector<Column> all;
  for (Source* source : state_->sources()) all.insert(all.end(), source->columns().begin(), source->columns().end());
  return all;
}

std::vector<std::pair<std::string, std::string>> Sampler::unavailable() const {
  std::vector<std::pair<std::string, std::string>> all;
  for (Source* source : state_->sources()) all.emplace_back(source->label(), source->unavailable());
  return all;
}

const std::vector<Gpu>& Sampler::gpus() const { return state_->nvml.gpus(); }
const std::vector<RaplZone>& Sampler::zones() const { return state_->rapl.zones(); }

Samples Sampler::samples() const {
  std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->samples;
}

}  // namespace perfsuite
