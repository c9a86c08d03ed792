#include "embedding_bag.h"

#include <algorithm>

#include "vector.h"

namespace perfsuite::cpu {
namespace {
#define PERFSUITE_BODY "embedding_bag_rows.h"
#include "each_isa.h"
}  // namespace

template <class T>
int64_t embedding_bag_forward(const EmbeddingBag<T>& op, int64_t begin, int64_t end, T* out, Isa isa) {
  return PERFSUITE_DISPATCH(isa, sum_bags<T>(op, begin, end, out));
}

#define PERFSUITE_INSTANTIATE(T) \
  template int64_t embedding_bag_forward<T>(const EmbeddingBag<T>&, int64_t, int64_t, T*, Isa);
PERFSUITE_INSTANTIATE(float)
PERFSUITE_INSTANTIATE(double)
PERFSUITE_INSTANTIATE(BFloat16)
PERFSUITE_INSTANTIATE(Half)

}  // namespace perfsuite::cpu
