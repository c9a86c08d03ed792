#include "emulator.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

emulator::Index threadIdx, blockIdx, blockDim, gridDim;

// Saves the callee-saved registers of the System V ABI on the stack, and goes on with another stack.
extern "C" void perfsuite_emulator_switch(void** save_stack, void* stack);
asm(R"(
.text
.type perfsuite_emulator_switch, @function
perfsuite_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size perfsuite_emulator_switch, .-perfsuite_emulator_switch
)");

namespace emulator {
namespace {

constexpr int kInvalidConfiguration = 9, kLaunchFailure = 719;  // cudaError_t
constexpr size_t kStackBytes = 64 * 1024, kPage = 4096;
constexpr unsigned kMostThreads = 1024, kMostCluster = 8;
constexpr size_t kMostShared = 227 * 1024;  // of sm_90; CUDA C++ Programming Guide, technical specifications
// Around a block's shared memory. As any element type it reads as NaN, and it is not what unwritten memory reads as.
constexpr size_t kGuardBytes = 4096;
constexpr uint16_t kGuard = 0xfffd;
constexpr int kUnwritten = 0xff;

enum class State { kReady, kAtWarp, kAtBlock, kAtCluster, kDone };

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned char* stack = nullptr;
  State state = State::kDone;
  Index thread{};
  unsigned block = 0, lane = 0;
  Place place{};
  // Of the exchange among lanes it waits for.
  unsigned mask = 0, source = 0;
  Exchange exchange = Exchange::kNothing;
  uint64_t value = 0, result = 0;
};

struct Block {
  Index index{};
  unsigned char* shared = nullptr;
  unsigned running = 0, waiting = 0;
};

std::mutex one_launch;
std::string message;
std::string host_message;  // of undefined behaviour in the code around the launch
int error = 0;
std::deque<Fiber> fibers;  // the blocks of one cluster, thread after thread
Block blocks[kMostCluster];
unsigned threads = 0, cluster_size = 1;
size_t shared_size = 0, cluster_waiting = 0;
Fiber* current = nullptr;
void* scheduler_stack = nullptr;
const std::function<void()>* kernel = nullptr;
bool reshuffle = false;  // a barrier has opened: any warp may be next
std::vector<unsigned char> shared_arena;

uint64_t random_bits() {  // xorshift64
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state >> 16;
}

void yield() { perfsuite_emulator_switch(&current->stack_pointer, scheduler_stack); }

void fiber_main() {
  (*kernel)();
  current->state = State::kDone;
  --blocks[current->block].running;
  yield();
  std::abort();  // nobody wakes it
}

void prepare(Fiber& fiber) {
  if (!fiber.stack) {
    void* memory = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    mprotect(memory, kPage, PROT_NONE);
    fiber.stack = static_cast<unsigned char*>(memory);
  }
  auto* top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  *--top = nullptr;  // where fiber_main would return to, and what aligns its stack as a call does
  *--top = reinterpret_cast<void*>(&fiber_main);
  top -= 6;  // registers
  fiber.stack_pointer = top;
  fiber.state = State::kReady;
}

std::string describe(const Place& place) {
  const char* name = std::strrchr(place.file, '/');
  return std::string(name ? name + 1 : place.file) + ":" + std::to_string(place.line);
}

std::string describe(const Fiber& fiber) {
  if (fiber.state == State::kDone) return "has ended";
  return "waits at " + describe(fiber.place);
}

std::string name(const Fiber& fiber) {
  char text[128];
  const Index b = blocks[fiber.block].index, t = fiber.thread;
  std::snprintf(text, sizeof text, "block (%u, %u, %u) thread (%u, %u, %u)", b.x, b.y, b.z, t.x, t.y, t.z);
  return text;
}

void record(const char* text) {
  if (!error) message = text;
  error = kLaunchFailure;
}

void run(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.thread;
  blockIdx = blocks[fiber.block].index;
  perfsuite_emulator_switch(&scheduler_stack, fiber.stack_pointer);
  current = nullptr;
}

// Runs the lanes of a warp, in an order that changes, until all of them wait for other warps or have ended.
void run_warp(Fiber* const* lanes) {
  for (bool ran = true; ran && !error && !reshuffle;) {
    ran = false;
    const unsigned first = unsigned(random_bits()), step = unsigned(random_bits()) | 1;
    for (unsigned i = 0; i < 32 && !error && !reshuffle; ++i) {
      Fiber& fiber = *lanes[(first + step * i) % 32];
      if (fiber.state != State::kReady) continue;
      run(fiber);
      ran = true;
    }
  }
}

void report_stuck(size_t count) {
  const Fiber *one = nullptr, *other = nullptr;
  for (size_t i = 0; i < count; ++i) {
    if (fibers[i].state != State::kDone && !one) one = &fibers[i];
  }
  // Rather one of the same warp or block, which it waits for.
  const size_t begin = one->state == State::kAtCluster ? 0 : size_t(one->block) * threads;
  const size_t end = one->state == State::kAtCluster ? count : begin + threads;
  for (size_t i = begin; i < end && !other; ++i) {
    const Fiber& fiber = fibers[i];
    if (fiber.state != one->state || fiber.place.line != one->place.line) other = &fiber;
  }
  std::string text = "divergent barrier: " + name(*one) + " " + describe(*one);
  if (other) text += ", " + name(*other) + " " + describe(*other);
  record(text.c_str());
}

void check_guards(const Block& block) {
  for (size_t side = 0; side < 2; ++side) {
    const unsigned char* guard = block.shared + (side ? shared_size : 0) - (side ? 0 : kGuardBytes);
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (guard[i] == (kGuard >> (i % 2 * 8) & 0xff)) continue;
      char text[160];
      std::snprintf(text, sizeof text, "block (%u, %u, %u) wrote byte %td of %zu bytes of shared memory", block.index.x,
                    block.index.y, block.index.z, guard + i - block.shared, shared_size);
      record(text);
      return;
    }
  }
}

