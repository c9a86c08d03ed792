// The op recorder: one observer in the process, registered once and switched on and off.
//
// start() and what follows are called from Python, one at a time; ops are recorded on every thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "op_thread.h"

namespace perfsuite {

struct OpRow {
  RowKey key;
  bool on_clock = false;
  int64_t calls = 0, total_ns = 0, self_ns = 0;
  std::vector<Signature> signatures;
};

// Cumulative sums of every row when a step began, rows in the order of OpData::rows; rows that came later are missing.
struct OpMark {
  int64_t step;
  std::vector<int64_t> self_ns, calls;
};

struct OpData {
  std::vector<OpRow> rows;
  std::vector<OpMark> marks;
  std::vector<int64_t> top_level_ns;  // on the clock thread, by phase + 1
  std::vector<OpSlice> slices;        // in no order
  int64_t sampled_steps = 0, dropped_rows = 0, dropped_slices = 0;
};

namespace op_recorder {

constexpr int64_t kShapesEvery = 16;
constexpr size_t kMaxMarks = 64;

void init(const SharedTable& shared);  // once, when the library is loaded
// The calling thread is the clock thread. Single ops are kept from the begin of step slices_from to that of step
// slices_until. Throws std::runtime_error while a recording runs.
void start(int64_t slices_from, int64_t slices_until);
OpData stop();
void pause();
void resume();
// The first step and every 16th after it are recorded with shapes; takes a mark where one is due.
void begin_step(int64_t step);
// Until the next step: shapes on the first evaluation and every 16th after it.
void begin_evaluation();
// What the site of this id is, from start() until the next one.
std::optional<LaunchSite> site(uint64_t id);

}  // namespace op_recorder
}  // namespace perfsuite
