#include "launch_join.h"

#include <algorithm>

namespace perfsuite {

void LaunchJoin::add(const std::vector<Launch>& launches, std::vector<MeasuredRange> ranges, int64_t dropped) {
  std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.position < b.position; });
  bool joined = int64_t(ranges.size()) + dropped == int64_t(launches.size());
  for (size_t i = 1; i < ranges.size(); ++i) joined &= ranges[i].position == ranges[i - 1].position + 1;
  launches_ += int64_t(launches.size());
  ranges_ += int64_t(ranges.size());
  dropped_ += dropped;
  for (size_t i = 0; i < ranges.size(); ++i) {
    const bool known = joined && launches[i].ordered;
    const Key key = known ? Key{launches[i].name, launches[i].site, launches[i].phase} : Key{kUnjoinedName, 0, -1};
    LaunchRow& row = rows_[key];
    row.sums.resize(columns_, 0);
    ++row.calls;
    for (size_t c = 0; c < columns_; ++c) row.sums[c] += ranges[i].values[c];
    unjoined_ += !known;
  }
}

}  // namespace perfsuite