void poison(unsigned char* shared) {
  for (size_t i = 0; i < kGuardBytes; ++i) {
    const auto byte = static_cast<unsigned char>(kGuard >> (i % 2 * 8) & 0xff);
    shared[shared_size + i] = shared[i - kGuardBytes] = byte;
  }
  std::memset(shared, kUnwritten, shared_size);
}

void run_cluster(Index first) {
  const size_t count = size_t(threads) * cluster_size;
  cluster_waiting = 0;
  while (fibers.size() < count) fibers.emplace_back();
  for (unsigned r = 0; r < cluster_size; ++r) {
    blocks[r].index = {first.x + r, first.y, first.z};
    blocks[r].running = threads;
    blocks[r].waiting = 0;
    poison(blocks[r].shared);
  }
  std::vector<Fiber*> all(count);
  for (size_t i = 0; i < count; ++i) {
    Fiber& fiber = fibers[i];
    const unsigned t = unsigned(i % threads);
    fiber.thread = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    fiber.block = unsigned(i / threads);
    fiber.lane = t % 32;
    prepare(fiber);
    all[i] = &fiber;
  }
  std::vector<size_t> ready;  // first threads of warps that can run
  bool ended[kMostCluster] = {};
  while (!error) {
    ready.clear();
    bool running = false;
    for (size_t i = 0; i < count; i += 32) {
      for (size_t lane = 0; lane < 32; ++lane) {
        const State state = all[i + lane]->state;
        running |= state != State::kDone;
        if (state == State::kReady) {
          ready.push_back(i);
          break;
        }
      }
    }
    if (!running) break;
    if (ready.empty()) {
      report_stuck(count);
      break;
    }
    reshuffle = false;
    run_warp(&all[ready[random_bits() % ready.size()]]);
    for (unsigned r = 0; r < cluster_size && !error; ++r) {
      if (blocks[r].running || ended[r]) continue;
      ended[r] = true;
      check_guards(blocks[r]);
      poison(blocks[r].shared);  // no block of the cluster may count on it any more
    }
  }
  for (unsigned r = 0; r < cluster_size && !error; ++r) check_guards(blocks[r]);
}

