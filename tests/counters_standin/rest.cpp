// Every function of the interface that the stand-in does not script: it fails.
#include "cupti_profiler_abi.h"

namespace perfsuite::cupti_profiler {
extern "C" {
#define WEAK(symbol, member, parameters) \
  __attribute__((weak)) Result symbol parameters { return kUnknown; }
PERFSUITE_CUPTI_PROFILER_FUNCTIONS(WEAK)
}
}  // namespace perfsuite::cupti_profiler
