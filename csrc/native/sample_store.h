// Counter samples of a whole run in bounded memory: when it is full, neighbours become one row, and sums stay exact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace perfsuite {

// How a metric's samples become one: they are added up, or averaged over time, or averaged over another metric (a hit
// rate over the traffic it is a rate of).
constexpr int kAddUp = -1, kOverTime = -2;  // 0 and up: index of the metric to average over

class SampleStore {
 public:
  SampleStore(std::vector<int> kinds, size_t max_rows);  // max_rows >= 2; throws std::invalid_argument

  // Sampling starts, or starts again: the next sample holds what was counted before it and is dropped.
  void restart();
  // One sample in the order of time, in the device's clock. NaN: no value. The time between two samples of one stretch
  // counts as samples lost.
  void add(uint64_t start_ns, uint64_t end_ns, const double* values);

  size_t num_rows() const { return rows_; }
  size_t num_columns() const { return kinds_.size(); }
  uint64_t start_ns(size_t row) const { return start_[row]; }
  uint64_t end_ns(size_t row) const { return end_[row]; }
  double value(size_t row, size_t column) const;

  int64_t num_samples() const { return samples_; }  // kept ones
  int64_t dropped_first() const { return dropped_first_; }
  int64_t lost() const { return lost_; }        // as many as would fit the gaps
  int64_t invalid() const { return invalid_; }  // NaN among what is added up; a rate of nothing is none
  size_t merged() const { return merged_; }     // samples in a row; the last row may have fewer

 private:
  void halve();

  const std::vector<int> kinds_;
  const size_t max_rows_;
  size_t rows_ = 0, merged_ = 1, in_last_ = 0;
  bool drop_next_ = true, gap_allowed_ = true;
  uint64_t last_end_ = 0;
  int64_t samples_ = 0, dropped_first_ = 0, lost_ = 0, invalid_ = 0;
  std::vector<uint64_t> start_, end_;
  std::vector<double> sum_, weight_;  // row-major; weight_ of a metric that is added up stays unused
};

}  // namespace perfsuite
