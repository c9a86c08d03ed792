// When one device was busy and when idle. Work arrives in any order and is accounted in order of its start.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "device_work.h"
#include "idle_causes.h"

namespace perfsuite {

constexpr int kGapClasses = 9;  // up to 1 us, 10 us, ... 10 s, longer
struct GapClass {
  int64_t up_to_ns = 0;  // 0: without limit
  int64_t count = 0, time_ns = 0;
};

// Time is accounted once and for all: [start, now) is split into busy and idle time without a rest. An open gap waits
// for the work that ends it.
class DeviceTimeline {
 public:
  DeviceTimeline(int32_t device, int64_t start_ns) : device_(device), start_ns_(start_ns), mark_ns_(start_ns) {
    int64_t up_to = 1000;
    for (GapClass& gaps : gaps_) {
      gaps.up_to_ns = up_to;
      up_to *= 10;
    }
    gaps_.back().up_to_ns = 0;
  }

  void add(const DeviceWork& work) { pending_.push_back(work); }
  size_t pending() const { return pending_.size(); }
  // Half of what is pending starts before this.
  int64_t median_start_ns() {
    starts_.clear();
    for (const DeviceWork& work : pending_) starts_.push_back(work.start_ns);
    const auto middle = starts_.begin() + starts_.size() / 2;
    std::nth_element(starts_.begin(), middle, starts_.end());
    return *middle + 1;
  }

  // Accounts what starts before until_ns, which is at most stop_ns. Sums: what the time is booked to.
  //   launch(work, device) -> {row, launch_ns};  ran(row, duration_ns);
  //   interval_end(device, t_ns) -> how far a stretch that begins at t_ns may go;  share(row, device, ns) of a stretch;
  //   slice(work, row, device, start_ns, launch_ns);  idle(causes, from_ns, to_ns, launch_ns).
  template <class Sums>
  void account(int64_t until_ns, int64_t stop_ns, Sums& sums) {
    take_before(until_ns);
    for (size_t i = 0; i < batch_.size(); ++i) {
      const DeviceWork& work = batch_[i];
      int64_t start = std::max(work.start_ns, start_ns_);
      if (work.end_ns <= start_ns_ || work.start_ns >= stop_ns) {
        ++outside_;
        continue;
      }
      const auto [row, launch_ns] = sums.launch(work, device_);
      sums.slice(work, row, device_, start, launch_ns);
      Running running{start, work.end_ns, row};
      if (start < mark_ns_) {
        ++late_;
        late_ns_ += std::min({work.end_ns, stop_ns, mark_ns_}) - start;
        start = mark_ns_;
      }
      if (running.end_ns <= start) {  // of no length, or all of it late
        sums.ran(row, std::min(running.end_ns, stop_ns) - running.start_ns);
        continue;
      }
      run_until(start, sums);
      if (running_.empty()) {
        if (start > mark_ns_) idle(start, first_launch(i, start, launch_ns, sums), sums);
        mark_ns_ = start;
      }
      running_.push_back(running);
    }
    run_until(until_ns, sums);
  }

  // Everything up to stop_ns.
  template <class Sums>
  void finish(int64_t stop_ns, Sums& sums) {
    account(stop_ns, stop_ns, sums);
    outside_ += pending_.size();
    if (running_.empty() && mark_ns_ < stop_ns) idle(stop_ns, kNoLaunch, sums);
    for (const Running& running : running_) sums.ran(running.row, stop_ns - running.start_ns);
    running_.clear();
    mark_ns_ = stop_ns;
  }

  int32_t device() const { return device_; }
  int64_t accounted_until_ns() const { return mark_ns_; }
  int64_t busy_ns() const { return busy_ns_; }
  int64_t idle_ns() const { return idle_ns_; }
  int64_t overlap_ns() const { return run_ns_ - busy_ns_; }
  uint64_t late() const { return late_; }
  int64_t late_ns() const { return late_ns_; }
  uint64_t outside() const { return outside_; }
  const std::array<GapClass, kGapClasses>& gaps() const { return gaps_; }
  std::vector<IdleRow> idle_rows() const { return causes_.rows(); }

