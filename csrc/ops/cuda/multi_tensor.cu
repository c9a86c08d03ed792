// AdamW, LAMB and the norm of many tensors: one launch for up to kRows tensors of any sizes.
//
//   g = c grad,   m = m + (1 - beta1) (g - m),   v = beta2 v + (1 - beta2) g^2                     c: clipping, or 1
//   q = m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)
//   AdamW: p = (1 - lr weight_decay) p - lr q
//   LAMB:  u = q + weight_decay p,   p = p - lr ||p|| / ||u|| u              norms of the tensor; 1 where one is 0
//
// Addresses travel as kernel parameters, so nothing is copied to the device beforehand; steps, the norm and, if wanted,
// lr are read on the device, so that a CUDA graph may replay the launches. Sums are added in a fixed order.
#include "device.h"

using namespace perfsuite::cuda;

namespace {

constexpr int kThreads = 256;

// A tensor as perfsuite/kernels/cuda_tables.py lists it: addresses (0 for what there is not), then elements.
struct Row {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  const float* step;
  void* copy;
  int64_t elements;
};
static_assert(sizeof(Row) == 7 * sizeof(int64_t), "as the table is laid out");

// All kernel parameters together may have 4096 bytes.
constexpr int kRows = 60;
struct Table {
  Row rows[kRows];
  unsigned first[kRows + 1];  // block of each row; the last is the number of blocks
  int count;
};

// What a block works on: elements [begin, end) of a row.
struct Part {
  int row;
  int64_t begin, end;
};

__device__ __forceinline__ Part part_of(const Table& table, int64_t block_elements) {
  int low = 0, high = table.count;  // first[low] <= block < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t begin = int64_t(blockIdx.x - table.first[low]) * block_elements;
  const int64_t end = begin + block_elements, elements = table.rows[low].elements;
  return {low, begin, end < elements ? end : elements};
}

template <class T>
__device__ __forceinline__ bool aligned(const T* p, int width) {
  return reinterpret_cast<uintptr_t>(p) % (width * sizeof(T)) == 0;
}

// -- Adam ------------------------------------------------------------------------------------------------------------

// What a call has for all its tensors.
struct Settings {
  const float* lr_tensor;  // or null: lr counts
  const void* grad_norm;   // of the accumulation type, or null: no clipping
  double lr, beta1, beta2, eps, weight_decay, max_norm;
  int copy_type;  // a DType
  bool is_lamb, adapt;
};

// What is the same for all elements of a tensor; computed once per block, in float64.
template <class Acc>
struct Constants {
  Acc clip, weight, beta2, one_minus_beta2, inverse_bias1, inverse_root_bias2, eps, keep, step_size, weight_decay;
  bool from_moment;
};

template <class Acc>
struct Shared {
  double scratch[32];
  Constants<Acc> constants;
};

__device__ __forceinline__ double learning_rate(const Settings& s) { return s.lr_tensor ? double(*s.lr_tensor) : s.lr; }

template <class Acc>
__device__ double clip_coefficient(const Settings& s) {
  if (!s.grad_norm) return 1;
  const double norm = double(*static_cast<const Acc*>(s.grad_norm));
  if (s.is_lamb) return norm > s.max_norm ? s.max_norm / norm : 1;  // as apex has it
  const double coefficient = s.max_norm / (norm + 1e-6);            // as torch has it; NaN stays NaN
  return coefficient > 1 ? 1 : coefficient;
}

// Every thread gets them; the whole block calls.
template <class Acc>
__device__ Constants<Acc> make_constants(const Settings& s, const Row& row, Shared<Acc>* shared) {
  if (threadIdx.x == 0) {
    const double step = double(*row.step), lr = learning_rate(s);
    const double bias1 = 1 - pow(s.beta1, step), bias2 = 1 - pow(s.beta2, step);
    Constants<Acc>& k = shared->constants;
    k.clip = Acc(clip_coefficient<Acc>(s));
    // m moves towards g, or g towards m where that is less: as torch.lerp has it.
    k.from_moment = 1 - s.beta1 < 0.5;
    k.weight = Acc(k.from_moment ? 1 - s.beta1 : -s.beta1);
    k.beta2 = Acc(s.beta2);
    k.one_minus_beta2 = Acc(1 - s.beta2);
    k.inverse_bias1 = Acc(1 / bias1);
    k.inverse_root_bias2 = Acc(1 / sqrt(bias2));
    k.eps = Acc(s.eps);
    k.keep = Acc(1 - lr * s.weight_decay);
    k.step_size = Acc(lr / bias1);
    k.weight_decay = Acc(s.weight_decay);
  }
  __syncthreads();
  return shared->constants;
}

template <class Acc>
__device__ __forceinline__ void moments(const Constants<Acc>& k, Acc grad, Acc* m, Acc* v) {
  const Acc g = grad * k.clip;
  *m = k.weight * (g - *m) + (k.from_moment ? *m : g);
  *v = k.beta2 * *v + (k.one_minus_beta2 * g) * g;  // g^2 by itself may overflow
}

template <class Acc>
__device__ __forceinline__ Acc quotient(const Constants<Acc>& k, Acc m, Acc v) {
  return m / (sqrt(v) * k.inverse_root_bias2 + k.eps);
}

template <class Acc>
__device__ __forceinline__ Acc lamb_update(const Constants<Acc>& k, Acc p, Acc m, Acc v) {
  return quotient(k, m, v) * k.inverse_bias1 + k.weight_decay * p;
}

// The arrays of a row with their types.
template <class T, class G>
struct Arrays {
  T* param;
  const G* grad;
  T* exp_avg;
  T* exp_avg_sq;
  void* copy;
  int copy_type;

