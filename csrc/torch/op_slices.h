// Single runs of ops, kept for the timeline during a window of steps that is chosen beforehand. Bounded.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace perfsuite {

struct OpSlice {
  int64_t begin_ns, end_ns;
  uint32_t name;    // id for op_name()
  uint32_t thread;  // 0: the clock's
  uint32_t depth;   // how many ops of the thread enclose it
};

// One for all threads: whether slices are kept now, and how many more there is room for.
struct SliceWindow {
  static constexpr int64_t kMaxSlices = 200'000;

  std::atomic<bool> open{false};
  std::atomic<int64_t> kept{0};  // more than kMaxSlices: the rest was dropped
};

// Written by its thread alone while the window is open; taken from any thread.
class ThreadSlices {
 public:
  void keep(SliceWindow& window, const OpSlice& slice) {
    if (window.kept.fetch_add(1, std::memory_order_relaxed) >= SliceWindow::kMaxSlices) return;
    std::lock_guard<std::mutex> lock(mutex_);
    slices_.push_back(slice);
  }
  void take(std::vector<OpSlice>* out) {
    std::lock_guard<std::mutex> lock(mutex_);
    out->insert(out->end(), slices_.begin(), slices_.end());
    slices_ = {};
  }
  void clear() {
    std::lock_guard<std::mutex> lock(mutex_);
    slices_ = {};
  }

 private:
  std::mutex mutex_;
  std::vector<OpSlice> slices_;
};

}  // namespace perfsuite
