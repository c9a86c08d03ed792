#include "adamw.h"

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "adamw_elements.h"
#include "each_isa.h"
}  // namespace

template <class T, class G>
void adamw(const AdamTensor<T, G>& t, const AdamWConstants<acc_t<T>>& k, int64_t first, int64_t n, Isa isa) {
  PERFSUITE_DISPATCH(isa, adamw_elements<T, G>(t, k, first, n));
}

#define PERFSUITE_INSTANTIATE(T, G) \
  template void adamw(const AdamTensor<T, G>&, const AdamWConstants<acc_t<T>>&, int64_t, int64_t, Isa);
PERFSUITE_INSTANTIATE(float, float)
PERFSUITE_INSTANTIATE(float, BFloat16)
PERFSUITE_INSTANTIATE(float, Half)
PERFSUITE_INSTANTIATE(double, double)
PERFSUITE_INSTANTIATE(BFloat16, BFloat16)
PERFSUITE_INSTANTIATE(Half, Half)

}  // namespace perfsuite::cpu