  __device__ Arrays(const Row& row, int copy_type_)
      : param(static_cast<T*>(row.param)),
        grad(static_cast<const G*>(row.grad)),
        exp_avg(static_cast<T*>(row.exp_avg)),
        exp_avg_sq(static_cast<T*>(row.exp_avg_sq)),
        copy(row.copy),
        copy_type(copy_type_) {}

  __device__ bool allow(int width) const {
    return aligned(param, width) && aligned(grad, width) && aligned(exp_avg, width) && aligned(exp_avg_sq, width) &&
           aligned(static_cast<const BFloat16*>(copy), width);
  }

  template <class C, int N>
  __device__ void store_copy(int64_t i, const Pack<T, N>& p) const {
    Pack<C, N> out;
    for (int j = 0; j < N; ++j) out.values[j] = from_acc<C>(to_acc(p.values[j]));
    store_pack(static_cast<C*>(copy) + i, out);
  }
  template <int N>
  __device__ void store_param(int64_t i, const Pack<T, N>& p) const {
    store_pack(param + i, p);
    if constexpr (std::is_same_v<T, float>) {
      if (copy && copy_type == kBFloat16) store_copy<BFloat16>(i, p);
      if (copy && copy_type == kHalf) store_copy<Half>(i, p);
    }
  }
};

// body(i, integral_constant N): N elements from i on, as wide as the addresses allow, the rest one by one.
template <class T, class G, class Body>
__device__ __forceinline__ void for_packs(const Arrays<T, G>& arrays, const Part& part, const Body& body) {
  constexpr int N = kWidest<T>;
  int64_t rest = part.begin;
  if (arrays.allow(N)) {
    rest = part.begin + (part.end - part.begin) / N * N;
    // What the body stores may be what it loads next, for all the compiler knows: unrolling only takes registers.
#pragma unroll 1
    for (int64_t i = part.begin + int64_t(threadIdx.x) * N; i < rest; i += int64_t(kThreads) * N)
      body(i, std::integral_constant<int, N>());
  }
#pragma unroll 1
  for (int64_t i = rest + threadIdx.x; i < part.end; i += kThreads) body(i, std::integral_constant<int, 1>());
}

template <class T, class G>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const Table table, const Settings s, int64_t block_elements) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Shared<Acc>, shared);
  const Part part = part_of(table, block_elements);
  const Constants<Acc> k = make_constants(s, table.rows[part.row], shared);
  const Arrays<T, G> arrays(table.rows[part.row], s.copy_type);
  for_packs(arrays, part, [&](int64_t i, auto width) {
    constexpr int N = decltype(width)::value;
    auto p = load_pack<T, N>(arrays.param + i), m = load_pack<T, N>(arrays.exp_avg + i);
    auto v = load_pack<T, N>(arrays.exp_avg_sq + i);
    const auto g = load_pack<G, N>(arrays.grad + i);
    for (int j = 0; j < N; ++j) {
      Acc mj = to_acc(m.values[j]), vj = to_acc(v.values[j]);
      moments(k, Acc(to_acc(g.values[j])), &mj, &vj);
      p.values[j] = from_acc<T>(k.keep * to_acc(p.values[j]) - k.step_size * quotient(k, mj, vj));
      m.values[j] = from_acc<T>(mj);
      v.values[j] = from_acc<T>(vj);
    }
    arrays.template store_param<N>(i, p);
    store_pack(arrays.exp_avg + i, m);
    store_pack(arrays.exp_avg_sq + i, v);
  });
}

