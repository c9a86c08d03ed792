// Sums of all threads, and the marks. Its caller holds the registry's lock.
#pragma once

#include <map>
#include <tuple>

#include "op_recorder.h"

namespace perfsuite {

class OpSums {
 public:
  // Adds for good what a thread has recorded: it ends, or the recording does.
  void take(ThreadRecorder& thread);
  void mark(int64_t step, const std::vector<ThreadRecorder*>& threads);
  bool mark_due(int64_t ordinal) const { return ordinal % mark_stride_ == 0; }
  OpData finish();

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  // Calls add(index of the merged row, row) for each row of the thread.
  template <class Add>
  void each_row(ThreadRecorder& thread, Add add);

  std::map<std::tuple<uint64_t, uint64_t, bool>, uint32_t> index_;
  OpData data_;
  int64_t mark_stride_ = 1;
};

}  // namespace perfsuite
