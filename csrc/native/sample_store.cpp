#include "sample_store.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

namespace perfsuite {

SampleStore::SampleStore(std::vector<int> kinds, size_t max_rows) : kinds_(std::move(kinds)), max_rows_(max_rows) {
  if (max_rows_ < 2) throw std::invalid_argument("a sample store needs room for two rows");
  for (int kind : kinds_)
    if (kind < kOverTime || kind >= int(kinds_.size())) throw std::invalid_argument("a metric of an unknown kind");
}

void SampleStore::restart() { drop_next_ = gap_allowed_ = true; }

void SampleStore::add(uint64_t start_ns, uint64_t end_ns, const double* values) {
  if (drop_next_) {
    drop_next_ = false;
    ++dropped_first_;
    return;
  }
  const uint64_t duration = end_ns > start_ns ? end_ns - start_ns : 0;
  if (!gap_allowed_ && duration && start_ns > last_end_)
    lost_ += std::llround(double(start_ns - last_end_) / double(duration));
  gap_allowed_ = false;
  last_end_ = end_ns;
  ++samples_;

  if (rows_ == 0 || in_last_ == merged_) {
    if (rows_ == max_rows_) halve();
    if (rows_ == 0 || in_last_ == merged_) {
      start_.push_back(start_ns);
      end_.push_back(end_ns);
      sum_.resize(sum_.size() + kinds_.size(), 0);
      weight_.resize(weight_.size() + kinds_.size(), 0);
      ++rows_;
      in_last_ = 0;
    }
  }
  ++in_last_;
  end_.back() = end_ns;
  double* sum = sum_.data() + (rows_ - 1) * kinds_.size();
  double* weight = weight_.data() + (rows_ - 1) * kinds_.size();
  for (size_t c = 0; c < kinds_.size(); ++c) {
    if (kinds_[c] == kAddUp) {
      if (std::isnan(values[c])) ++invalid_;
      sum[c] += values[c];  // NaN stays NaN: a sum with a part missing is not a sum
      continue;
    }
    const double w = kinds_[c] == kOverTime ? double(duration) : values[kinds_[c]];
    if (std::isnan(values[c]) || !(w > 0)) continue;
    sum[c] += values[c] * w;
    weight[c] += w;
  }
}

void SampleStore::halve() {
  const size_t width = kinds_.size();
  const size_t pairs = rows_ / 2, left_over = rows_ % 2;
  for (size_t row = 0; row < pairs + left_over; ++row) {
    const size_t a = 2 * row, b = 2 * row + 1;
    const bool both = b < rows_;
    start_[row] = start_[a];
    end_[row] = end_[both ? b : a];
    for (size_t c = 0; c < width; ++c) {
      sum_[row * width + c] = sum_[a * width + c] + (both ? sum_[b * width + c] : 0);
      weight_[row * width + c] = weight_[a * width + c] + (both ? weight_[b * width + c] : 0);
    }
  }
  // All rows are full when this is called: a last row without a partner is half full from now on.
  in_last_ = left_over ? merged_ : 2 * merged_;
  merged_ *= 2;
  rows_ = pairs + left_over;
  start_.resize(rows_);
  end_.resize(rows_);
  sum_.resize(rows_ * width);
  weight_.resize(rows_ * width);
}

double SampleStore::value(size_t row, size_t column) const {
  const size_t at = row * kinds_.size() + column;
  if (kinds_[column] == kAddUp) return sum_[at];
  return weight_[at] > 0 ? sum_[at] / weight_[at] : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace perfsuite
