#include "dcn_cross.h"

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "dcn_cross_rows.h"
#include "each_isa.h"
}  // namespace

template <class T>
void dcn_cross_forward(const CrossRows<T>& op, int64_t begin, int64_t end, const T* x, int64_t x_stride, T* y,
                       Isa isa) {
  PERFSUITE_DISPATCH(isa, forward_rows<T>(op, begin, end, x, x_stride, y));
}

template <class T>
void dcn_cross_backward(const CrossRows<T>& op, int64_t begin, int64_t end, const CrossGradients<T>& out,
                        acc_t<T>* bias_sum, Isa isa) {
  PERFSUITE_DISPATCH(isa, backward_rows<T>(op, begin, end, out, bias_sum));
}

#define PERFSUITE_INSTANTIATE(T)                                                                                  \
  template void dcn_cross_forward<T>(const CrossRows<T>&, int64_t, int64_t, const T*, int64_t, T*, Isa);          \
  template void dcn_cross_backward<T>(const CrossRows<T>&, int64_t, int64_t, const CrossGradients<T>&, acc_t<T>*, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