const char* refused(Index grid, Index block, size_t shared_bytes, int cluster) {
  const uint64_t in_block = uint64_t(block.x) * block.y * block.z;
  if (in_block == 0 || in_block > kMostThreads) return "a block has 1 to 1024 threads";
  if (in_block % 32) return "a block has to be of whole warps";
  if (block.z > 64) return "a block has at most 64 threads along z";
  if (!grid.x || !grid.y || !grid.z) return "the grid is empty";
  if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) return "a grid is at most 2147483647 x 65535 x 65535";
  if (shared_bytes > kMostShared) return "a block has at most 227 KiB of shared memory";
  if (cluster < 1 || unsigned(cluster) > kMostCluster) return "a cluster has 1 to 8 blocks";
  if (grid.x % unsigned(cluster)) return "the grid is not of whole clusters";
  return nullptr;
}

// A number below n, all of them in a drawn order as i goes up.
struct Shuffled {
  uint64_t n, step, offset;
  explicit Shuffled(uint64_t count) : n(count), step(1), offset(random_bits() % count) {
    auto divisor = [](uint64_t a, uint64_t b) {
      while (b) a = std::exchange(b, a % b);
      return a;
    };
    if (n > 2) do step = 1 + random_bits() % (n - 1);
      while (divisor(step, n) != 1);
  }
  uint64_t operator()(uint64_t i) const { return (offset + uint64_t(static_cast<unsigned __int128>(i) * step % n)) % n; }
};

}  // namespace

void fail(const char* format, ...) {
  char text[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  record((name(*current) + ": " + text).c_str());
  yield();
  std::abort();
}

void wait_for_block(Place place) {
  Fiber& me = *current;
  Block& block = blocks[me.block];
  me.place = place;
  me.state = State::kAtBlock;
  if (++block.waiting == threads) {
    block.waiting = 0;
    Fiber* odd = nullptr;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& other = fibers[size_t(me.block) * threads + i];
      if (other.place.line != place.line || std::strcmp(other.place.file, place.file)) odd = &other;
    }
    if (odd)
      fail("divergent barrier: it waits at %s, %s %s", describe(place).c_str(), name(*odd).c_str(),
           describe(*odd).c_str());
    for (unsigned i = 0; i < threads; ++i) fibers[size_t(me.block) * threads + i].state = State::kReady;
    reshuffle = true;
  }
  yield();
}

void wait_for_cluster(Place place) {
  Fiber& me = *current;
  me.place = place;
  me.state = State::kAtCluster;
  const size_t count = size_t(threads) * cluster_size;
  if (++cluster_waiting == count) {
    cluster_waiting = 0;
    for (size_t i = 0; i < count; ++i) {
      if (fibers[i].place.line != place.line) fail("divergent barrier: clusters wait at two places");
      fibers[i].state = State::kReady;
    }
    reshuffle = true;
  }
  yield();
}

uint64_t wait_for_warp(unsigned mask, Exchange exchange, uint64_t value, unsigned source, Place place) {
  Fiber& me = *current;
  Fiber* lanes[32];
  const unsigned t = me.thread.x + blockDim.x * (me.thread.y + blockDim.y * me.thread.z);
  const size_t base = size_t(me.block) * threads + t - me.lane;
  if (!(mask >> me.lane & 1)) fail("%s: the lane is not in the mask 0x%08x", describe(place).c_str(), mask);
  me.place = place;
  me.state = State::kAtWarp;
  me.mask = mask;
  me.exchange = exchange;
  me.value = value;
  me.source = source;
  for (unsigned lane = 0; lane < 32; ++lane) {
    lanes[lane] = &fibers[base + lane];
    if ((mask >> lane & 1) && lanes[lane]->state != State::kAtWarp) {
      yield();
      return me.result;
    }
  }
  uint64_t ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) ballot |= uint64_t(lanes[lane]->value != 0) << lane;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Fiber& other = *lanes[lane];
    if (other.mask != mask || other.exchange != exchange || other.place.line != place.line)
      fail("divergent warp: it waits at %s, %s %s", describe(place).c_str(), name(other).c_str(),
           describe(other).c_str());
    if (exchange == Exchange::kBallot) other.result = ballot;
    if (exchange == Exchange::kValue) {
      if (!(mask >> other.source & 1))
        fail("%s: reads lane %u, which is not in the mask", describe(place).c_str(), other.source);
      other.result = lanes[other.source]->value;
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) lanes[lane]->state = State::kReady;
  }
  yield();  // any lane may be the next
  return me.result;
}

