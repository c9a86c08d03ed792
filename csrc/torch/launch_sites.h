// The sites that launches are booked to: which row of the op recorder an id stands for, that CUPTI carried with a launch.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "op_table.h"

namespace perfsuite {

// Row `row` of the table of thread `thread`; never 0.
inline uint64_t site_id(uint32_t thread, uint32_t row) { return (uint64_t(thread) + 1) << 32 | row; }

struct LaunchSite {
  RowKey key;
  bool on_clock;
};

// Key of the row that a site's ops were booked to when they ended; of the site itself while none has.
inline LaunchSite launch_site(OpTable& table, uint32_t row, uint32_t thread) {
  const uint32_t booked = table.row(row).booked_to.load(std::memory_order_relaxed);
  return {table.row(booked != 0 ? booked : row).key, thread == 0};
}

// Of threads whose sums were taken, until the next recording.
class LaunchSites {
 public:
  void take(OpTable& table, uint32_t thread) {
    std::vector<LaunchSite>& sites = by_thread_[thread];
    sites.clear();
    for (uint32_t row = 0; row < table.size(); ++row) sites.push_back(launch_site(table, row, thread));
  }
  std::optional<LaunchSite> find(uint64_t id) const {
    const auto sites = by_thread_.find(uint32_t(id >> 32) - 1);
    if (sites == by_thread_.end() || uint32_t(id) >= sites->second.size()) return std::nullopt;
    return sites->second[uint32_t(id)];
  }
  void clear() { by_thread_.clear(); }

 private:
  std::unordered_map<uint32_t, std::vector<LaunchSite>> by_thread_;
};

}  // namespace perfsuite
