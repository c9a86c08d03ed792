// Which scope the forward op had that created an autograd node: the link from backward ops to modules.
//
// A node is known by the thread that created it and its sequence number on that thread. One table of fixed size serves
// all threads: a graph of more nodes than it has entries loses its oldest ones, which then have no module.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "../native/shared.h"

namespace perfsuite {

class ForwardScopes {
 public:
  static constexpr uint64_t kEntries = uint64_t(1) << 16;

  // The scope of every node numbered first <= n < last that has none yet.
  void fill(uint64_t thread, uint64_t first, uint64_t last, Scope scope) {
    if (last - first > kEntries) first = last - kEntries;
    for (uint64_t n = first; n < last; ++n) {
      Entry& e = entry(thread, n);
      const uint64_t key = make_key(thread, n);
      if (e.key.load(std::memory_order_relaxed) == key) continue;  // an op inside this one was nearer
      e.key.store(0, std::memory_order_relaxed);
      std::atomic_thread_fence(std::memory_order_release);
      e.scope.store(uint64_t(scope.module) << 32 | scope.op, std::memory_order_relaxed);
      e.key.store(key, std::memory_order_release);
    }
  }

  bool find(uint64_t thread, uint64_t number, Scope* scope) const {
    const Entry& e = entry(thread, number);
    const uint64_t key = make_key(thread, number);
    if (e.key.load(std::memory_order_acquire) != key) return false;
    const uint64_t packed = e.scope.load(std::memory_order_relaxed);
    std::atomic_thread_fence(std::memory_order_acquire);
    if (e.key.load(std::memory_order_relaxed) != key) return false;  // overwritten by another thread meanwhile
    *scope = {uint32_t(packed >> 32), uint32_t(packed)};
    return true;
  }

 private:
  struct Entry {
    std::atomic<uint64_t> key{0}, scope{0};
  };
  static uint64_t make_key(uint64_t thread, uint64_t number) { return (thread + 1) << 48 | (number & ((1ull << 48) - 1)); }
  static uint64_t index(uint64_t thread, uint64_t number) {
    return (number + thread * 0x9E3779B97F4A7C15ull) & (kEntries - 1);
  }
  Entry& entry(uint64_t thread, uint64_t number) { return entries_[index(thread, number)]; }
  const Entry& entry(uint64_t thread, uint64_t number) const { return entries_[index(thread, number)]; }

  std::array<Entry, kEntries> entries_;
};

}  // namespace perfsuite
