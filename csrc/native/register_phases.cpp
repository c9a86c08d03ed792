#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "clock.h"
#include "phases.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

// What `with phase("forward"):` holds: one per name and clock, entered once a step.
struct Phase {
  PhaseClock* clock;
  int32_t id;
};

template <class T>
py::array_t<T> as_array(const std::vector<T>& values) {
  return py::array_t<T>(py::ssize_t(values.size()), values.data());
}

}  // namespace

void register_phases(py::module_& m) {
  m.def("now_ns", &now_ns, "CLOCK_MONOTONIC in nanoseconds, the time base of every instrument.");
  m.def("intern", &intern, py::arg("name"), "Id of a scope name, the same for the same name; 0 is the empty name.");
  m.def("interned", &interned, py::arg("id"), "The name that intern() gave this id.");
  m.def("push_module", &push_module, py::arg("id"));
  m.def("pop_module", &pop_module);
  m.def("push_op", &push_op, py::arg("id"));
  m.def("pop_op", &pop_op);
  m.attr("shared") = py::capsule(static_cast<const void*>(&shared_table()), kCapsuleName);

  py::class_<Phase>(m, "Phase")
      .def("__enter__", [](Phase& p) { p.clock->enter(p.id); })
      .def("__exit__", [](Phase& p, const py::args&) { p.clock->exit(p.id); });

  py::class_<PhaseClock>(m, "PhaseClock",
                         "Times each phase by its own entry and exit. One clock runs at a time in a process.")
      .def(py::init<std::vector<std::string>>(), py::arg("names"))
      .def("start", &PhaseClock::start, "Start; returns monotonic ns. Raises RuntimeError where a clock runs already.")
      .def("stop", &PhaseClock::stop, "Stop; returns monotonic ns. Raises RuntimeError while a phase is open.")
      .def("begin_step", &PhaseClock::begin_step, "What follows belongs to the next step.")
      .def("set_split", &PhaseClock::set_split, py::arg("on"), "Whether an op recorder reports to this clock.")
      .def(
          "phase", [](PhaseClock& c, const std::string& name) { return Phase{&c, c.phase_id(name)}; },
          py::arg("name"), py::keep_alive<0, 1>(), "A context manager, reusable, for the phase of this name.")
      .def_property_readonly("running", [](const PhaseClock& c) { return active_clock() == &c; })
      .def_property_readonly("names", &PhaseClock::names)
      .def_property_readonly("elapsed_ns", &PhaseClock::elapsed_ns)
      .def_property_readonly("start_ns", &PhaseClock::start_ns)
      .def("totals",
           [](const PhaseClock& c) {
             py::list out;
             for (size_t i = 0; i < c.totals().size(); ++i) {
               const PhaseTotal& t = c.totals()[i];
               py::dict row;
               row["name"] = c.names()[i];
               row["time_ns"] = t.self_ns;
               row["op_ns"] = t.op_ns;
               row["host_ns"] = t.host_ns;
               row["calls"] = t.calls;
               out.append(row);
             }
             return out;
           })
      .def(
          "step_table",
          [](const PhaseClock& c) {
            py::array_t<int64_t> table({py::ssize_t(c.num_rows()), py::ssize_t(c.names().size())});
            auto flat = c.step_table();
            std::copy(flat.begin(), flat.end(), table.mutable_data());
            return table;
          },
          "int64 (1 + steps, phases) self times in ns; row 0 is what came before the first step.")
      .def("step_starts", [](const PhaseClock& c) { return as_array(c.step_starts()); }, "int64 (steps,) monotonic ns.")
      .def(
          "timeline",
          [](const PhaseClock& c) {
            const auto& events = c.timeline();
            py::array_t<int64_t> out({py::ssize_t(events.size()), py::ssize_t(3)});
            int64_t* p = out.mutable_data();
            for (const PhaseEvent& e : events) {
              *p++ = e.t_ns;
              *p++ = e.phase;
              *p++ = e.step;
            }
            return out;
          },
          "int64 (events, 3): monotonic ns, index of the phase that is innermost from then on (-1: none), step.")
      .def_property_readonly("timeline_dropped", &PhaseClock::timeline_dropped);
}

}  // namespace perfsuite
