#include "dot_interaction.h"

#include <algorithm>
#include <vector>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

constexpr int64_t kTileRows = 4;

#define PERFSUITE_BODY "dot_interaction_rows.h"
#include "each_isa.h"
}  // namespace

template <class T>
void dot_interaction_forward(const DotInteraction<T>& op, int64_t begin, int64_t end, T* out, Isa isa) {
  PERFSUITE_DISPATCH(isa, forward_samples<T>(op, begin, end, out));
}

template <class T>
void dot_interaction_backward(const DotInteraction<T>& op, int64_t begin, int64_t end, const T* upstream,
                              int64_t upstream_stride, T* grad_dense, T* grad_sparse, Isa isa) {
  PERFSUITE_DISPATCH(isa, backward_samples<T>(op, begin, end, upstream, upstream_stride, grad_dense, grad_sparse));
}

#define PERFSUITE_INSTANTIATE(T)                                                                            \
  template void dot_interaction_forward<T>(const DotInteraction<T>&, int64_t, int64_t, T*, Isa);            \
  template void dot_interaction_backward<T>(const DotInteraction<T>&, int64_t, int64_t, const T*, int64_t, T*, T*, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
