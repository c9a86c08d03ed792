// CUDA's own header, as far as perfsuite's kernels need it, for compiling them as C++ (see emulator.h).
// What is missing here is missing on purpose: static __shared__ memory, cooperative groups, streams, textures.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
using uint3 = emulator::Index;

#define PERFSUITE_VECTOR(T, name)                                                  \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                               \
  struct alignas(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
PERFSUITE_VECTOR(float, float)
PERFSUITE_VECTOR(int, int)
PERFSUITE_VECTOR(unsigned, uint)
#undef PERFSUITE_VECTOR
struct alignas(16) double2 {
  double x, y;
};

// -- the runtime ------------------------------------------------------------------------------------------------------

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchTimeout = 702
};
using cudaStream_t = struct CUstream_st*;
inline const char* cudaGetErrorString(cudaError_t error) { return error ? emulator::last_error() : "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  std::memset(p, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 4;  // few, so that small cases have more work than programs
  return cudaSuccess;
}
enum cudaFuncAttribute { cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaSharedCarveout { cudaSharedmemCarveoutMaxL1 = 0 };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;  // a wish about caches, of which there are none here
}

// -- waiting for other threads ----------------------------------------------------------------------------------------

#define PERFSUITE_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define PERFSUITE_HERE (::emulator::Place{file, line})

inline void __syncthreads(PERFSUITE_PLACE) { emulator::wait_for_block(PERFSUITE_HERE); }
inline void __syncwarp(unsigned mask = 0xffffffffu, PERFSUITE_PLACE) {
  emulator::wait_for_warp(mask, emulator::Exchange::kNothing, 0, 0, PERFSUITE_HERE);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace emulator {
template <class T>
T shuffle(unsigned mask, T value, unsigned source, Place place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = wait_for_warp(mask, Exchange::kValue, bits, source, place);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, PERFSUITE_PLACE) {
  const unsigned group = emulator::lane() / width * width;
  return emulator::shuffle(mask, value, group + unsigned(source) % width, PERFSUITE_HERE);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, PERFSUITE_PLACE) {
  const unsigned own = emulator::lane(), other = own ^ unsigned(lanes);
  return emulator::shuffle(mask, value, other / width == own / width ? other : own, PERFSUITE_HERE);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, PERFSUITE_PLACE) {
  const unsigned own = emulator::lane(), other = own + lanes;
  return emulator::shuffle(mask, value, other / width == own / width ? other : own, PERFSUITE_HERE);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, PERFSUITE_PLACE) {
  const unsigned own = emulator::lane();
  return emulator::shuffle(mask, value, own % width >= lanes ? own - lanes : own, PERFSUITE_HERE);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, PERFSUITE_PLACE) {
  return unsigned(emulator::wait_for_warp(mask, emulator::Exchange::kBallot, predicate != 0, 0, PERFSUITE_HERE));
}
inline int __any_sync(unsigned mask, int predicate, PERFSUITE_PLACE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, PERFSUITE_PLACE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

// -- memory -----------------------------------------------------------------------------------------------------------

template <class T>
T __ldg(const T* p) { return *p; }
template <class T>
T __ldcs(const T* p) { return *p; }
template <class T>
T __ldcg(const T* p) { return *p; }
template <class T>
void __stcs(T* p, T value) { *p = value; }
template <class T>
void __stwb(T* p, T value) { *p = value; }
template <class T>
void __stcg(T* p, T value) { *p = value; }

// Only one fiber runs at a time.
template <class T>
T atomicAdd(T* p, std::common_type_t<T> value) { return std::exchange(*p, T(*p + value)); }
template <class T>
T atomicMax(T* p, std::common_type_t<T> value) { return std::exchange(*p, *p < value ? value : *p); }
template <class T>
T atomicMin(T* p, std::common_type_t<T> value) { return std::exchange(*p, value < *p ? value : *p); }
template <class T>
T atomicExch(T* p, std::common_type_t<T> value) { return std::exchange(*p, value); }
template <class T>
T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> value) {
  return std::exchange(*p, *p == compare ? value : *p);
}

// -- arithmetic -------------------------------------------------------------------------------------------------------

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) { return b < a ? b : a; }
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) { return a < b ? b : a; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
// The fast ones go through powers of two, as on the hardware: their error grows with x.
inline float __expf(float x) { return exp2f(x * 1.44269504f); }
inline float __logf(float x) { return log2f(x) * 0.693147181f; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __float_as_int(float x) { int y; std::memcpy(&y, &x, 4); return y; }
inline float __int_as_float(int x) { float y; std::memcpy(&y, &x, 4); return y; }
inline unsigned __float_as_uint(float x) { unsigned y; std::memcpy(&y, &x, 4); return y; }
inline float __uint_as_float(unsigned x) { float y; std::memcpy(&y, &x, 4); return y; }

// -- what device.h leaves to others where this is defined -------------------------------------------------------------

#define PERFSUITE_SHARED(type, name) type* const name = static_cast<type*>(::emulator::shared_memory())

namespace perfsuite::cuda {

// csrc/machine/probes.h's: the clock of the host, and a cycle for each word that is loaded.
inline int64_t loaded_words = 0;
inline int64_t global_ns() { return emulator::now_ns(); }
inline int64_t cycles() { return loaded_words; }
inline uint64_t load_word(uint64_t address) {
  ++loaded_words;
  return *reinterpret_cast<const uint64_t*>(address);
}

inline unsigned cluster_rank() { return emulator::rank_in_cluster(); }
inline void cluster_sync(PERFSUITE_PLACE) { emulator::wait_for_cluster(PERFSUITE_HERE); }
template <class T>
T* cluster_peer(T* own, unsigned rank) { return static_cast<T*>(emulator::shared_memory_of(own, rank)); }

template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t, int cluster,
           Arguments&&... arguments) {
  const std::tuple<std::decay_t<Parameters>...> values(Parameters(std::forward<Arguments>(arguments))...);
  return emulator::launch({grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes, cluster,
                          [&] { std::apply(kernel, values); });
}

}  // namespace perfsuite::cuda
