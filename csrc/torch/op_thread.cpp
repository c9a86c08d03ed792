#include "op_thread.h"

#include <ATen/SequenceNumber.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>

#include <limits>

#include "../native/clock.h"

namespace perfsuite {

ThreadRecorder::ThreadRecorder(Recording& recording)
    : recording_(recording), thread_id_(at::RecordFunction::currentThreadId()), frames_(32), calls_(32) {}

void ThreadRecorder::adopt(uint64_t epoch, bool clock) {
  std::lock_guard<std::mutex> lock(signatures_mutex_);
  epoch_.store(0, std::memory_order_release);
  drop_to(0);
  on_clock_ = clock;
  number_ = clock ? 0 : recording_.threads.fetch_add(1) + 1;
  slices_.clear();
  last_joined_ = {0, 0};
  table_.clear();
  merged_rows.clear();
  for (auto& sum : top_level_ns_) sum.store(0, std::memory_order_relaxed);
  signatures_.clear();
  epoch_.store(epoch, std::memory_order_release);
}

// The engine evaluates a node: everything inside belongs to the forward op that created it.
void ThreadRecorder::join(Frame& frame, Scope current) {
  frame.in_node = true;
  frame.engine_grad = at::GradMode::is_enabled();
  frame.outside = current;
  frame.joined = {0, 0};
  const auto node = torch::autograd::get_current_node();
  if (!node) return;
  if (node->sequence_nr() == std::numeric_limits<uint64_t>::max()) {
    frame.joined = last_joined_;  // AccumulateGrad is created by no op and runs right after the node that feeds it
    return;
  }
  recording_.forward.find(node->thread_id(), node->sequence_nr(), &frame.joined);
  last_joined_ = frame.joined;
}

// What the thread launches until the op ends is booked to a row of the table that is chosen now.
void ThreadRecorder::tell_launches(Frame& frame, const LaunchObserver* observer) {
  frame.observer = observer;
  if (!observer) return;
  const int32_t phase = uint32_t(frame.phase) < uint32_t(kMaxPhases) ? frame.phase : -1;
  const Direction direction = frame.in_node ? Direction::kBackward : Direction::kNone;
  frame.site = table_.find(RowKey::make(frame.name->id, frame.scope.module, frame.scope.op, phase, direction));
  observer->begin(observer, frame.begin_ns, site_id(number_, frame.site), depth_ == 1);
}

// Forgets the frames from this depth on, whose ops did not end on this thread in this recording.
void ThreadRecorder::drop_to(size_t depth) {
  for (; depth_ > depth; --depth_) {
    const LaunchObserver* observer = frames_[depth_ - 1].observer;
    if (observer) observer->end(observer, now_ns(), depth_ == 1);
  }
}

template <bool kSampled>
void ThreadRecorder::begin(const at::RecordFunction& fn) {
  const uint64_t epoch = recording_.epoch.load(std::memory_order_acquire);
  if (epoch != epoch_.load(std::memory_order_relaxed)) adopt(epoch, false);
  if (fn.isAsync()) return;  // ends on another thread
  if (depth_ == frames_.size()) {
    frames_.resize(2 * depth_);
    calls_.resize(2 * depth_);
  }
  const SharedTable& shared = *recording_.shared;
  OpNameCache::Entry& entry = names_.find(fn.name());
  Frame& frame = frames_[depth_];
  frame.fn = &fn;
  frame.name = entry.name;
  frame.phase = shared.current_phase();
  frame.sequence = frame.first_sequence = fn.seqNr();
  frame.in_node = frame.engine_grad = false;
  const Scope current = shared.current_scope();
  if (depth_ > 0) {
    const Frame& parent = frames_[depth_ - 1];
    if (parent.first_sequence >= 0) frame.first_sequence = parent.first_sequence;
    frame.in_node = parent.in_node;
    frame.engine_grad = parent.engine_grad;
    frame.joined = parent.joined;
    frame.outside = parent.outside;
  }
  if (entry.name->is_node) join(frame, current);
  frame.again = frame.in_node && !frame.engine_grad && at::GradMode::is_enabled();
  frame.scope = current;
  if (frame.in_node) {
    // A module entered inside the node (a forward that is run again to save memory) knows better than the join.
    if (current.module == frame.outside.module) frame.scope.module = frame.joined.module;
    if (current.op == frame.outside.op) frame.scope.op = frame.joined.op;
  }
  frame.sampled = kSampled;
  if constexpr (kSampled) {
    calls_[depth_].begin(OpNameCache::model(entry, fn), fn.inputs());
  }
  frame.children_ns = 0;
  ++depth_;
  frame.begin_ns = now_ns();
  if (depth_ == 1 && on_clock_) shared.op_begin(frame.begin_ns);
  tell_launches(frame, shared.launch_observer->load(std::memory_order_acquire));
}

template void ThreadRecorder::begin<false>(const at::RecordFunction&);
template void ThreadRecorder::begin<true>(const at::RecordFunction&);

// Drops the ops above this one, which ended on another thread if at all; their time stays with the op around them.
bool ThreadRecorder::unwind_to(const at::RecordFunction& fn) {
  for (size_t i = depth_; i-- > 0;) {
    if (frames_[i].fn != &fn) continue;
    drop_to(i + 1);
    return true;
  }
  return false;  // began before the recording
}

void ThreadRecorder::end(const at::RecordFunction& fn) {
  const int64_t t = now_ns();
  if (depth_ == 0 || epoch_.load(std::memory_order_relaxed) != recording_.epoch.load(std::memory_order_acquire)) return;
  if (frames_[depth_ - 1].fn != &fn && !unwind_to(fn)) return;
  const Frame& frame = frames_[--depth_];
  if (frame.observer) frame.observer->end(frame.observer, t, depth_ == 0);
  const int64_t total_ns = t - frame.begin_ns;
  const int64_t self_ns = total_ns - frame.children_ns;
  const int32_t phase = uint32_t(frame.phase) < uint32_t(kMaxPhases) ? frame.phase : -1;
  if (depth_ > 0) {
    frames_[depth_ - 1].children_ns += total_ns;
  } else {
    if (on_clock_) recording_.shared->op_end(t);
    auto& sum = top_level_ns_[size_t(phase + 1)];
    sum.store(sum.load(std::memory_order_relaxed) + total_ns, std::memory_order_relaxed);
  }

  Direction direction = !frame.in_node ? Direction::kNone : frame.again ? Direction::kForward : Direction::kBackward;
  if (frame.first_sequence >= 0) {
    const int64_t next = int64_t(at::sequence_number::peek());
    if (!frame.in_node && next > frame.first_sequence) direction = Direction::kForward;  // nodes were created
    if (frame.sequence >= 0 && next > frame.sequence)
      recording_.forward.fill(thread_id_, uint64_t(frame.sequence), uint64_t(next), frame.scope);
  }

  const uint32_t row = table_.find(RowKey::make(frame.name->id, frame.scope.module, frame.scope.op, phase, direction));
  table_.row(row).add(total_ns, self_ns);
  if (frame.observer) table_.row(frame.site).booked_to.store(row, std::memory_order_relaxed);
  if (recording_.slices.open.load(std::memory_order_relaxed))
    slices_.keep(recording_.slices, {frame.begin_ns, t, frame.name->id, number_, uint32_t(depth_)});
  if (frame.sampled) {
    SampledCall& call = calls_[depth_];
    call.finish(fn.outputs(), depth_ > 0 && frames_[depth_ - 1].sampled ? &calls_[depth_ - 1] : nullptr);
    if (call.is_operator()) note(row, self_ns, call);
  }
}

void ThreadRecorder::note(uint32_t row, int64_t self_ns, const SampledCall& call) {
  std::lock_guard<std::mutex> lock(signatures_mutex_);
  // Calls of one signature can differ in bytes (the same tensor given twice): then they are two.
  const int64_t parts[3] = {row, call.bytes(), call.footprint_bytes()};
  signature_key_.assign(reinterpret_cast<const char*>(parts), sizeof parts);
  signature_key_ += call.signature();
  auto it = signatures_.find(signature_key_);
  if (it == signatures_.end()) {
    Row& r = table_.row(row);
    const bool folded = row == OpTable::kOverflowRow || signatures_.size() >= kMaxSignatures ||
                        r.num_signatures >= kMaxSignaturesPerRow;
    if (folded) {
      signature_key_.resize(sizeof parts[0]);  // the row alone
      it = signatures_.find(signature_key_);
    } else {
      ++r.num_signatures;
    }
    if (it == signatures_.end()) {
      it = signatures_.emplace(signature_key_, Signature{}).first;
      it->second = folded ? Signature{row, "(other shapes)", 0, 0, 0, 0, true}
                          : Signature{row, call.signature(), 0, 0, call.bytes(), call.footprint_bytes()};
    }
  }
  it->second.add({row, {}, 1, self_ns, call.bytes(), call.footprint_bytes()});
}

void ThreadRecorder::signatures(std::vector<Signature>* out) {
  std::lock_guard<std::mutex> lock(signatures_mutex_);
  for (const auto& item : signatures_) out->push_back(item.second);
}

}  // namespace perfsuite
