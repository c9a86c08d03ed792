// One register function per area; bindings.cpp calls each once.
#pragma once

#include <pybind11/pybind11.h>

namespace perfsuite {

void register_phases(pybind11::module_& m);
void register_sampler(pybind11::module_& m);
void register_membench(pybind11::module_& m);
void register_counters(pybind11::module_& m);
void register_kernels(pybind11::module_& m);
void register_activity(pybind11::module_& m);

}  // namespace perfsuite
