// Backward and optimizer of an embedding table at once. For every row r that is looked up:
//
//   g = sum of gradient[bag] over the lookups of r
//   with a state:  state[r] += mean(g^2);  weight[r] -= lr g / (sqrt(state[r]) + eps)        row-wise Adagrad
//   without:       weight[r] -= lr g                                                         SGD
//
// The lookups come sorted by row. They are cut into tiles of kTile. A warp sums the lookups of a row within a tile, in
// their order; where these are all the row has it updates the row, else it leaves a piece, and a second kernel adds the
// pieces of each such row and updates it. Nothing is atomic: the same call gives the same bits.

#include "device.h"

namespace perfsuite::cuda {
namespace {

constexpr int kWarps = 8;  // of a block
constexpr int64_t kTile = 256;

template <class T>
struct Update {
  const int32_t* row_of;  // (lookups,), sorted
  const int64_t* order;   // (lookups,): where each sorted lookup was
  const int32_t* bag_of;  // (lookups,), not sorted
  const T* gradient;      // (bags, width)
  T* weight;              // (rows, width)
  acc_t<T>* state;        // (rows,) or null
  acc_t<T>* pieces;       // (tiles, 2, width): of the row that a tile begins with, of the row that it ends with
  int64_t lookups, bags, rows, width, weight_stride;
  acc_t<T> lr, eps;
};

// Columns [start, start + PACKS * 32 * N) of a row, dealt to the lanes of a warp in packs of N.
template <class T, int N, int PACKS>
struct Columns {
  static constexpr int64_t count = PACKS * 32 * N;
  acc_t<T> values[PACKS][N] = {};

