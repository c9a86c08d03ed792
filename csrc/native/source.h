// What the sampler reads: columns of numbers, each with a unit, or with the reason why it cannot be read here.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace perfsuite {

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

struct Column {
  std::string name;
  std::string unit;
  std::string absent;  // why it is never read; empty where it is
};

// One source's part of one sample.
class Reading {
 public:
  Reading(double* values, size_t first, std::vector<std::pair<size_t, std::string>>& failures, int64_t t_ns,
          int64_t (*now_ns)())
      : values_(values), first_(first), failures_(failures), t_ns_(t_ns), now_ns_(now_ns) {}

  void set(size_t column, double value) { values_[first_ + column] = value; }
  // The value stays missing; the reason is kept beside the data.
  void fail(size_t column, std::string reason) { failures_.emplace_back(first_ + column, std::move(reason)); }
  int64_t now_ns() const { return now_ns_(); }
  // Time since the sample's own time: what has been set until now was read no later than this after it.
  double elapsed_ns() const { return double(now_ns_() - t_ns_); }

 private:
  double* values_;
  size_t first_;
  std::vector<std::pair<size_t, std::string>>& failures_;
  int64_t t_ns_;
  int64_t (*now_ns_)();
};

class Source {
 public:
  virtual ~Source() = default;
  virtual const char* label() const = 0;
  // Why this source gives no column at all on this machine; empty where it gives some.
  virtual std::string unavailable() const { return {}; }
  virtual const std::vector<Column>& columns() const = 0;
  // Called on the sampler's thread. Sets every column it can read; all are missing before.
  virtual void read(Reading& row) = 0;
};

}  // namespace perfsuite