// Whether the first kernel of LAMB writes the moments, which saves the second from reading the gradient; rounded to
// half precision they would give another update.
template <class T>
constexpr bool kMomentsFirst = std::is_same_v<T, acc_t<T>>;

// Sums of squares of parameters and updates: two for each block.
template <class T, class G>
__global__ void __launch_bounds__(kThreads)
    lamb_sums_kernel(const Table table, const Settings s, int64_t block_elements, double* sums) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Shared<Acc>, shared);
  const Part part = part_of(table, block_elements);
  const Constants<Acc> k = make_constants(s, table.rows[part.row], shared);
  const Arrays<T, G> arrays(table.rows[part.row], s.copy_type);
  Acc params = 0, updates = 0;
  for_packs(arrays, part, [&](int64_t i, auto width) {
    constexpr int N = decltype(width)::value;
    const auto p = load_pack<T, N>(arrays.param + i);
    auto m = load_pack<T, N>(arrays.exp_avg + i), v = load_pack<T, N>(arrays.exp_avg_sq + i);
    const auto g = load_pack<G, N>(arrays.grad + i);
    for (int j = 0; j < N; ++j) {
      const Acc pj = to_acc(p.values[j]);
      Acc mj = to_acc(m.values[j]), vj = to_acc(v.values[j]);
      moments(k, Acc(to_acc(g.values[j])), &mj, &vj);
      const Acc u = lamb_update(k, pj, mj, vj);
      params += pj * pj;
      updates += u * u;
      m.values[j] = from_acc<T>(mj);
      v.values[j] = from_acc<T>(vj);
    }
    if constexpr (kMomentsFirst<T>) {
      store_pack(arrays.exp_avg + i, m);
      store_pack(arrays.exp_avg_sq + i, v);
    }
  });
  const double all_params = block_sum(double(params), shared->scratch);
  const double all_updates = block_sum(double(updates), shared->scratch);
  if (threadIdx.x == 0) {
    sums[2 * int64_t(blockIdx.x)] = all_params;
    sums[2 * int64_t(blockIdx.x) + 1] = all_updates;
  }
}

