#include "lamb.h"

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "lamb_elements.h"
#include "each_isa.h"
}  // namespace

template <class T, class G>
LambSums lamb_sums(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, int64_t first, int64_t n, Isa isa) {
  return PERFSUITE_DISPATCH(isa, sums<T, G>(t, k, first, n));
}

template <class T, class G>
void lamb_apply(const AdamTensor<T, G>& t, const LambConstants<acc_t<T>>& k, acc_t<T> rate, int64_t first, int64_t n,
                Isa isa) {
  PERFSUITE_DISPATCH(isa, apply<T, G>(t, k, rate, first, n));
}

#define PERFSUITE_INSTANTIATE(T, G)                                                                                  \
  template LambSums lamb_sums(const AdamTensor<T, G>&, const LambConstants<acc_t<T>>&, int64_t, int64_t, Isa);    \
  template void lamb_apply(const AdamTensor<T, G>&, const LambConstants<acc_t<T>>&, acc_t<T>, int64_t, int64_t, Isa);
PERFSUITE_INSTANTIATE(float, float)
PERFSUITE_INSTANTIATE(float, BFloat16)
PERFSUITE_INSTANTIATE(float, Half)
PERFSUITE_INSTANTIATE(double, double)
PERFSUITE_INSTANTIATE(BFloat16, BFloat16)
PERFSUITE_INSTANTIATE(Half, Half)

}  // namespace perfsuite::cpu
