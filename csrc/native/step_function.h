// A function of time that is constant between changes, such as "how many threads are inside an op".
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

namespace perfsuite {

// Changes may be appended on any thread and need not come in order of time. settle() makes them readable; it and the
// reading need a lock of the owner's. Keeps the latest `capacity` changes; the values before them are not known.
class StepFunction {
 public:
  struct Step {
    int64_t t_ns;
    int32_t value;  // from t_ns on
    int32_t delta;  // to the step before
  };

  StepFunction(size_t capacity, int32_t initial) : capacity_(capacity), base_(initial) {}

  size_t append(int64_t t_ns, int32_t delta) {  // returns how many changes wait to be settled
    std::lock_guard<std::mutex> lock(incoming_mutex_);
    incoming_.push_back({t_ns, 0, delta});
    return incoming_.size();
  }

  void settle() {
    batch_.clear();
    {
      std::lock_guard<std::mutex> lock(incoming_mutex_);
      batch_.swap(incoming_);
    }
    if (batch_.empty()) return;
    const auto earlier = [](const Step& a, const Step& b) { return a.t_ns < b.t_ns; };
    if (!std::is_sorted(batch_.begin(), batch_.end(), earlier))
      std::stable_sort(batch_.begin(), batch_.end(), earlier);
    // What is later than the earliest new change gets new values. Rarely more than a few steps.
    const auto displaced = std::upper_bound(steps_.begin() + head_, steps_.end(), batch_.front(), earlier);
    int64_t changed = displaced - steps_.begin();
    const size_t middle = batch_.size();
    batch_.insert(batch_.end(), displaced, steps_.end());
    std::inplace_merge(batch_.begin(), batch_.begin() + middle, batch_.end(), earlier);
    steps_.resize(changed);
    int32_t value = size_t(changed) > head_ ? steps_.back().value : base_;
    for (Step step : batch_) {
      step.value = value += step.delta;
      steps_.push_back(step);
    }
    forget();
  }

  // Index of the first step after t_ns; the value at t_ns is value_before() it. `near` is where to look first, any
  // number will do; it is left at the result, so that times that follow each other are found without a search.
  size_t after(int64_t t_ns, size_t& near) const {
    size_t low = head_, high = steps_.size();
    const size_t i = std::clamp(near, low, high);
    if (i < high && steps_[i].t_ns <= t_ns) {
      size_t stride = 1;
      for (low = i + 1; i + stride < high && steps_[i + stride].t_ns <= t_ns; stride *= 2) low = i + stride + 1;
      high = std::min(high, i + stride);
    } else if (i > low && steps_[i - 1].t_ns > t_ns) {
      size_t stride = 1;
      for (high = i - 1; i - low > stride && steps_[i - 1 - stride].t_ns > t_ns; stride *= 2) high = i - 1 - stride;
      low = i - low > stride ? i - stride : low;
    } else {
      return near = i;
    }
    const auto step = std::upper_bound(steps_.begin() + low, steps_.begin() + high, t_ns,
                                       [](int64_t t, const Step& s) { return t < s.t_ns; });
    return near = step - steps_.begin();
  }
  int32_t value_before(size_t i) const { return i > head_ ? steps_[i - 1].value : base_; }
  // When step i happens; never where there is no such step.
  int64_t time_of(size_t i) const {
    return i < steps_.size() ? steps_[i].t_ns : std::numeric_limits<int64_t>::max();
  }
  int64_t known_from_ns() const { return known_from_ns_; }

 private:
  void forget() {
    if (steps_.size() - head_ <= capacity_) return;
    head_ = steps_.size() - capacity_;
    base_ = steps_[head_ - 1].value;
    known_from_ns_ = std::max(known_from_ns_, steps_[head_].t_ns);
    if (head_ < capacity_ / 4) return;
    steps_.erase(steps_.begin(), steps_.begin() + head_);
    head_ = 0;
  }

  const size_t capacity_;
  std::mutex incoming_mutex_;
  std::vector<Step> incoming_, batch_;
  std::vector<Step> steps_;  // by time, from head_ on
  size_t head_ = 0;
  int32_t base_;  // the value before the first step
  int64_t known_from_ns_ = std::numeric_limits<int64_t>::min();
};

}  // namespace perfsuite
