// What one thread records: the stack of ops it is inside of, its table of sums and its signatures.
#pragma once

#include <ATen/record_function.h>

#include <array>
#include <atomic>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "../native/shared.h"
#include "byte_model.h"
#include "forward_scopes.h"
#include "launch_sites.h"
#include "op_names.h"
#include "op_slices.h"
#include "op_table.h"

namespace perfsuite {

struct Signature {
  uint32_t row = 0;
  std::string text;
  int64_t calls = 0, self_ns = 0;
  int64_t bytes = kUnknownBytes, footprint_bytes = kUnknownBytes;
  // Calls of a row beyond its first kMaxSignaturesPerRow shapes, as one: their bytes are sums over the calls.
  bool folded = false;

  void add(const Signature& other) {
    calls += other.calls;
    self_ns += other.self_ns;
    if (!folded) return;
    bytes = sum(bytes, other.bytes);
    footprint_bytes = sum(footprint_bytes, other.footprint_bytes);
  }
  static int64_t sum(int64_t a, int64_t b) { return a == kUnknownBytes || b == kUnknownBytes ? kUnknownBytes : a + b; }
};

// What all threads share while a recording runs. A recording is known by its epoch: a thread that meets a new one
// forgets what it has.
struct Recording {
  const SharedTable* shared = nullptr;
  ForwardScopes forward;
  std::atomic<uint64_t> epoch{0};
  std::atomic<uint32_t> threads{0};  // that take part, besides the clock's
  SliceWindow slices;
};

class ThreadRecorder {
 public:
  static constexpr int32_t kMaxPhases = 64;
  static constexpr size_t kMaxSignatures = 8192;
  static constexpr uint32_t kMaxSignaturesPerRow = 128;

  explicit ThreadRecorder(Recording& recording);

  template <bool kSampled>
  void begin(const at::RecordFunction& fn);
  void end(const at::RecordFunction& fn);
  // Forgets everything, for a recording that begins. By the owning thread; `clock`: its ops are told to the phase clock,
  // and it is thread 0.
  void adopt(uint64_t epoch, bool clock);

  // The rest may be read by any thread.
  uint64_t epoch() const { return epoch_.load(std::memory_order_acquire); }
  bool on_clock() const { return on_clock_; }
  uint32_t number() const { return number_; }
  OpTable& table() { return table_; }
  int64_t top_level_ns(int32_t phase) const { return top_level_ns_[size_t(phase + 1)].load(std::memory_order_relaxed); }
  void signatures(std::vector<Signature>* out);
  void take_slices(std::vector<OpSlice>* out) { slices_.take(out); }

  std::vector<uint32_t> merged_rows;  // of the collector: where each row of the table is summed

 private:
  struct Frame {
    const at::RecordFunction* fn;
    const OpName* name;
    bool engine_grad;  // inside a node: whether the engine records the backward pass itself (create_graph)
    bool again;        // inside a node: a part of a forward that is run again, with gradients on where the engine has none
    int64_t begin_ns, children_ns;
    int64_t sequence;        // number of the next autograd node when the op began; -1 where autograd does not see it
    int64_t first_sequence;  // the same of the outermost op around it that has one
    Scope scope;             // what its time is booked to
    Scope joined, outside;   // inside a node: scope of the forward op behind it; scope that the engine was called in
    int32_t phase;
    bool in_node, sampled;
    uint32_t site;                   // row that stands for what this op launches
    const LaunchObserver* observer;  // was told of it; null: nobody
  };
  void join(Frame& frame, Scope current);
  void tell_launches(Frame& frame, const LaunchObserver* observer);
  void drop_to(size_t depth);
  bool unwind_to(const at::RecordFunction& fn);
  void note(uint32_t row, int64_t self_ns, const SampledCall& call);

  Recording& recording_;
  const uint64_t thread_id_;
  std::atomic<uint64_t> epoch_{0};
  bool on_clock_ = false;
  uint32_t number_ = 0;
  size_t depth_ = 0;
  std::vector<Frame> frames_;
  std::vector<SampledCall> calls_;
  Scope last_joined_{0, 0};
  OpNameCache names_;
  OpTable table_;
  ThreadSlices slices_;
  std::array<std::atomic<int64_t>, kMaxPhases + 1> top_level_ns_{};

  std::mutex signatures_mutex_;
  std::unordered_map<std::string, Signature> signatures_;
  std::string signature_key_;
};

}  // namespace perfsuite
