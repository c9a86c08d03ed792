// Included once for each instruction set by membench_kernels.cpp, hence no include guard. Parameters:
//   ISA           namespace of this set          VECTOR_BYTES  width of its registers
//   ISA_TARGET    function attribute             ACCUMULATORS  hide the FMA's latency and fit the registers
//   FMA(x, y, z)  x * y + z                      STREAM(p, v)  store past the caches; not defined where there is none
namespace ISA {

// may_alias: the words that are summed were stored as floats.
typedef float Floats __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef uint32_t Words __attribute__((vector_size(VECTOR_BYTES), may_alias));

constexpr size_t kLanes = VECTOR_BYTES / sizeof(float);
constexpr size_t kUnroll = 8;

// Empty assembly that may touch memory: passes are not merged, and loops do not become calls of memset and memcpy.
#define KEEP_MEMORY() __asm__ volatile("" ::: "memory")

// Integer sums: adds of floats issue once a cycle on CPUs that load twice a cycle, and would hide the cache's speed.
ISA_TARGET uint32_t read(float*, const float* b, const float*, size_t n, int64_t passes) {
  Words sum[kUnroll] = {};
  for (int64_t pass = 0; pass < passes; ++pass) {
    for (const float *p = b, *end = b + n; p != end; p += kUnroll * kLanes) {
#pragma GCC unroll 8
      for (size_t k = 0; k < kUnroll; ++k) sum[k] += *(const Words*)(p + k * kLanes);
    }
    KEEP_MEMORY();
  }
  uint32_t total = 0;
  for (size_t k = 0; k < kUnroll; ++k)
    for (size_t lane = 0; lane < kLanes; ++lane) total += sum[k][lane];
  return total;
}

// Element-wise loops over blocks: STORE(k) says what happens to vector k of a block that starts at float i.
#define BLOCKS(STORE)                                          \
  for (int64_t pass = 0; pass < passes; ++pass)                \
    for (size_t i = 0; i != n; i += kUnroll * kLanes) {        \
      _Pragma("GCC unroll 8")                                  \
      for (size_t k = 0; k < kUnroll; ++k) STORE(i + k * kLanes); \
      KEEP_MEMORY();                                           \
    }

ISA_TARGET uint32_t write(float* a, const float*, const float*, size_t n, int64_t passes) {
  const Floats one = Floats{} + 1.0f;
#define WRITE(at) *(Floats*)(a + (at)) = one
  BLOCKS(WRITE)
  return 0;
}

ISA_TARGET uint32_t copy(float* a, const float* b, const float*, size_t n, int64_t passes) {
#define COPY(at) *(Floats*)(a + (at)) = *(const Floats*)(b + (at))
  BLOCKS(COPY)
  return 0;
}

ISA_TARGET uint32_t triad(float* a, const float* b, const float* c, size_t n, int64_t passes) {
  const Floats three = Floats{} + 3.0f;
#define TRIAD(at) *(Floats*)(a + (at)) = FMA(three, *(const Floats*)(c + (at)), *(const Floats*)(b + (at)))
  BLOCKS(TRIAD)
  return 0;
}

#ifdef STREAM
ISA_TARGET uint32_t streaming_write(float* a, const float*, const float*, size_t n, int64_t passes) {
  const Floats one = Floats{} + 1.0f;
#define STREAMING_WRITE(at) STREAM(a + (at), one)
  BLOCKS(STREAMING_WRITE)
  __builtin_ia32_sfence();  // the time ends when the stores have left the core
  return 0;
}

ISA_TARGET uint32_t streaming_copy(float* a, const float* b, const float*, size_t n, int64_t passes) {
#define STREAMING_COPY(at) STREAM(a + (at), *(const Floats*)(b + (at)))
  BLOCKS(STREAMING_COPY)
  __builtin_ia32_sfence();
  return 0;
}
#endif

ISA_TARGET double fma(int64_t iterations, float multiplier, float addend) {
  const Floats m = Floats{} + multiplier, d = Floats{} + addend;
  Floats x[ACCUMULATORS];
  for (size_t k = 0; k < ACCUMULATORS; ++k)
    for (size_t lane = 0; lane < kLanes; ++lane) x[k][lane] = float(k * kLanes + lane);
  for (int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 16
    for (size_t k = 0; k < ACCUMULATORS; ++k) x[k] = FMA(x[k], m, d);
  }
  double sum = 0;
  for (size_t k = 0; k < ACCUMULATORS; ++k)
    for (size_t lane = 0; lane < kLanes; ++lane) sum += x[k][lane];
  return sum;
}

constexpr KernelSet kSet = {
    PERFSUITE_STRING(ISA), read, write, copy, triad,
#ifdef STREAM
    streaming_write, streaming_copy,
#else
    nullptr, nullptr,
#endif
    fma, int(ACCUMULATORS * kLanes)};

}  // namespace ISA

#undef KEEP_MEMORY
#undef BLOCKS
#undef WRITE
#undef COPY
#undef TRIAD
#undef STREAMING_WRITE
#undef STREAMING_COPY
#undef ISA
#undef ISA_TARGET
#undef VECTOR_BYTES
#undef ACCUMULATORS
#undef FMA
#undef STREAM