  // visit(column, pack) for the packs that lie within the width.
  template <class Visit>
  static __device__ __forceinline__ void each(int64_t start, int64_t width, const Visit& visit) {
    for (int pack = 0; pack < PACKS; ++pack) {
      const int64_t column = start + (pack * 32 + threadIdx.x % 32) * N;
      if (column < width) visit(column, pack);
    }
  }
  template <class U>
  __device__ __forceinline__ void add(const U* row, int64_t start, int64_t width) {
    each(start, width, [&](int64_t column, int pack) {
      const auto read = load_pack<U, N>(row + column);
      for (int i = 0; i < N; ++i) values[pack][i] += to_acc(read.values[i]);
    });
  }
  __device__ __forceinline__ void write(acc_t<T>* row, int64_t start, int64_t width) const {
    each(start, width, [&](int64_t column, int pack) {
      for (int i = 0; i < N; ++i) row[column + i] = values[pack][i];
    });
  }
  __device__ __forceinline__ void subtract_from(T* row, acc_t<T> factor, int64_t start, int64_t width) const {
    each(start, width, [&](int64_t column, int pack) {
      auto w = load_pack<T, N>(row + column);
      for (int i = 0; i < N; ++i) w.values[i] = from_acc<T>(to_acc(w.values[i]) - factor * values[pack][i]);
      store_pack(row + column, w);
    });
  }
  __device__ __forceinline__ acc_t<T> sum_of_squares() const {
    acc_t<T> sum = 0;
    for (int pack = 0; pack < PACKS; ++pack)
      for (int i = 0; i < N; ++i) sum += values[pack][i] * values[pack][i];
    return warp_sum(sum);
  }
};

// Updates a row. sum(start): the row's gradient in the columns from start on; it is asked again for what a warp cannot
// hold at once. Every thread calls this; the warps with `writes` false only take part in the sums.
template <class C, class T, class Sum>
__device__ __forceinline__ void update_row(const Update<T>& op, int64_t row, bool writes, const Sum& sum) {
  acc_t<T> factor = op.lr;
  C g = sum(0);
  if (op.state) {
    acc_t<T> squares = g.sum_of_squares();
    for (int64_t start = C::count; start < op.width; start += C::count) squares += sum(start).sum_of_squares();
    if (writes) {
      const acc_t<T> state = op.state[row] + squares / acc_t<T>(op.width);
      factor = op.lr / (sqrt(state) + op.eps);
      __syncwarp();  // all lanes have read it
      if (threadIdx.x % 32 == 0) op.state[row] = state;
    }
  }
  for (int64_t start = 0; start < op.width; start += C::count) {
    if (start > 0) g = sum(start);
    if (writes) g.subtract_from(op.weight + row * op.weight_stride, factor, start, op.width);
  }
}

// Sums one row's lookups [first, end) in the columns from start on.
template <class C, class T>
__device__ __forceinline__ C sum_lookups(const Update<T>& op, int64_t first, int64_t end, int64_t start) {
  C g;
  const int lane = threadIdx.x % 32;
  for (int64_t p = first; p < end; p += 32) {
    const int here = int(end - p < 32 ? end - p : 32);
    const int32_t mine = lane < here ? op.bag_of[op.order[p + lane]] : 0;
    for (int i = 0; i < here; ++i) {
      const int64_t bag = __shfl_sync(0xffffffffu, mine, i);
      if (uint64_t(bag) < uint64_t(op.bags)) g.add(op.gradient + bag * op.width, start, op.width);
    }
  }
  return g;
}

// Where the row's lookups from first on end; at the latest at `limit`.
template <class T>
__device__ __forceinline__ int64_t end_of_row(const Update<T>& op, int64_t first, int64_t limit, int32_t row) {
  const int lane = threadIdx.x % 32;
  for (int64_t p = first; p < limit; p += 32) {
    const int same = p + lane < limit && op.row_of[p + lane] == row ? 1 : 0;
    const int count = warp_sum(same);  // sorted: the lanes that have it are the first ones
    if (count < 32) return p + count;
  }
  return limit;
}

// A warp for `per_warp` adjacent sorted lookups: those that are the first of their row, or of their tile.
template <class T, int N, int PACKS>
__global__ void __launch_bounds__(kWarps * 32, PACKS == 1 ? 4 : 2) rows_kernel(Update<T> op, int64_t per_warp) {
  using C = Columns<T, N, PACKS>;
  const int64_t warp = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t stop = min((warp + 1) * per_warp, op.lookups);
  for (int64_t p = warp * per_warp; p < stop; ++p) {
    const int32_t row = op.row_of[p];
    if (uint64_t(row) >= uint64_t(op.rows)) continue;
    const bool begins = p == 0 || op.row_of[p - 1] != row;
    if (!begins && p % kTile != 0) continue;
    const int64_t tile = p / kTile, limit = min((tile + 1) * kTile, op.lookups);
    const int64_t end = end_of_row(op, p, limit, row);
    const bool ends = end < limit || limit == op.lookups || op.row_of[limit] != row;
    if (begins && ends) {
      update_row<C>(op, row, true, [&](int64_t start) { return sum_lookups<C>(op, p, end, start); });
    } else {
      acc_t<T>* piece = op.pieces + (2 * tile + (begins ? 1 : 0)) * op.width;
      for (int64_t start = 0; start < op.width; start += C::count)
        sum_lookups<C>(op, p, end, start).write(piece, start, op.width);
    }
  }
}

// A block for a tile: where a row begins in it that goes on in the next one, it adds that row's pieces.
template <class T, int N, int PACKS>
__global__ void __launch_bounds__(kWarps * 32) pieces_kernel(Update<T> op) {
  using C = Columns<T, N, PACKS>;
  using Acc = acc_t<T>;
  PERFSUITE_SHARED(Acc, shared);  // (kWarps, C::count)
  const int64_t tile = blockIdx.x, begin = tile * kTile, end = begin + kTile;
  if (end >= op.lookups) return;
  const int32_t row = op.row_of[end - 1];
  if (uint64_t(row) >= uint64_t(op.rows) || op.row_of[end] != row) return;
  if (begin > 0 && op.row_of[begin - 1] == row) return;  // it began before this tile
  const int warp = threadIdx.x / 32;
  const auto sum = [&](int64_t start) {
    C part;
    for (int64_t next = tile + 1 + warp; next * kTile < op.lookups && op.row_of[next * kTile] == row; next += kWarps)
      part.add(op.pieces + 2 * next * op.width, start, op.width);
    part.write(shared + warp * C::count - start, start, min(op.width, start + C::count));
    __syncthreads();
    C all;
    all.add(op.pieces + (2 * tile + 1) * op.width, start, op.width);
    for (int from = 0; from < kWarps; ++from)
      all.add(shared + from * C::count - start, start, min(op.width, start + C::count));
    __syncthreads();
    return all;
  };
  update_row<C>(op, row, warp == 0, sum);
}

// A warp for a bag: the row of every lookup in 32 bits, -1 outside the table, and its bag.
__global__ void __launch_bounds__(kWarps * 32)
    lookups_kernel(const int64_t* indices, const int64_t* offsets, int32_t* row_of, int32_t* bag_of, int64_t lookups,
                   int64_t bags, int64_t rows) {
  const int64_t bag = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (bag >= bags) return;
  const int64_t first = offsets[bag] < 0 ? 0 : offsets[bag], last = min(offsets[bag + 1], lookups);
  for (int64_t p = first + threadIdx.x % 32; p < last; p += 32) {
    const int64_t index = indices[p];
    row_of[p] = uint64_t(index) < uint64_t(rows) ? int32_t(index) : -1;
    bag_of[p] = int32_t(bag);
  }
}

template <class T, int N, int PACKS>
int launch_update(const Update<T>& op, cudaStream_t stream) {
  // Few lookups: as many warps as there are; many: 32 to a warp, which reads their rows at once from one line.
  const int64_t per_warp = max(int64_t(1), min(int64_t(32), op.lookups / 32768));
  const int64_t per_block = per_warp * kWarps, tiles = (op.lookups + kTile - 1) / kTile;
  const int error = launch(rows_kernel<T, N, PACKS>, dim3(unsigned((op.lookups + per_block - 1) / per_block)),
                           dim3(kWarps * 32), 0, stream, 1, op, per_warp);
  if (error != 0 || tiles == 1) return error;
  const size_t shared_bytes = kWarps * Columns<T, N, PACKS>::count * sizeof(acc_t<T>);
  return launch(pieces_kernel<T, N, PACKS>, dim3(unsigned(tiles)), dim3(kWarps * 32), shared_bytes, stream, 1, op);
}

template <class T>
bool in_packs(const void* p, int64_t stride) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % kWidest<T> == 0;
}

}  // namespace
}  // namespace perfsuite::cuda

