#include "allocator.h"

#include <c10/core/CPUAllocator.h>
#include <malloc.h>

#include <array>
#include <atomic>
#include <stdexcept>

#include "allocation_log.h"

namespace perfsuite {
namespace {

constexpr int32_t kMaxPhases = 64;
using Counter = std::atomic<int64_t>;

void add(Counter& counter, int64_t value) { counter.fetch_add(value, std::memory_order_relaxed); }

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override;
  // The context of a block is its address, as with torch's own, so that both kinds can be told to the same code.
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  c10::Allocator* torch_allocator = nullptr;
  const SharedTable* shared = nullptr;
  bool running = false;
  // `current` goes on after stop(): blocks that an earlier account counted are subtracted when they are freed.
  Counter current{0}, peak{0}, churn{0}, allocations{0};
  std::array<Counter, kMaxPhases + 1> churn_by_phase{}, allocations_by_phase{};

 private:
  static void release(void* block);
};

// Tensors keep a pointer to the allocator they came from: it is never destroyed.
CountingAllocator& counting() {
  static auto& instance = *new CountingAllocator();
  return instance;
}

c10::DataPtr CountingAllocator::allocate(size_t bytes) {
  c10::DataPtr data = torch_allocator->allocate(bytes);
  if (!data.get() || !data.compare_exchange_deleter(torch_allocator->raw_deleter(), &release)) return data;
  const int64_t held = int64_t(malloc_usable_size(data.get()));
  if (allocation_log::running.load(std::memory_order_relaxed)) allocation_log::note(data.get(), held);
  const int64_t now = current.fetch_add(held, std::memory_order_relaxed) + held;
  int64_t most = peak.load(std::memory_order_relaxed);
  while (now > most && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
  }
  add(churn, int64_t(bytes));
  add(allocations, 1);
  int32_t phase = shared->current_phase();
  if (uint32_t(phase) >= uint32_t(kMaxPhases)) phase = -1;
  add(churn_by_phase[size_t(phase + 1)], int64_t(bytes));
  add(allocations_by_phase[size_t(phase + 1)], 1);
  return data;
}

void CountingAllocator::release(void* block) {
  CountingAllocator& self = counting();
  const int64_t held = int64_t(malloc_usable_size(block));
  // Before the block is given back: another thread may be given it at once.
  if (allocation_log::running.load(std::memory_order_relaxed)) allocation_log::note(block, -held);
  add(self.current, -held);
  self.torch_allocator->raw_deleter()(block);
}

}  // namespace

namespace allocator_account {

void start(const SharedTable& shared) {
  CountingAllocator& account = counting();
  if (account.running) throw std::runtime_error("an allocator account is already running in this process");
  c10::Allocator* torch_allocator = c10::GetCPUAllocator();
  if (!torch_allocator->raw_deleter() || (account.torch_allocator && account.torch_allocator != torch_allocator))
    throw std::runtime_error("this process has replaced torch's CPU allocator by one that cannot be wrapped");
  account.torch_allocator = torch_allocator;
  account.shared = &shared;
  account.peak = account.current.load();
  account.churn = account.allocations = 0;
  for (auto& counter : account.churn_by_phase) counter = 0;
  for (auto& counter : account.allocations_by_phase) counter = 0;
  c10::SetCPUAllocator(&account);
  if (c10::GetCPUAllocator() != &account)
    throw std::runtime_error("this process has a CPU allocator of higher priority than torch's own");
  account.running = true;
}

HeldBytes held() { return {counting().current, counting().peak}; }

AllocatorSums stop() {
  CountingAllocator& account = counting();
  if (!account.running) throw std::runtime_error("no allocator account is running");
  if (c10::GetCPUAllocator() == &account) c10::SetCPUAllocator(account.torch_allocator);
  account.running = false;
  AllocatorSums sums{account.peak, account.current, account.churn, account.allocations, {}, {}};
  for (const auto& counter : account.churn_by_phase) sums.churn_by_phase.push_back(counter);
  for (const auto& counter : account.allocations_by_phase) sums.allocations_by_phase.push_back(counter);
  return sums;
}

}  // namespace allocator_account
}  // namespace perfsuite
