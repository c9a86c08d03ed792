#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>

#include "register.h"
#include "sampler.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

// None where the value is missing.
py::object optional(double value) {
  return std::isnan(value) ? py::object(py::none()) : py::object(py::float_(value));
}
py::object optional(const std::string& text) {
  return text.empty() ? py::object(py::none()) : py::object(py::str(text));
}

py::dict as_dict(const Gpu& gpu) {
  py::dict out;
  out["index"] = gpu.index;
  out["name"] = optional(gpu.name);
  out["uuid"] = optional(gpu.uuid);
  out["power_limit_w"] = optional(gpu.power_limit_w);
  out["power_limit_reason"] = optional(gpu.power_limit_reason);
  out["mig"] = gpu.mig;
  out["reason"] = optional(gpu.reason);
  return out;
}

py::array_t<int64_t> as_array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(py::ssize_t(values.size()), values.data());
}

py::dict as_dict(const Samples& samples, const std::vector<Column>& columns) {
  py::array_t<double> values({py::ssize_t(samples.t_ns.size()), py::ssize_t(columns.size())});
  double* next = values.mutable_data();
  for (const auto& chunk : samples.values) next = std::copy(chunk.begin(), chunk.end(), next);
  py::list failures;
  for (const auto& [key, failure] : samples.failures)
    failures.append(py::make_tuple(columns[key.first].name, key.second, failure.first_ns, failure.count));
  py::dict out;
  out["t_ns"] = as_array(samples.t_ns);
  out["late_ns"] = as_array(samples.late_ns);
  out["values"] = values;
  out["failures"] = failures;
  out["missed"] = samples.missed;
  out["dropped"] = samples.dropped;
  out["cpu_ns"] = samples.cpu_ns;
  return out;
}

}  // namespace

void register_sampler(py::module_& m) {
  py::class_<Sampler>(m, "Sampler", "Samples power, GPU and process counters on a thread of its own; runs once.")
      .def(py::init([](int64_t period_ns, double jitter, uint64_t seed, std::string nvml, std::string powercap,
                       uintptr_t now_ns, uintptr_t sleep_until_ns) {
             py::gil_scoped_release release;
             return std::make_unique<Sampler>(SamplerConfig{
                 period_ns, jitter, seed, std::move(nvml), std::move(powercap),
                 reinterpret_cast<int64_t (*)()>(now_ns), reinterpret_cast<int (*)(int64_t)>(sleep_until_ns)});
           }),
           py::arg("period_ns"), py::arg("jitter"), py::arg("seed"), py::arg("nvml"), py::arg("powercap"),
           py::arg("now_ns") = 0, py::arg("sleep_until_ns") = 0)
      .def("start", &Sampler::start, py::call_guard<py::gil_scoped_release>(),
           "Returns once the first sample is taken.")
      .def("stop", &Sampler::stop, py::arg("timeout_ns"), py::call_guard<py::gil_scoped_release>(),
           "Take a last sample. False where the thread did not come back in time and was left behind.")
      .def("columns",
           [](const Sampler& s) {
             py::list out;
             for (const Column& c : s.columns()) out.append(py::make_tuple(c.name, c.unit, optional(c.absent)));
             return out;
           },
           "[(name, unit, why it is absent or None)]")
      .def("unavailable",
           [](const Sampler& s) {
             py::list out;
             for (const auto& [label, reason] : s.unavailable()) out.append(py::make_tuple(label, optional(reason)));
             return out;
           },
           "[(source, why it gives nothing here or None)]")
      .def("gpus",
           [](const Sampler& s) {
             py::list out;
             for (const Gpu& gpu : s.gpus()) out.append(as_dict(gpu));
             return out;
           })
      .def("rapl",
           [](const Sampler& s) {
             py::list out;
             for (const RaplZone& zone : s.zones()) {
               py::dict row;
               row["name"] = zone.name;
               row["column"] = "rapl_" + zone.name + "_energy_j";
               row["range_j"] = optional(zone.range_j);
               out.append(row);
             }
             return out;
           },
           "[{name, column, range_j: where its counter wraps}]")
      .def("samples", [](const Sampler& s) { return as_dict(s.samples(), s.columns()); });
}

}  // namespace perfsuite
