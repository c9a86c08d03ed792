// Runs CUDA kernels on the CPU, for tests: each CUDA thread is a fiber, and every place where CUDA threads wait for each
// other is a place where fibers are switched. Between those the order of threads is drawn anew all the time, so that
// what needs a barrier and has none shows as a wrong result. What hardware leaves undefined is an error here.
//
// What it does not see: races between blocks, races in global memory that no order of whole stretches shows, accesses
// beyond tensors, and anything about speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulator {

struct Index {
  unsigned x, y, z;
};

// Where threads wait: barriers at different places of the source do not meet.
struct Place {
  const char* file;
  int line;
};

enum class Exchange { kNothing, kValue, kBallot };

void wait_for_block(Place place);
void wait_for_cluster(Place place);
// The lanes in `mask` meet; returns lane `source`'s value, or which lanes gave one that is not 0.
uint64_t wait_for_warp(unsigned mask, Exchange exchange, uint64_t value, unsigned source, Place place);

int64_t now_ns();
unsigned lane();
unsigned rank_in_cluster();
void* shared_memory();
// The same place in the shared memory of the block of that rank in the cluster.
void* shared_memory_of(void* own, unsigned rank);

// Ends the running launch with this message.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Runs body once for each thread; returns a cudaError_t.
int launch(Index grid, Index block, size_t shared_bytes, int cluster, const std::function<void()>& body);
// What the last launch that failed has to say.
const char* last_error();

}  // namespace emulator

extern emulator::Index threadIdx, blockIdx, blockDim, gridDim;
