#include "global_norm.h"

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "global_norm_elements.h"
#include "each_isa.h"
}  // namespace

template <class T>
double sum_of_squares(const T* x, int64_t n, Isa isa) {
  return PERFSUITE_DISPATCH(isa, squares<T>(x, n));
}

template double sum_of_squares(const float*, int64_t, Isa);
template double sum_of_squares(const double*, int64_t, Isa);
template double sum_of_squares(const BFloat16*, int64_t, Isa);
template double sum_of_squares(const Half*, int64_t, Isa);

}  // namespace perfsuite::cpu
