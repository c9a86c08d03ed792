// What the operators of embedding tables share: checks of lookups, and csrc/ops/cpu/row_updates.h on torch's threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <limits>

#include "../ops/cpu/row_updates.h"
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

// For the kernels. Arguments as the two checks want them.
inline cpu::Lookups lookups_of(const char* op, const at::Tensor& indices, const at::Tensor& offsets, int64_t rows) {
  constexpr int64_t most = std::numeric_limits<uint32_t>::max();
  const int64_t bags = offsets.size(0) - 1;
  TORCH_CHECK_VALUE(rows <= most && bags <= most, op, ": at most ", most, " rows and bags, got ", rows, " and ", bags);
  return {indices.const_data_ptr<int64_t>(), offsets.const_data_ptr<int64_t>(), bags, rows};
}

// Every row that is looked up, on torch's threads.
template <class T>
void update_all_rows(const cpu::RowUpdates<T>& op) {
  // Every part reads all lookups: more of them only where each has enough to add.
  const int64_t elements = op.lookups.count() * op.width;
  const int64_t parts = std::clamp<int64_t>(elements / kElementsPerTask, 1, at::get_num_threads());
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) cpu::update_rows<T>(op, part, parts, cpu::best_isa());
  });
}

}  // namespace perfsuite
