#include "op_recorder.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "op_sums.h"

namespace perfsuite {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<ThreadRecorder*> threads;
  OpSums sums;
  LaunchSites sites;
  Recording recording;
  at::CallbackHandle plain = at::INVALID_CALLBACK_HANDLE;    // times alone
  at::CallbackHandle sampled = at::INVALID_CALLBACK_HANDLE;  // times and shapes
  enum class State { kOff, kOn, kPaused } state = State::kOff;
  bool sampling = false;
  int64_t num_steps = 0, last_step = 0, sampled_steps = 0, num_evaluations = 0;
  int64_t slices_from = 0, slices_until = 0;  // steps

  void take(ThreadRecorder& thread) {
    sums.take(thread);
    sites.take(thread.table(), thread.number());
  }

  std::vector<ThreadRecorder*> current_threads() const {
    std::vector<ThreadRecorder*> current;
    const uint64_t epoch = recording.epoch.load(std::memory_order_acquire);
    std::copy_if(threads.begin(), threads.end(), std::back_inserter(current),
                 [&](const ThreadRecorder* thread) { return thread->epoch() == epoch; });
    return current;
  }
};

// Outlives every thread.
Registry& registry() {
  static auto& instance = *new Registry();
  return instance;
}

// Hands over what its thread recorded when that ends.
struct ThreadOwner {
  std::unique_ptr<ThreadRecorder> recorder;
  ~ThreadOwner();
};

thread_local ThreadRecorder* t_recorder = nullptr;  // no constructor to check for on each op
thread_local bool t_ended = false;

ThreadOwner::~ThreadOwner() {
  t_recorder = nullptr;
  t_ended = true;
  if (!recorder) return;
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  r.threads.erase(std::find(r.threads.begin(), r.threads.end(), recorder.get()));
  if (r.state != Registry::State::kOff && recorder->epoch() == r.recording.epoch.load()) r.take(*recorder);
}

ThreadRecorder* make_recorder() {
  if (t_ended) return nullptr;  // a destructor of this thread runs an op after ours has run
  static thread_local ThreadOwner owner;
  Registry& r = registry();
  owner.recorder = std::make_unique<ThreadRecorder>(r.recording);
  std::lock_guard<std::mutex> lock(r.mutex);
  r.threads.push_back(owner.recorder.get());
  return t_recorder = owner.recorder.get();
}

inline ThreadRecorder* this_thread() { return t_recorder ? t_recorder : make_recorder(); }

template <bool kSampled>
std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& fn) {
  if (ThreadRecorder* recorder = this_thread()) recorder->begin<kSampled>(fn);
  return nullptr;
}

void on_end(const at::RecordFunction& fn, at::ObserverContext*) {
  if (t_recorder) t_recorder->end(fn);
}

// Off before on: an op that met both callbacks would be counted twice.
void set_callbacks(Registry& r, bool plain, bool sampled) {
  if (!plain) at::disableCallback(r.plain);
  if (!sampled) at::disableCallback(r.sampled);
  if (plain) at::reenableCallback(r.plain);
  if (sampled) at::reenableCallback(r.sampled);
}

}  // namespace

namespace op_recorder {

void init(const SharedTable& shared) {
  Registry& r = registry();
  r.recording.shared = &shared;
  // Nodes of the backward pass are seen through the engine's own FUNCTION record and get_current_node(): the scope
  // BACKWARD_FUNCTION would have torch demangle the type name of every node a second time.
  r.plain = at::addGlobalCallback(at::RecordFunctionCallback(&on_begin<false>, &on_end)
                                      .scopes({at::RecordScope::FUNCTION}));
  at::disableCallback(r.plain);
  r.sampled = at::addGlobalCallback(at::RecordFunctionCallback(&on_begin<true>, &on_end)
                                        .needsInputs(true)
                                        .needsOutputs(true)
                                        .scopes({at::RecordScope::FUNCTION}));
  at::disableCallback(r.sampled);
}

void start(int64_t slices_from, int64_t slices_until) {
  Registry& r = registry();
  ThreadRecorder* here = this_thread();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kOff) throw std::runtime_error("an op recorder is already running in this process");
  r.sums.finish();
  r.sites.clear();
  r.slices_from = slices_from;
  r.slices_until = slices_until;
  r.recording.slices.kept = 0;
  r.recording.threads = 0;
  r.num_steps = r.last_step = r.sampled_steps = r.num_evaluations = 0;
  r.sampling = false;
  here->adopt(r.recording.epoch.fetch_add(1) + 1, true);
  r.state = Registry::State::kOn;
  set_callbacks(r, true, false);
}

OpData stop() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state == Registry::State::kOff) throw std::runtime_error("no op recorder is running");
  set_callbacks(r, false, false);
  r.recording.slices.open = false;
  const auto threads = r.current_threads();
  if (r.num_steps > 0) r.sums.mark(r.last_step + 1, threads);
  for (ThreadRecorder* thread : threads) r.take(*thread);
  r.recording.epoch.fetch_add(1);  // ops that are still running on other threads belong to nothing
  r.state = Registry::State::kOff;
  OpData data = r.sums.finish();
  data.sampled_steps = r.sampled_steps;
  data.dropped_slices = std::max<int64_t>(0, r.recording.slices.kept - SliceWindow::kMaxSlices);
  return data;
}

void pause() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kOn) throw std::runtime_error("no op recorder is running");
  set_callbacks(r, false, false);
  r.state = Registry::State::kPaused;
}

void resume() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kPaused) throw std::runtime_error("no op recorder is paused");
  set_callbacks(r, !r.sampling, r.sampling);
  r.state = Registry::State::kOn;
}

void begin_step(int64_t step) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kOn) return;
  if (r.sums.mark_due(r.num_steps)) r.sums.mark(step, r.current_threads());
  const bool sample = r.num_steps % kShapesEvery == 0;
  if (sample != r.sampling) set_callbacks(r, !sample, sample);
  r.sampling = sample;
  r.sampled_steps += sample;
  r.recording.slices.open = step >= r.slices_from && step < r.slices_until;
  r.last_step = step;
  ++r.num_steps;
}

void begin_evaluation() {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kOn) return;
  const bool sample = r.num_evaluations++ % kShapesEvery == 0;
  if (sample != r.sampling) set_callbacks(r, !sample, sample);
  r.sampling = sample;
}

std::optional<LaunchSite> site(uint64_t id) {
  Registry& r = registry();
  std::lock_guard<std::mutex> lock(r.mutex);
  if (r.state != Registry::State::kOff) {
    for (ThreadRecorder* thread : r.current_threads()) {
      if (id >> 32 == uint64_t(thread->number()) + 1 && uint32_t(id) < thread->table().size())
        return launch_site(thread->table(), uint32_t(id), thread->number());
    }
  }
  return r.sites.find(id);
}

}  // namespace op_recorder
}  // namespace perfsuite
