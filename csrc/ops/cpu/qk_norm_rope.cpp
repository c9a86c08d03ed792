#include "qk_norm_rope.h"

#include <type_traits>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

#define PERFSUITE_BODY "qk_norm_rope_rows.h"
#include "each_isa.h"

}  // namespace

template <class T>
void norm_rope_forward(const NormRopeRun<T>& run, Isa isa) {
  PERFSUITE_DISPATCH(isa, forward_run<T>(run));
}
template <class T>
void norm_rope_backward(const NormRopeRun<T>& run, Isa isa) {
  PERFSUITE_DISPATCH(isa, backward_run<T>(run));
}

#define PERFSUITE_INSTANTIATE(T)                                  \
  template void norm_rope_forward<T>(const NormRopeRun<T>&, Isa); \
  template void norm_rope_backward<T>(const NormRopeRun<T>&, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
