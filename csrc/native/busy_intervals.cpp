#include "busy_intervals.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace perfsuite {

void BusyIntervals::move_to(int64_t t_ns) {
  if (cells_.capacity() == 0) cells_.reserve(kIntervals * kWidth);
  while (!full_ && (t_ns - start_ns_) / interval_ns_ >= int64_t(kIntervals)) merge_pairs();
  if (full_) {
    end_ns_ = std::numeric_limits<int64_t>::max();
    return;
  }
  const auto at = size_t((t_ns - start_ns_) / interval_ns_);
  if (at >= intervals()) cells_.resize((at + 1) * kWidth);
  base_ = at * kWidth;
  begin_ns_ = start_ns_ + int64_t(at) * interval_ns_;
  end_ns_ = begin_ns_ + interval_ns_;
}

void BusyIntervals::merge_pairs() {
  if (2 * interval_ns_ > int64_t(std::numeric_limits<uint32_t>::max())) {
    full_ = true;
    return;
  }
  interval_ns_ *= 2;
  const size_t before = intervals(), after = (before + 1) / 2;
  for (size_t i = 0; i < before; ++i)
    for (size_t c = 0; c < kWidth; ++c) {
      const uint32_t ns = cells_[i * kWidth + c];
      uint32_t& sum = cells_[i / 2 * kWidth + c];
      sum = i % 2 == 0 ? ns : sum + ns;
    }
  cells_.resize(after * kWidth);
  for (Column& column : columns_) column.since /= 2;
}

void BusyIntervals::name_row(uint32_t row, const std::string& name) {
  if (row >= column_of_row_.size()) column_of_row_.resize(row + 1, kUnseen);
  const auto found = column_of_name_.find(name);
  column_of_row_[row] = found != column_of_name_.end() ? found->second : new_column(name);
}

uint8_t BusyIntervals::new_column(const std::string& name) {
  const Column made{name, 0, base_ / kWidth};
  if (columns_.size() < kColumns) {
    columns_.push_back(made);
    return column_of_name_[name] = uint8_t(columns_.size() - 1);
  }
  const auto least = std::min_element(columns_.begin(), columns_.end(),
                                      [](const Column& a, const Column& b) { return a.total_ns < b.total_ns; });
  const auto column = uint8_t(least - columns_.begin());
  for (size_t i = least->since; i < intervals(); ++i) {
    uint32_t& ns = cells_[i * kWidth + column];
    cells_[i * kWidth + kOthers] += ns;
    ns = 0;
  }
  std::replace(column_of_row_.begin(), column_of_row_.end(), column, kOthers);
  column_of_name_[least->name] = kOthers;
  *least = made;
  return column_of_name_[name] = column;
}

BusyTable BusyIntervals::table(int32_t device, int64_t stop_ns) const {
  BusyTable table;
  table.device = device;
  if (full_) {
    table.unavailable = "the run was longer than busy time by interval is kept for";
    return table;
  }
  std::vector<size_t> order(columns_.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [this](size_t a, size_t b) { return columns_[a].total_ns > columns_[b].total_ns; });
  order.resize(std::min(order.size(), kKept));
  while (!order.empty() && columns_[order.back()].total_ns == 0) order.pop_back();
  for (const size_t column : order) table.names.push_back(columns_[column].name);

  const size_t width = order.size() + 1;
  for (int64_t begin = start_ns_; begin < stop_ns; begin += interval_ns_) {
    const size_t row = table.edges_ns.size();
    table.edges_ns.push_back(begin);
    table.busy_ns.resize((row + 1) * width);
    if (row >= intervals()) continue;  // idle until the end
    const uint32_t* cells = &cells_[row * kWidth];
    int64_t* busy = &table.busy_ns[row * width];
    int64_t others = std::accumulate(cells, cells + kWidth, int64_t(0));
    for (size_t i = 0; i < order.size(); ++i) {
      busy[i] = cells[order[i]];
      others -= busy[i];
    }
    busy[order.size()] = others;
  }
  if (table.edges_ns.empty())
    table.unavailable = "the account has no time";
  else
    table.edges_ns.push_back(stop_ns);
  return table;
}

}  // namespace perfsuite
