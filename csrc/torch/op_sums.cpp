#include "op_sums.h"

#include <algorithm>

namespace perfsuite {

template <class Add>
void OpSums::each_row(ThreadRecorder& thread, Add add) {
  const uint32_t size = thread.table().size();
  auto& merged = thread.merged_rows;
  if (merged.size() < size) merged.resize(size, kNone);
  for (uint32_t i = 0; i < size; ++i) {
    Row& row = thread.table().row(i);
    if (row.calls.load(std::memory_order_relaxed) == 0) continue;
    if (merged[i] == kNone) {
      const auto key = std::make_tuple(row.key.name_and_module, row.key.op_phase_direction, thread.on_clock());
      const auto [it, fresh] = index_.emplace(key, uint32_t(data_.rows.size()));
      if (fresh) {
        data_.rows.emplace_back();
        data_.rows.back().key = row.key;
        data_.rows.back().on_clock = thread.on_clock();
      }
      merged[i] = it->second;
    }
    add(merged[i], row);
  }
}

void OpSums::take(ThreadRecorder& thread) {
  each_row(thread, [&](uint32_t at, Row& row) {
    OpRow& sum = data_.rows[at];
    sum.calls += row.calls.load(std::memory_order_relaxed);
    sum.total_ns += row.total_ns.load(std::memory_order_relaxed);
    sum.self_ns += row.self_ns.load(std::memory_order_relaxed);
  });
  data_.dropped_rows += thread.table().row(OpTable::kOverflowRow).calls.load(std::memory_order_relaxed);
  std::vector<Signature> signatures;
  thread.signatures(&signatures);
  for (Signature& signature : signatures) {
    if (signature.row >= thread.merged_rows.size() || thread.merged_rows[signature.row] == kNone) continue;
    auto& known = data_.rows[thread.merged_rows[signature.row]].signatures;
    const auto same = std::find_if(known.begin(), known.end(), [&](const Signature& s) {
      if (s.folded || signature.folded) return s.folded && signature.folded;
      return s.bytes == signature.bytes && s.footprint_bytes == signature.footprint_bytes && s.text == signature.text;
    });
    if (same == known.end()) {
      known.push_back(std::move(signature));
    } else {
      same->add(signature);
    }
  }
  thread.take_slices(&data_.slices);
  if (!thread.on_clock()) return;
  data_.top_level_ns.resize(size_t(ThreadRecorder::kMaxPhases) + 1, 0);
  for (int32_t phase = -1; phase < ThreadRecorder::kMaxPhases; ++phase)
    data_.top_level_ns[size_t(phase + 1)] += thread.top_level_ns(phase);
}

void OpSums::mark(int64_t step, const std::vector<ThreadRecorder*>& threads) {
  auto& marks = data_.marks;
  if (marks.size() == op_recorder::kMaxMarks) {
    for (size_t i = 1; 2 * i < marks.size(); ++i) marks[i] = std::move(marks[2 * i]);
    marks.resize(marks.size() / 2);
    mark_stride_ *= 2;
  }
  OpMark mark{step, {}, {}};
  for (const OpRow& row : data_.rows) {
    mark.self_ns.push_back(row.self_ns);
    mark.calls.push_back(row.calls);
  }
  for (ThreadRecorder* thread : threads) {
    each_row(*thread, [&](uint32_t at, Row& row) {
      if (mark.calls.size() <= at) {
        mark.self_ns.resize(at + 1, 0);
        mark.calls.resize(at + 1, 0);
      }
      mark.self_ns[at] += row.self_ns.load(std::memory_order_relaxed);
      mark.calls[at] += row.calls.load(std::memory_order_relaxed);
    });
  }
  marks.push_back(std::move(mark));
}

OpData OpSums::finish() {
  OpData data = std::move(data_);
  *this = OpSums{};
  return data;
}

}  // namespace perfsuite