int64_t now_ns() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

unsigned lane() { return current->lane; }

unsigned rank_in_cluster() { return current->block; }

void* shared_memory() { return blocks[current->block].shared; }

void* shared_memory_of(void* own, unsigned rank) {
  const ptrdiff_t offset = static_cast<unsigned char*>(own) - blocks[current->block].shared;
  if (rank >= cluster_size) fail("there is no block %u in a cluster of %u", rank, cluster_size);
  if (offset < 0 || size_t(offset) >= shared_size) fail("an address outside this block's shared memory");
  return blocks[rank].shared + offset;
}

int launch(Index grid, Index block, size_t shared_bytes, int cluster, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> guard(one_launch);
  if (const char* why = refused(grid, block, shared_bytes, cluster)) {
    message = why;
    return kInvalidConfiguration;
  }
  error = 0;
  if (!host_message.empty()) {
    record(host_message.c_str());
    host_message.clear();
    return error;
  }
  gridDim = grid;
  blockDim = block;
  threads = block.x * block.y * block.z;
  cluster_size = unsigned(cluster);
  shared_size = shared_bytes;
  kernel = &body;
  // Aligned to 16 bytes as promised, and not to more.
  const size_t each = (shared_bytes + 2 * kGuardBytes + 127) / 128 * 128;
  shared_arena.resize(cluster_size * each + 128);
  auto start = (reinterpret_cast<uintptr_t>(shared_arena.data()) + 63) / 64 * 64 + 16;
  for (unsigned r = 0; r < cluster_size; ++r)
    blocks[r].shared = reinterpret_cast<unsigned char*>(start) + r * each + kGuardBytes;
  const uint64_t along_x = grid.x / cluster_size, clusters = along_x * grid.y * grid.z;
  const Shuffled order(clusters);
  for (uint64_t i = 0; i < clusters && !error; ++i) {
    const uint64_t c = order(i);
    run_cluster({unsigned(c % along_x) * cluster_size, unsigned(c / along_x % grid.y), unsigned(c / along_x / grid.y)});
  }
  return error;
}

const char* last_error() { return message.c_str(); }

}  // namespace emulator

// What the compiler calls where -fsanitize finds something; each gets the place in the source first.
namespace {
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};
void undefined(const char* what, const void* data) {
  const auto* where = static_cast<const SourceLocation*>(data);
  const std::string place = emulator::describe({where->file, int(where->line)});
  if (emulator::current) emulator::fail("%s: %s", place.c_str(), what);
  emulator::host_message = place + ": " + what;
}
}  // namespace

extern "C" {
void __ubsan_handle_type_mismatch_v1(void* data, void*) { undefined("a misaligned address", data); }
void __ubsan_handle_out_of_bounds(void* data, void*) { undefined("an index outside its array", data); }
void __ubsan_handle_add_overflow(void* data, void*, void*) { undefined("an integer overflows", data); }
void __ubsan_handle_sub_overflow(void* data, void*, void*) { undefined("an integer overflows", data); }
void __ubsan_handle_mul_overflow(void* data, void*, void*) { undefined("an integer overflows", data); }
void __ubsan_handle_divrem_overflow(void* data, void*, void*) { undefined("an integer overflows", data); }
void __ubsan_handle_negate_overflow(void* data, void*) { undefined("an integer overflows", data); }
void __ubsan_handle_shift_out_of_bounds(void* data, void*, void*) { undefined("a shift by more than the width", data); }
}
