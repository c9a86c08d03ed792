// Records what the GPUs do, through CUPTI's activity records: from the first callback to the sums.
//
// What is recorded, and why this is the cheapest set that tells where a kernel came from:
// - kernels as CONCURRENT_KERNEL, since KERNEL runs them one after the other; each node of a CUDA graph by itself.
// - the site of a launch, as an external correlation id that the op recorder pushes. CUPTI puts one such record before
//   each record of an API call, so calls have to be recorded too; their begin is also when work was handed over. But
//   only of calls that give the device work (launches, copies, fills) or wait for it: the many small ones
//   (cudaGetDevice, event records) would cost two records each. Where CUPTI cannot choose among calls, all of them
//   are recorded.
// - waits of the host as SYNCHRONIZATION, without the queries that find an event or a stream at work: torch's allocator
//   polls with them. A query that finds it done is recorded, as a wait of no length to speak of.
//
// CUPTI has one client at a time: the recorder holds its subscription while it runs, so that another client
// (torch.profiler, Nsight Systems, Proton) is seen, and sees us. Activity callbacks alone would be replaced without a
// word. torch.profiler keeps the subscription after its first use with CUDA. CUPTI does not tell which kinds are
// enabled: only what start() enabled is disabled, and a client that takes no subscription is not seen.
//
// stop() disables what start() enabled and gives the subscription back, but CUPTI stays loaded and attached:
// cuptiFinalize is safe only inside the exit callback of a CUDA call, races with other threads that use CUPTI, and
// crashed with CUDA graphs before 12.6. What CUPTI costs after that is one reason why a pass is a process of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "activity_sums.h"
#include "cupti_library.h"

namespace perfsuite {

struct KernelData {
  ActivityData sums;
  int64_t buffers_most_held = 0;
  std::vector<std::string> notes;  // what is not as it should be
};

// One runs at a time in a process. Its functions are called on one thread, never from inside a CUPTI callback.
class KernelRecorder {
 public:
  // library: usable, see CuptiLibrary::unavailable.
  explicit KernelRecorder(CuptiLibrary library);
  ~KernelRecorder();
  KernelRecorder(const KernelRecorder&) = delete;
  KernelRecorder& operator=(const KernelRecorder&) = delete;
  const CuptiLibrary& library() const { return library_; }

  // data_phase: the phase in which the host waits for data; -1: none. devices: accounted even if nothing runs on them.
  // with_clock: the account begins when a phase clock starts, which is still to come; else now. CUPTI can take a second
  // to attach, which is nobody's time.
  // Throws std::runtime_error with the reason where it cannot record; everything is then as before.
  void start(int32_t data_phase, const std::vector<int32_t>& devices, bool with_clock);
  // Nothing is recorded until resume(); the device counts as idle meanwhile.
  void pause();
  void resume();
  // Keep single kernels and copies from now on, at most `limit`; end_slices(): until now.
  void begin_slices(size_t limit);
  void end_slices();
  // The caller has waited for the device: work that still runs is not in the sums. The account ends at stop_ns.
  KernelData stop(int64_t stop_ns);

 private:
  struct Recording;
  void subscribe();
  void enable();
  void disable();
  void enable_calls();
  void give_back();
  cupti::Result flush(uint32_t flag);
  void count_dropped(ActivitySums& sums);
  void note(const std::string& text);
  void check(const char* function, cupti::Result code) const;

  CuptiLibrary library_;
  std::mutex flush_mutex_;  // the buffers' thread flushes, and so does stop()
  cupti::Subscriber subscriber_ = nullptr;
  std::vector<uint32_t> kinds_;  // enabled by us
  std::unique_ptr<Recording> recording_;
};

}  // namespace perfsuite