 private:
  struct Running {
    int64_t start_ns, end_ns;
    uint32_t row;
  };

  void take_before(int64_t until_ns) {
    batch_.clear();
    size_t kept = 0;
    for (const DeviceWork& work : pending_) {
      if (work.start_ns < until_ns)
        batch_.push_back(work);
      else
        pending_[kept++] = work;
    }
    pending_.resize(kept);
    sort_batch();
  }

  // By start; of equal starts what came first stays first. Records come nearly sorted: each has few to pass.
  void sort_batch() {
    const auto earlier = [](const DeviceWork& a, const DeviceWork& b) { return a.start_ns < b.start_ns; };
    size_t moves = 0;
    for (size_t i = 1; i < batch_.size(); ++i) {
      if (!earlier(batch_[i], batch_[i - 1])) continue;
      const DeviceWork work = batch_[i];
      size_t j = i;
      for (; j > 0 && earlier(work, batch_[j - 1]); --j) batch_[j] = batch_[j - 1];
      batch_[j] = work;
      moves += i - j;
      if (moves > 8 * batch_.size()) return std::stable_sort(batch_.begin(), batch_.end(), earlier);
    }
  }

  // Splits the time up to t_ns among what runs. Afterwards mark is t_ns, or where the device fell idle before.
  template <class Sums>
  void run_until(int64_t t_ns, Sums& sums) {
    while (!running_.empty() && mark_ns_ < t_ns) {
      int64_t until = std::min(t_ns, sums.interval_end(device_, mark_ns_));
      for (const Running& running : running_) until = std::min(until, running.end_ns);
      // The first ones take what does not divide, so that the shares add up exactly.
      const int64_t at_once = int64_t(running_.size()), each = (until - mark_ns_) / at_once;
      int64_t rest = (until - mark_ns_) % at_once;
      size_t kept = 0;
      for (const Running& running : running_) {
        sums.share(running.row, device_, each + (rest-- > 0));
        if (running.end_ns > until)
          running_[kept++] = running;
        else
          sums.ran(running.row, running.end_ns - running.start_ns);
      }
      running_.resize(kept);
      busy_ns_ += until - mark_ns_;
      run_ns_ += (until - mark_ns_) * at_once;
      mark_ns_ = until;
    }
  }

  // When the earliest launch call of the work that starts at start_ns began; batch_[i] is the first of it.
  template <class Sums>
  int64_t first_launch(size_t i, int64_t start_ns, int64_t launch_ns, Sums& sums) {
    for (++i; i < batch_.size() && batch_[i].start_ns <= start_ns; ++i)
      if (batch_[i].end_ns > start_ns) launch_ns = std::min(launch_ns, sums.launch_ns(batch_[i]));
    return launch_ns;
  }

  template <class Sums>
  void idle(int64_t to_ns, int64_t launch_ns, Sums& sums) {
    const int64_t ns = to_ns - mark_ns_;
    idle_ns_ += ns;
    size_t gap_class = 0;
    while (gaps_[gap_class].up_to_ns != 0 && ns > gaps_[gap_class].up_to_ns) ++gap_class;
    ++gaps_[gap_class].count;
    gaps_[gap_class].time_ns += ns;
    sums.idle(causes_, mark_ns_, to_ns, launch_ns);
    mark_ns_ = to_ns;
  }

  const int32_t device_;
  const int64_t start_ns_;
  int64_t mark_ns_;  // accounted up to here; with nothing running, the device is idle since then
  std::vector<DeviceWork> pending_, batch_;
  std::vector<int64_t> starts_;
  std::vector<Running> running_;
  int64_t busy_ns_ = 0, idle_ns_ = 0;
  int64_t run_ns_ = 0;  // durations, without what is late
  uint64_t late_ = 0, outside_ = 0;
  int64_t late_ns_ = 0;
  std::array<GapClass, kGapClasses> gaps_{};
  IdleCauses causes_;
};

}  // namespace perfsuite
