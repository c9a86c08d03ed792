// What CUDA C++ has no word for: clocks, and a load that is sure to be made. The emulator of the tests
// (tests/cuda_emulator) has its own.
#pragma once

#include "../ops/cuda/device.h"

#ifdef __CUDACC__
namespace perfsuite::cuda {

// One timer for the whole GPU, in nanoseconds; it moves in steps of 32 ns to 1 us, depending on the GPU.
__device__ __forceinline__ int64_t global_ns() {
  int64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

// Of the multiprocessor that the thread runs on.
__device__ __forceinline__ int64_t cycles() {
  int64_t count;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(count)::"memory");
  return count;
}

// Through L1 (the `.ca` of __ldca asks for more: that it be coherent in the multiprocessor).
__device__ __forceinline__ uint64_t load_word(uint64_t address) {
  uint64_t word;
  asm volatile("ld.weak.global.u64 %0, [%1];" : "=l"(word) : "l"(address) : "memory");
  return word;
}

}  // namespace perfsuite::cuda
#endif
