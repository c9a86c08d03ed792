#include "rope.h"

#include <type_traits>

#include "vector.h"

namespace perfsuite::cpu {
namespace {

#define PERFSUITE_BODY "rope_rows.h"
#include "each_isa.h"

}  // namespace

template <class T>
void rope(const RopeRun<T>& run, Isa isa) {
  PERFSUITE_DISPATCH(isa, rope_run<T>(run));
}

template void rope<float>(const RopeRun<float>&, Isa);
template void rope<double>(const RopeRun<double>&, Isa);
template void rope<BFloat16>(const RopeRun<BFloat16>&, Isa);
template void rope<Half>(const RopeRun<Half>&, Isa);

}  // namespace perfsuite::cpu