// The parameters, from the sums. The update is computed again: it is never written.
template <class T, class G>
__global__ void __launch_bounds__(kThreads)
    lamb_apply_kernel(const Table table, const Settings s, int64_t block_elements, const double* sums) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Shared<Acc>, shared);
  const Part part = part_of(table, block_elements);
  const Constants<Acc> k = make_constants(s, table.rows[part.row], shared);
  const Arrays<T, G> arrays(table.rows[part.row], s.copy_type);
  double params = 0, updates = 0;
  for (int64_t b = int64_t(table.first[part.row]) + threadIdx.x; b < table.first[part.row + 1]; b += kThreads) {
    params += sums[2 * b];
    updates += sums[2 * b + 1];
  }
  params = block_sum(params, shared->scratch);
  updates = block_sum(updates, shared->scratch);
  const bool has_ratio = s.adapt && params != 0 && updates != 0;
  const Acc rate = Acc(learning_rate(s) * (has_ratio ? sqrt(params) / sqrt(updates) : 1));
  for_packs(arrays, part, [&](int64_t i, auto width) {
    constexpr int N = decltype(width)::value;
    auto p = load_pack<T, N>(arrays.param + i);
    auto m = load_pack<T, N>(arrays.exp_avg + i), v = load_pack<T, N>(arrays.exp_avg_sq + i);
    Pack<G, N> g;
    if constexpr (!kMomentsFirst<T>) g = load_pack<G, N>(arrays.grad + i);
    for (int j = 0; j < N; ++j) {
      const Acc pj = to_acc(p.values[j]);
      Acc mj = to_acc(m.values[j]), vj = to_acc(v.values[j]);
      if constexpr (!kMomentsFirst<T>) {
        moments(k, Acc(to_acc(g.values[j])), &mj, &vj);
        m.values[j] = from_acc<T>(mj);
        v.values[j] = from_acc<T>(vj);
      }
      p.values[j] = from_acc<T>(pj - rate * lamb_update(k, pj, mj, vj));
    }
    arrays.template store_param<N>(i, p);
    if constexpr (!kMomentsFirst<T>) {
      store_pack(arrays.exp_avg + i, m);
      store_pack(arrays.exp_avg_sq + i, v);
    }
  });
}

// -- norm ------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads)
    squares_kernel(const Table table, int64_t block_elements, double* sums) {
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(double, scratch);
  constexpr int N = kWidest<T>;
  const Part part = part_of(table, block_elements);
  const T* const x = static_cast<const T*>(table.rows[part.row].grad);
  Acc sum = 0;
  int64_t rest = part.begin;
  if (aligned(x, N)) {
    rest = part.begin + (part.end - part.begin) / N * N;
    for (int64_t i = part.begin + int64_t(threadIdx.x) * N; i < rest; i += int64_t(kThreads) * N) {
      const auto pack = load_pack<T, N>(x + i);
      for (int j = 0; j < N; ++j) sum += to_acc(pack.values[j]) * to_acc(pack.values[j]);
    }
  }
  for (int64_t i = rest + threadIdx.x; i < part.end; i += kThreads) sum += to_acc(x[i]) * to_acc(x[i]);
  const double all = block_sum(double(sum), scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = all;
}

// One block.
template <class Acc>
__global__ void root_of_sum_kernel(const double* sums, int64_t count, Acc* out) {
  PERFSUITE_SHARED(double, scratch);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += blockDim.x) sum += sums[i];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) *out = Acc(sqrt(sum));
}

// -- launching -------------------------------------------------------------------------------------------------------

// run(table, blocks before it) for all rows that have elements, at most kRows at a time. Stops at an error.
template <class Run>
int for_tables(const Row* rows, int64_t count, int64_t block_elements, const Run& run) {
  int64_t before = 0;
  Table table;
  table.count = 0;
  table.first[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t blocks = (rows[i].elements + block_elements - 1) / block_elements;
    // The grid has 2^31 - 1 blocks at most. A single tensor with more is refused by the launch.
    if (table.count == kRows || (table.count && int64_t(table.first[table.count]) + blocks > 0x7fffffff)) {
      if (const int error = run(table, before)) return error;
      before += table.first[table.count];
      table.count = 0;
    }
    if (blocks == 0) continue;
    if (blocks > 0x7fffffff) return int(cudaErrorInvalidValue);
    table.rows[table.count] = rows[i];
    table.first[table.count + 1] = table.first[table.count] + unsigned(blocks);
    ++table.count;
  }
  return table.count ? run(table, before) : 0;
}

