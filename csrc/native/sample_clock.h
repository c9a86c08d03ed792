// Where on the monotonic clock the time stamps of another clock lie, with a bound.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace perfsuite {

struct ClockOffset {
  const char* method;  // "cupti": its clock was read beside ours; "order of events"; "none": there is nothing to go by
  int64_t offset_ns;   // monotonic = stamp + offset
  int64_t bound_ns;    // largest error, drift of the two clocks over the run included
};

// CUPTI calls its samples' stamps CPU time without saying of which clock. Two independent ways: its clock is read
// beside ours; and a sample cannot begin before sampling was started, nor be read before it ended. The first is the
// finer one and is used where the second does not contradict it.
class SampleClock {
 public:
  // CUPTI's clock read `cupti_ns` at some time from before_ns to after_ns on ours.
  void read_beside(int64_t before_ns, int64_t cupti_ns, int64_t after_ns) {
    const int64_t estimate = before_ns + (after_ns - before_ns) / 2 - cupti_ns;
    lowest_ = std::min(lowest_, estimate);
    highest_ = std::max(highest_, estimate);
    half_width_ = std::max(half_width_, (after_ns - before_ns + 1) / 2);
    read_ = true;
  }
  // A sample that begins at stamp_ns cannot begin before started_ns on our clock.
  void not_before(int64_t stamp_ns, int64_t started_ns) {
    low_ = std::max(low_, started_ns - stamp_ns);
    has_low_ = true;
  }
  // A sample that ends at stamp_ns had been read at read_ns on our clock.
  void not_after(int64_t stamp_ns, int64_t read_ns) {
    high_ = std::min(high_, read_ns - stamp_ns);
    has_high_ = true;
  }

  ClockOffset offset() const {
    const bool ordered = has_low_ && has_high_;
    const int64_t width = read_ ? half_width_ + (highest_ - lowest_ + 1) / 2 : 0;
    const int64_t estimate = read_ ? lowest_ + (highest_ - lowest_) / 2 : 0;
    if (read_ && (!ordered || (estimate + width >= low_ && estimate - width <= high_)))
      return {"cupti", estimate, width};
    if (!ordered) return {"none", 0, std::numeric_limits<int64_t>::max()};
    // Where low lies above high the clocks drift apart, by as much as that.
    const int64_t middle = low_ / 2 + high_ / 2;
    return {"order of events", middle, std::max(middle - low_, low_ - middle) + 1};
  }

 private:
  int64_t lowest_ = std::numeric_limits<int64_t>::max(), highest_ = std::numeric_limits<int64_t>::min();
  int64_t half_width_ = 0;
  int64_t low_ = std::numeric_limits<int64_t>::min(), high_ = std::numeric_limits<int64_t>::max();
  bool read_ = false, has_low_ = false, has_high_ = false;
};

}  // namespace perfsuite
