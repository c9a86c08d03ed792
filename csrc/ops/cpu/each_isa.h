// Compiles the file PERFSUITE_BODY once for every instruction set, in namespaces plain, avx2 and avx512. In it, Vec<T> is
// the vector type for elements of type T (float64 has none but plain), and every function is marked PERFSUITE_TARGET.
// No include guard. Afterwards PERFSUITE_DISPATCH(isa, function(arguments)) calls the right one:
//
//   #define PERFSUITE_BODY "rms_norm_rows.h"
//   #include "each_isa.h"
//   ... PERFSUITE_DISPATCH(isa, rms_norm_row<T>(x, n, out));
#include "vector.h"

namespace plain {
template <class T>
using Vec = Plain<acc_t<T>>;
#define PERFSUITE_TARGET
#include "vector_math.h"
#include PERFSUITE_BODY
#undef PERFSUITE_TARGET
}  // namespace plain

#if defined(__x86_64__)
namespace avx2 {
template <class T>
using Vec = std::conditional_t<std::is_same_v<T, double>, Plain<double>, Avx2>;
#define PERFSUITE_TARGET PERFSUITE_AVX2
#include "vector_math.h"
#include PERFSUITE_BODY
#undef PERFSUITE_TARGET
}  // namespace avx2
namespace avx512 {
template <class T>
using Vec = std::conditional_t<std::is_same_v<T, double>, Plain<double>, Avx512>;
#define PERFSUITE_TARGET PERFSUITE_AVX512
#include "vector_math.h"
#include PERFSUITE_BODY
#undef PERFSUITE_TARGET
}  // namespace avx512

#define PERFSUITE_DISPATCH(isa, ...)                                                \
  ((isa) == Isa::kAvx512 ? avx512::__VA_ARGS__ : (isa) == Isa::kAvx2 ? avx2::__VA_ARGS__ : plain::__VA_ARGS__)
#else
#define PERFSUITE_DISPATCH(isa, ...) ((void)(isa), plain::__VA_ARGS__)
#endif
#undef PERFSUITE_BODY
