#include <stdexcept>

#include "membench.h"
#include "membench_team.h"

namespace perfsuite {
namespace {

// splitmix64 (Steele, Lea, Flood 2014): the same permutation for the same seed on every machine.
uint64_t next_random(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

void** follow(void** p, int64_t steps) {
  for (int64_t i = 0; i < steps; ++i) p = static_cast<void**>(*p);
  __asm__ volatile("" : "+r"(p));  // the walk has a reader
  return p;
}

int64_t checked_lines(int64_t bytes, int line_bytes) {
  if (line_bytes < int(sizeof(void*)) || line_bytes % int(sizeof(void*)) != 0)
    throw std::invalid_argument("line_bytes must be a positive multiple of 8");
  if (bytes / line_bytes < 2)
    throw std::invalid_argument("a pointer chase needs at least two lines: bytes >= " + std::to_string(2 * line_bytes));
  return bytes / line_bytes;
}

}  // namespace

PointerChase::PointerChase(int64_t bytes, int line_bytes, int cpu, uint64_t seed)
    : lines_(checked_lines(bytes, line_bytes)),
      line_bytes_(size_t(line_bytes)),
      cpu_(cpu),
      slab_(size_t(lines_) * line_bytes_) {
  char* base = static_cast<char*>(slab_.data());
  auto line = [&](int64_t i) -> void*& { return *reinterpret_cast<void**>(base + size_t(i) * line_bytes_); };
  auto build = [&](int) {
    for (int64_t i = 0; i < lines_; ++i) line(i) = &line(i);
    // Sattolo: swapping with a strictly smaller index leaves one cycle through all lines.
    for (int64_t i = lines_ - 1; i > 0; --i) std::swap(line(i), line(int64_t(next_random(seed) % uint64_t(i))));
  };
  auto nothing = [](int) {};
  run_team({cpu_}, 1, build, nothing, nothing);  // on its own processor, so that pages are that node's
  position_ = reinterpret_cast<void**>(base);
}

std::vector<int64_t> PointerChase::run(int64_t steps, int repetitions, int64_t warm_steps) {
  if (steps < 1) throw std::invalid_argument("steps must be at least 1");
  if (warm_steps < 0) throw std::invalid_argument("warm_steps must not be negative");
  std::lock_guard<std::mutex> lock(mutex_);
  auto warm = [&](int) { position_ = follow(position_, warm_steps); };
  auto walk = [&](int) { position_ = follow(position_, steps); };
  return run_team({cpu_}, repetitions, warm, walk, [](int) {}).samples_ns;
}

std::vector<int64_t> PointerChase::next_lines() const {
  const char* base = static_cast<const char*>(slab_.data());
  std::vector<int64_t> next;
  next.reserve(size_t(lines_));
  for (int64_t i = 0; i < lines_; ++i) {
    const char* target = *reinterpret_cast<char* const*>(base + size_t(i) * line_bytes_);
    next.push_back((target - base) / int64_t(line_bytes_));
  }
  return next;
}

}  // namespace perfsuite
