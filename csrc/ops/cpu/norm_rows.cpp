#include "norm_rows.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

// Elements whose sum is kept in vectors before it is added to the row's in double: no lane adds more than 64.
constexpr int64_t kPiece = 4096;
// Rows whose part of dw and db is added up by itself before it joins the others: the error of a long sum grows with
// the number of additions that one accumulator sees.
constexpr int64_t kRowsTogether = 32;

// Other threads may read what was streamed as soon as the caller says that it is written.
inline void finish_streaming() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

#define PERFSUITE_BODY "norm_rows_body.h"
#include "each_isa.h"

}  // namespace

template <class X, class H>
void norm_rows_forward(const NormForward<X, H>& op, int64_t begin, int64_t end, Isa isa) {
  if (op.centered)
    PERFSUITE_DISPATCH(isa, forward_rows<true>(op, begin, end));
  else
    PERFSUITE_DISPATCH(isa, forward_rows<false>(op, begin, end));
}

template <class X, class H>
void norm_rows_backward(const NormBackward<X, H>& op, int64_t begin, int64_t end, acc_t<H>* grad_weight,
                        acc_t<H>* grad_bias, Isa isa) {
  if (op.mean)
    PERFSUITE_DISPATCH(isa, backward_rows<true>(op, begin, end, grad_weight, grad_bias));
  else
    PERFSUITE_DISPATCH(isa, backward_rows<false>(op, begin, end, grad_weight, grad_bias));
}

#define PERFSUITE_INSTANTIATE(X, H)                                                                        \
  template void norm_rows_forward<X, H>(const NormForward<X, H>&, int64_t, int64_t, Isa);                  \
  template void norm_rows_backward<X, H>(const NormBackward<X, H>&, int64_t, int64_t, acc_t<H>*, acc_t<H>*, Isa);
PERFSUITE_INSTANTIATE(float, float)
PERFSUITE_INSTANTIATE(double, double)
PERFSUITE_INSTANTIATE(BFloat16, BFloat16)
PERFSUITE_INSTANTIATE(Half, Half)
PERFSUITE_INSTANTIATE(BFloat16, float)
PERFSUITE_INSTANTIATE(Half, float)

}  // namespace perfsuite::cpu
