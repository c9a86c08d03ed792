#include <pybind11/numpy.h>

#include "activity_dict.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

using Times = py::array_t<int64_t, py::array::c_style>;
using Values = py::array_t<int32_t, py::array::c_style>;

template <class Append>
void append_each(const Times& t_ns, const Values& values, Append append) {
  if (t_ns.ndim() != 1 || values.ndim() != 1 || t_ns.size() != values.size())
    throw py::value_error("times and values must be arrays of one dimension and the same length");
  for (py::ssize_t i = 0; i < t_ns.size(); ++i) append(t_ns.data()[i], values.data()[i]);
}

void consume(ActivitySums& sums, const py::buffer& buffer) {
  const py::buffer_info info = buffer.request();
  const auto bytes = size_t(info.size) * size_t(info.itemsize);
  if (info.ndim != 1 || (info.size > 1 && info.strides[0] != info.itemsize) ||
      reinterpret_cast<uintptr_t>(info.ptr) % 8 != 0)
    throw py::value_error("a buffer of activity records is contiguous and aligned to 8 bytes");
  py::gil_scoped_release release;
  sums.consume(static_cast<uint8_t*>(info.ptr), bytes);
}

}  // namespace

void register_activity(py::module_& m) {
  static const ActivityLimits limits;
  py::class_<ActivitySums>(m, "ActivitySums", "Sums of CUPTI activity records, made while buffers of them arrive.")
      .def(py::init([](uint32_t cupti_version, uintptr_t next, int64_t horizon_ns, size_t pending, size_t calls,
                       size_t host_events, size_t rows, uint32_t external_kind) {
             return std::make_unique<ActivitySums>(
                 cupti_version, reinterpret_cast<GetNextRecord>(next),
                 ActivityLimits{horizon_ns, pending, calls, host_events, rows, external_kind});
           }),
           py::arg("cupti_version"), py::arg("next") = 0, py::kw_only(), py::arg("horizon_ns") = limits.horizon_ns,
           py::arg("pending") = limits.pending, py::arg("calls") = limits.calls,
           py::arg("host_events") = limits.host_events, py::arg("rows") = limits.rows,
           py::arg("external_kind") = limits.external_kind,
           "next: address of cuptiActivityGetNextRecord; 0 walks buffers by the record sizes of the version. Raises "
           "ValueError where the records of that version are not known.")
      .def("start", &ActivitySums::start, py::arg("t_ns"), py::arg("data_phase") = -1)
      .def("expect_device", &ActivitySums::expect_device, py::arg("device"))
      .def("consume", &consume, py::arg("buffer"), "A completed buffer: bytes or a contiguous array.")
      .def("dropped", &ActivitySums::dropped, py::arg("n"))
      .def("keep_slices", &ActivitySums::keep_slices, py::arg("from_ns"), py::arg("to_ns"), py::arg("limit"))
      .def(
          "phases",
          [](ActivitySums& s, const Times& t_ns, const Values& phases) {
            append_each(t_ns, phases, [&](int64_t t, int32_t phase) { s.host().phase(t, phase); });
          },
          py::arg("t_ns"), py::arg("phases"), "Phase changes of the clock thread: int64 and int32 (n,).")
      .def(
          "ops",
          [](ActivitySums& s, const Times& t_ns, const Values& deltas) {
            append_each(t_ns, deltas, [&](int64_t t, int32_t delta) { s.host().op(t, delta); });
          },
          py::arg("t_ns"), py::arg("deltas"), "Ops that begin (+1) and end (-1): int64 and int32 (n,).")
      .def("stop", &ActivitySums::stop, py::arg("t_ns"))
      .def(
          "finish",
          [](ActivitySums& s, int64_t stop_ns) {
            ActivityData data;
            {
              py::gil_scoped_release release;
              data = s.finish(stop_ns);
            }
            return as_dict(data);
          },
          py::arg("stop_ns"), "The sums as plain data, phases as ids. Raises RuntimeError where they do not run.");
}

}  // namespace perfsuite
