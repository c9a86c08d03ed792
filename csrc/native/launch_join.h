// Puts the names of launches on the ranges that were measured around them, by their order.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

namespace perfsuite {

struct Launch {
  std::string name;  // demangled; kGraphName for a whole graph
  int64_t site;      // number of the op recorder's, 0: none
  int32_t phase;     // of the phase clock, -1: none
  bool ordered;      // no other launch was under way on another thread
};

struct MeasuredRange {
  int64_t position;  // in the order of execution, as CUPTI numbers them from any start
  std::vector<double> values;
};

constexpr const char* kGraphName = "(cuda graph)";
constexpr const char* kUnjoinedName = "(not joined)";

struct LaunchRow {
  int64_t calls = 0;
  std::vector<double> sums;
};

class LaunchJoin {
 public:
  explicit LaunchJoin(size_t columns) : columns_(columns) {}

  // The launches and the ranges of one stretch. They are joined where there is a range for each launch, but for
  // `dropped` ones at the end; else the ranges go to a row named kUnjoinedName, of no site and no phase.
  void add(const std::vector<Launch>& launches, std::vector<MeasuredRange> ranges, int64_t dropped);

  using Key = std::tuple<std::string, int64_t, int32_t>;  // name, site, phase
  const std::map<Key, LaunchRow>& rows() const { return rows_; }
  int64_t unjoined() const { return unjoined_; }  // ranges whose launch is not known
  int64_t dropped() const { return dropped_; }    // ranges for which CUPTI had no room
  int64_t launches() const { return launches_; }
  int64_t ranges() const { return ranges_; }

 private:
  const size_t columns_;
  std::map<Key, LaunchRow> rows_;
  int64_t unjoined_ = 0, dropped_ = 0, launches_ = 0, ranges_ = 0;
};

}  // namespace perfsuite