// indices (lookups,), offsets (bags + 1,) -> row_of, bag_of (lookups,) int32. Every count is below 2^31.
extern "C" int perfsuite_embedding_bag_update_lookups(int, const void* indices, const void* offsets, void* row_of,
                                                      void* bag_of, int64_t lookups, int64_t bags, int64_t rows,
                                                      void* stream) {
  using namespace perfsuite::cuda;
  return launch(lookups_kernel, dim3(unsigned((bags + kWarps - 1) / kWarps)), dim3(kWarps * 32), 0,
                static_cast<cudaStream_t>(stream), 1, static_cast<const int64_t*>(indices),
                static_cast<const int64_t*>(offsets), static_cast<int32_t*>(row_of), static_cast<int32_t*>(bag_of),
                lookups, bags, rows);
}

// dtype: of gradient (bags, width), contiguous, and weight (rows, width), rows weight_stride apart; state, or null, and
// pieces (tiles, 2, width) are float32, for float64 float64. lookups and width are at least 1.
extern "C" int perfsuite_embedding_bag_update(int dtype, const void* row_of, const void* order, const void* bag_of,
                                              const void* gradient, void* weight, void* state, void* pieces,
                                              int64_t lookups, int64_t bags, int64_t rows, int64_t width,
                                              int64_t weight_stride, double lr, double eps, void* stream) {
  using namespace perfsuite::cuda;
  return PERFSUITE_CUDA_FOR_TYPE(dtype, [&] {
    using Acc = acc_t<T>;
    const Update<T> op{static_cast<const int32_t*>(row_of), static_cast<const int64_t*>(order),
                       static_cast<const int32_t*>(bag_of), static_cast<const T*>(gradient), static_cast<T*>(weight),
                       static_cast<Acc*>(state), static_cast<Acc*>(pieces), lookups, bags, rows, width, weight_stride,
                       Acc(lr), Acc(eps)};
    const auto on = static_cast<cudaStream_t>(stream);
    constexpr int N = kWidest<T>;
    if (in_packs<T>(gradient, width) && in_packs<T>(weight, weight_stride) && width % N == 0)
      return width <= 32 * N ? launch_update<T, N, 1>(op, on) : launch_update<T, N, 4>(op, on);
    return launch_update<T, 1, 4>(op, on);
  });
}