// run(T(), G()) with the types of parameters and gradients.
template <class Run>
int for_types(int dtype, int64_t grad_dtype, const Run& run) {
  if (dtype == kDouble) return run(double(), double());
  if (dtype == kBFloat16) return run(BFloat16(), BFloat16());
  if (dtype == kHalf) return run(Half(), Half());
  if (grad_dtype == kBFloat16) return run(float(), BFloat16());
  if (grad_dtype == kHalf) return run(float(), Half());
  return run(float(), float());
}

}  // namespace

// rows: on the host, as cuda_tables.py lists them; read before this returns. device_of: any tensor of the call, to tell
// the device. grad_dtype and copy_dtype: numbers of device.h's DType.
extern "C" int perfsuite_adamw(int dtype, const void* device_of, const void* rows, int64_t count,
                               int64_t block_elements, int64_t grad_dtype, int64_t copy_dtype, const void* lr_tensor,
                               const void* grad_norm, double lr, double beta1, double beta2, double eps,
                               double weight_decay, double max_norm, void* stream) {
  (void)device_of;
  const Settings s{static_cast<const float*>(lr_tensor), grad_norm, lr, beta1, beta2, eps, weight_decay, max_norm,
                   int(copy_dtype), false, false};
  return for_types(dtype, grad_dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    return for_tables(static_cast<const Row*>(rows), count, block_elements, [&](const Table& table, int64_t) {
      return launch(adamw_kernel<T, G>, table.first[table.count], kThreads, sizeof(Shared<acc_t<T>>),
                    cudaStream_t(stream), 1, table, s, block_elements);
    });
  });
}

// sums: two for each block, float64.
extern "C" int perfsuite_lamb(int dtype, void* sums, const void* rows, int64_t count, int64_t block_elements,
                              int64_t grad_dtype, int64_t copy_dtype, const void* lr_tensor, const void* grad_norm,
                              double lr, double beta1, double beta2, double eps, double weight_decay, double max_norm,
                              int64_t adapt, void* stream) {
  const Settings s{static_cast<const float*>(lr_tensor), grad_norm, lr, beta1, beta2, eps, weight_decay, max_norm,
                   int(copy_dtype), true, adapt != 0};
  return for_types(dtype, grad_dtype, [&](auto t, auto g) {
    using T = decltype(t);
    using G = decltype(g);
    return for_tables(static_cast<const Row*>(rows), count, block_elements, [&](const Table& table, int64_t before) {
      const unsigned blocks = table.first[table.count];
      double* const own = static_cast<double*>(sums) + 2 * before;
      const int error = launch(lamb_sums_kernel<T, G>, blocks, kThreads, sizeof(Shared<acc_t<T>>),
                               cudaStream_t(stream), 1, table, s, block_elements, own);
      return error ? error
                   : launch(lamb_apply_kernel<T, G>, blocks, kThreads, sizeof(Shared<acc_t<T>>), cudaStream_t(stream),
                            1, table, s, block_elements, own);
    });
  });
}

// Sums of squares of the tensors in the column of gradients, one for each block, float64.
extern "C" int perfsuite_sums_of_squares(int dtype, void* sums, const void* rows, int64_t count,
                                         int64_t block_elements, void* stream) {
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    return for_tables(static_cast<const Row*>(rows), count, block_elements, [&](const Table& table, int64_t before) {
      return launch(squares_kernel<T>, table.first[table.count], kThreads, 32 * sizeof(double), cudaStream_t(stream), 1,
                    table, block_elements, static_cast<double*>(sums) + before);
    });
  });
}

// out: float32, or float64 for dtype kDouble.
extern "C" int perfsuite_root_of_sum(int dtype, const void* sums, int64_t count, void* out, void* stream) {
  const auto* from = static_cast<const double*>(sums);
  return dtype == kDouble ? launch(root_of_sum_kernel<double>, 1, 1024, 32 * sizeof(double), cudaStream_t(stream), 1,
                                   from, count, static_cast<double*>(out))
                          : launch(root_of_sum_kernel<float>, 1, 1024, 32 * sizeof(double), cudaStream_t(stream), 1,
                                   from, count, static_cast<float*>(out));
}
