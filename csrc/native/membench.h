// Microbenchmarks of the memory system and the arithmetic units. They return raw times; statistics are made elsewhere.
//
// A thread runs for each entry of `cpus`, pinned to it where the kernel allows. A repetition starts on a barrier and
// its time is from the first thread's start to the last thread's end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace perfsuite {

// Instruction sets this build has kernels for and this CPU runs, widest first: "avx512", "avx2", "plain".
std::vector<std::string> membench_isas();
// Names of the bandwidth kernels, e.g. "copy"; the streaming ones are absent where the CPU has no streaming stores.
std::vector<std::string> membench_kernels();

struct BandwidthRun {
  std::vector<int64_t> samples_ns;
  // Bytes that the program reads plus bytes it writes in one repetition. The line that an ordinary store makes the
  // hardware read first (write-allocate) is not in it.
  int64_t bytes = 0;
  int64_t working_set_bytes = 0;     // of all arrays and threads: what was asked for, rounded down to whole blocks
  int64_t elements = 0;              // floats in one array of one thread
  std::vector<uint32_t> checksums;   // per thread; see MemoryBench
  int pinned = 0;                    // threads whose affinity the kernel let us set
};

// Anonymous memory on 2 MiB boundaries, huge pages asked for; pages come into being where they are first touched.
class Slab {
 public:
  explicit Slab(size_t bytes);
  ~Slab();
  Slab(Slab&& other) noexcept;
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  void* data() const { return data_; }

 private:
  void* mapping_;
  size_t mapped_bytes_;
  void* data_;
};

// Bandwidth of working sets up to max_bytes, all threads together; each thread has memory of its own, touched first by
// itself.
//
// With i the index of a float over all threads and h(i, m) = float((uint32(i) * m) >> 20), the sources are
// b[i] = h(i, 2654435761) and c[i] = h(i, 2246822519). read sums the words of b; write stores 1.0 to a; copy is a = b;
// triad is a = b + 3 c. Each array of a thread is one contiguous share. a holds NaN first; then comes one pass that is
// not timed. A repetition makes `passes` passes over one of `slices` equal parts of every share, the next repetition
// over the next part: repetitions are short then, and each comes to memory that was not touched since all the rest was.
// Checksums are sums modulo 2^32 of float32 bit patterns: for read of every word read in the last repetition (passes
// times the part), otherwise of all of a afterwards.
class MemoryBench {
 public:
  MemoryBench(std::vector<int> cpus, int64_t max_bytes, const std::string& isa);
  BandwidthRun run(const std::string& kernel, int64_t working_set_bytes, int64_t passes, int repetitions, int slices);
  const std::string& isa() const { return isa_; }

 private:
  std::mutex mutex_;  // the GIL is released during a run
  std::vector<int> cpus_;
  int64_t max_bytes_;
  std::string isa_;
  std::vector<Slab> slabs_;
};

// Latency: one thread follows a random cyclic permutation (Sattolo's algorithm) of cache lines; every load waits for
// the one before.
class PointerChase {
 public:
  PointerChase(int64_t bytes, int line_bytes, int cpu, uint64_t seed);
  // warm_steps loads before the first repetition are not timed.
  std::vector<int64_t> run(int64_t steps, int repetitions, int64_t warm_steps);
  std::vector<int64_t> next_lines() const;  // line i is followed by line next_lines()[i]
  int64_t lines() const { return lines_; }

 private:
  std::mutex mutex_;
  int64_t lines_;
  size_t line_bytes_;
  int cpu_;
  Slab slab_;
  void** position_;
};

struct FmaRun {
  std::vector<int64_t> samples_ns;
  int64_t flops = 0;              // of one repetition: two for each multiply-add of one float
  std::vector<double> checksums;  // per thread: sum of its accumulators after the last repetition
  int pinned = 0;
};

// Peak rate of float32 multiply-add in registers. Each thread holds T floats that start at 0, 1 .. T-1, and every
// iteration makes x into 1 - x (an FMA by -1), so that sums show how many floats took part and values never settle.
FmaRun run_fma(const std::vector<int>& cpus, int64_t iterations, int repetitions, const std::string& isa);

}  // namespace perfsuite
