// perfsuite._native: the native code that needs no torch.
#include "register.h"

PYBIND11_MODULE(_native, m) {
  m.doc() =
      "Clock, phases, sampler, kernel recorder and memory microbenchmarks. Needs no torch, no driver and no GPU to load.";
  perfsuite::register_phases(m);
  perfsuite::register_sampler(m);
  perfsuite::register_membench(m);
  perfsuite::register_counters(m);
  perfsuite::register_kernels(m);
  perfsuite::register_activity(m);
}
