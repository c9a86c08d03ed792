#include <pybind11/stl.h>

#include <stdexcept>

#include "activity_dict.h"
#include "kernel_recorder.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

py::dict kernel_data(const KernelData& data) {
  py::dict out = as_dict(data.sums);
  out["buffers_most_held"] = data.buffers_most_held;
  out["notes"] = data.notes;
  return out;
}

}  // namespace

void register_kernels(py::module_& m) {
  m.def(
      "find_cupti",
      [](const std::string& driver, const std::vector<std::string>& candidates, bool take_loaded) {
        const CuptiLibrary library = open_cupti(driver, candidates, take_loaded);
        py::dict out;
        out["path"] = library.path;
        out["version"] = library.version;
        out["reason"] = library.unavailable;
        return out;
      },
      py::arg("driver"), py::arg("candidates"), py::arg("take_loaded"),
      "{path, version, reason} of the CUPTI that would be used; reason is empty where it can be used.");

  using Released = py::call_guard<py::gil_scoped_release>;
  py::class_<KernelRecorder>(m, "KernelRecorder", "Records what the GPUs do. One runs at a time in a process.")
      .def(py::init([](const std::string& driver, const std::vector<std::string>& candidates, bool take_loaded) {
             CuptiLibrary library = open_cupti(driver, candidates, take_loaded);
             if (!library.unavailable.empty()) throw std::runtime_error(library.unavailable);
             return std::make_unique<KernelRecorder>(std::move(library));
           }),
           py::arg("driver"), py::arg("candidates"), py::arg("take_loaded"),
           "Raises RuntimeError with the reason where CUPTI cannot be used.")
      .def_property_readonly("cupti",
                             [](const KernelRecorder& recorder) {
                               return py::dict(py::arg("version") = recorder.library().version,
                                               py::arg("path") = recorder.library().path);
                             })
      .def("start", &KernelRecorder::start, py::arg("data_phase"), py::arg("devices"), py::arg("with_clock"),
           Released())
      .def("pause", &KernelRecorder::pause, Released())
      .def("resume", &KernelRecorder::resume, Released())
      .def("begin_slices", &KernelRecorder::begin_slices, py::arg("limit"), Released())
      .def("end_slices", &KernelRecorder::end_slices, Released())
      .def(
          "stop",
          [](KernelRecorder& recorder, int64_t stop_ns) {
            KernelData data;
            {
              py::gil_scoped_release released;
              data = recorder.stop(stop_ns);
            }
            return kernel_data(data);
          },
          py::arg("stop_ns"));
}

}  // namespace perfsuite
