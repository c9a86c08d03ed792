// Lookups of an embedding table for the operators: checks, and sorting on torch's threads (csrc/ops/cpu/lookups.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

#include "../ops/cpu/lookups.h"
#include "op.h"

namespace perfsuite {

// ValueError where the bags do not divide the lookups between them. op: for the message.
inline void check_offsets(const char* op, const at::Tensor& indices, const at::Tensor& offsets) {
  const int64_t* values = offsets.const_data_ptr<int64_t>();
  const int64_t bags = offsets.size(0) - 1, lookups = indices.size(0);
  TORCH_CHECK_VALUE(values[0] == 0 && values[bags] == lookups, op, ": offsets must go from 0 to ", lookups,
                    ", the number of indices, got ", values[0], " to ", values[bags]);
  for (int64_t b = 0; b < bags; ++b)
    TORCH_CHECK_VALUE(values[b] <= values[b + 1], op, ": offsets must not fall, got ", values[b], " before ",
                      values[b + 1]);
}

inline void check_indices(const char* op, const at::Tensor& indices, int64_t rows) {
  const int64_t* values = indices.const_data_ptr<int64_t>();
  for (int64_t p = 0; p < indices.size(0); ++p)
    TORCH_CHECK_INDEX(uint64_t(values[p]) < uint64_t(rows), op, ": index ", values[p], " of lookup ", p,
                      " is outside [0, ", rows, ")");
}

// The lookups sorted by row, in memory that `storage` keeps. Arguments as the two checks want them.
inline const cpu::Lookup* sorted_lookups(const at::Tensor& indices, const at::Tensor& offsets, int64_t rows,
                                         at::Tensor* storage) {
  static_assert(sizeof(cpu::Lookup) == sizeof(int64_t));
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  const int64_t count = indices.size(0), bags = offsets.size(0) - 1;
  TORCH_CHECK_VALUE(rows <= most && bags <= most && count <= most, "lookups: at most ", most,
                    " rows, bags and indices, got ", rows, ", ", bags, " and ", count);
  *storage = empty_reused({2 * count}, at::kLong);
  auto* here = reinterpret_cast<cpu::Lookup*>(storage->mutable_data_ptr<int64_t>());
  auto* there = here + count;
  // Fewer lookups are not worth waking a thread for.
  constexpr int64_t per_part = 8192;
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), count / per_part));
  cpu::RadixSort sort(count, rows, parts);
  const auto pass_from = [&](const auto& source, int pass) {
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) sort.count(source, pass, part);
    });
    sort.place();
    at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) sort.scatter(source, pass, part, there);
    });
    std::swap(here, there);
  };
  pass_from(cpu::GivenLookups{indices.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>(), bags}, 0);
  for (int pass = 1; pass < sort.passes(); ++pass) pass_from(cpu::StoredLookups{here}, pass);
  return here;
}

}  // namespace perfsuite
