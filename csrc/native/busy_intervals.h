// How much of a device's time the work of each name had, interval by interval: what energy by kernel is learnt from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace perfsuite {

// Columns are names and, last, all other work. Rows touch each other and cover the account.
struct BusyTable {
  int32_t device = -1;
  std::vector<std::string> names;
  std::vector<int64_t> edges_ns;  // rows + 1
  std::vector<int64_t> busy_ns;   // rows * (names + 1)
  std::string unavailable;        // why there are no rows
};

// Intervals are 2 ms long; when there are 65536 of them pairs become one, and so on: constant memory of 17 MB for runs
// of any length, reserved when the first work is added and touched as time goes on.
//
// A name gets a column when it is first seen, so that a column holds all of the name's time. Where all columns are
// taken, the name with the least time so far gives up its own: its time, and all that follows, is that of others. So
// names that are short and early make way for long ones.
class BusyIntervals {
 public:
  static constexpr size_t kColumns = 64;  // of names, while the run goes on
  static constexpr size_t kKept = 32;     // at the end, those with the most time
  static constexpr size_t kIntervals = 1 << 16;
  static constexpr int64_t kFirstIntervalNs = 2'000'000;

  void start(int64_t t_ns) { start_ns_ = begin_ns_ = end_ns_ = t_ns; }

  // Goes to the interval that t_ns lies in, and returns its end. t_ns never falls.
  int64_t enter(int64_t t_ns) {
    if (t_ns >= end_ns_) move_to(t_ns);
    return end_ns_;
  }
  bool has_column(uint32_t row) const { return row < column_of_row_.size() && column_of_row_[row] != kUnseen; }
  // Rows of one name share a column.
  void name_row(uint32_t row, const std::string& name);
  // Time of a row that has a column, in the interval entered last.
  void add(uint32_t row, int64_t ns) {
    if (full_) return;
    const uint8_t column = column_of_row_[row];
    cells_[base_ + column] += uint32_t(ns);
    if (column < kColumns) columns_[column].total_ns += ns;
  }

  // The last interval ends at stop_ns.
  BusyTable table(int32_t device, int64_t stop_ns) const;

 private:
  static constexpr size_t kWidth = kColumns + 1;
  static constexpr uint8_t kOthers = kColumns, kUnseen = 255;
  struct Column {
    std::string name;
    int64_t total_ns = 0;
    size_t since = 0;  // the interval in which it was first seen
  };

  void move_to(int64_t t_ns);
  void merge_pairs();
  uint8_t new_column(const std::string& name);
  size_t intervals() const { return cells_.size() / kWidth; }

  int64_t start_ns_ = 0, interval_ns_ = kFirstIntervalNs;
  int64_t begin_ns_ = 0, end_ns_ = 0;  // of the interval entered last
  size_t base_ = 0;                    // its first cell
  bool full_ = false;                  // an interval would be longer than a cell can count
  std::vector<uint32_t> cells_;        // intervals * kWidth, ns
  std::vector<Column> columns_;
  std::vector<uint8_t> column_of_row_;
  std::unordered_map<std::string, uint8_t> column_of_name_;
};

}  // namespace perfsuite
