#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <stdexcept>

#include "kernel_recorder.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

const char* name_of(WorkKind kind) {
  static const char* const kNames[] = {"kernel", "memcpy", "memset"};
  return kNames[size_t(kind)];
}

py::dict as_dict(const ActivityRow& row) {
  py::dict out;
  out["name"] = row.name;
  out["kind"] = name_of(row.kind);
  out["direction"] = row.copy;
  out["pinned"] = row.pinned < 0 ? py::object(py::none()) : py::object(py::bool_(row.pinned == 1));
  out["graph"] = row.graph;
  out["external"] = row.external;
  out["phase"] = row.phase;
  out["device"] = row.device;
  out["calls"] = row.calls;
  out["time_ns"] = row.time_ns;
  out["share_ns"] = row.share_ns;
  out["min_ns"] = row.min_ns;
  out["max_ns"] = row.max_ns;
  out["bytes"] = row.bytes;
  out["grid"] = row.grid;
  out["block"] = row.block;
  out["registers"] = row.registers;
  out["shared_bytes"] = row.shared_bytes;
  return out;
}

py::dict as_dict(const DeviceAccount& account) {
  py::list idle, busy, gaps;
  for (const IdleRow& row : account.idle)
    idle.append(py::dict(py::arg("cause") = name_of(row.cause), py::arg("phase") = row.phase,
                         py::arg("time_ns") = row.time_ns));
  for (const auto& [phase, time_ns] : account.busy)
    busy.append(py::dict(py::arg("phase") = phase, py::arg("time_ns") = time_ns));
  for (const GapClass& gap : account.gaps) {
    const py::object up_to = gap.up_to_ns == 0 ? py::object(py::none()) : py::object(py::int_(gap.up_to_ns));
    gaps.append(py::dict(py::arg("up_to_ns") = up_to, py::arg("count") = gap.count, py::arg("time_ns") = gap.time_ns));
  }
  py::dict out;
  out["device"] = account.device;
  out["clock_ns"] = account.clock_ns;
  out["busy_ns"] = account.busy_ns;
  out["idle_ns"] = account.idle_ns;
  out["overlap_ns"] = account.overlap_ns;
  out["idle"] = idle;
  out["busy"] = busy;
  out["gaps"] = gaps;
  return out;
}

py::array_t<int64_t> as_array(const std::vector<Slice>& slices) {
  py::array_t<int64_t> out({py::ssize_t(slices.size()), py::ssize_t(6)});
  int64_t* next = out.mutable_data();
  for (const Slice& s : slices)
    for (const int64_t value : {s.start_ns, s.end_ns, s.row, s.device, s.stream, s.correlation}) *next++ = value;
  return out;
}

py::dict as_dict(const KernelData& data) {
  const ActivityData& sums = data.sums;
  py::list rows, devices, syncs, overheads;
  for (const ActivityRow& row : sums.rows) rows.append(as_dict(row));
  for (const DeviceAccount& device : sums.devices) devices.append(as_dict(device));
  for (const NamedSum& sum : sums.syncs)
    syncs.append(py::dict(py::arg("type") = sum.name, py::arg("calls") = sum.count, py::arg("time_ns") = sum.time_ns));
  for (const NamedSum& sum : sums.overheads)
    overheads.append(
        py::dict(py::arg("kind") = sum.name, py::arg("count") = sum.count, py::arg("time_ns") = sum.time_ns));
  py::dict out;
  out["rows"] = rows;
  out["devices"] = devices;
  out["syncs"] = syncs;
  out["overheads"] = overheads;
  out["slices"] = as_array(sums.slices);
  out["slices_dropped"] = sums.slices_dropped;
  out["records"] = sums.records;
  out["dropped"] = sums.dropped;
  out["late"] = sums.late;
  out["late_ns"] = sums.late_ns;
  out["unknown"] = sums.unknown;
  out["damaged"] = sums.damaged;
  out["untimed"] = sums.untimed;
  out["outside"] = sums.outside;
  out["unlaunched"] = sums.unlaunched;
  out["other"] = sums.other;
  out["shortened"] = sums.shortened;
  out["buffers_most_held"] = data.buffers_most_held;
  out["start_ns"] = data.start_ns;
  out["stop_ns"] = data.stop_ns;
  out["notes"] = data.notes;
  return out;
}

}  // namespace

void register_kernels(py::module_& m) {
  m.def(
      "find_cupti",
      [](const std::string& driver, const std::vector<std::string>& candidates) {
        const CuptiLibrary library = open_cupti(driver, candidates);
        py::dict out;
        out["path"] = library.path;
        out["version"] = library.version;
        out["reason"] = library.unavailable;
        return out;
      },
      py::arg("driver"), py::arg("candidates"),
      "{path, version, reason} of the CUPTI that would be used; reason is empty where it can be used.");

  using Released = py::call_guard<py::gil_scoped_release>;
  py::class_<KernelRecorder>(m, "KernelRecorder", "Records what the GPUs do. One runs at a time in a process.")
      .def(py::init([](const std::string& driver, const std::vector<std::string>& candidates) {
             CuptiLibrary library = open_cupti(driver, candidates);
             if (!library.unavailable.empty()) throw std::runtime_error(library.unavailable);
             return std::make_unique<KernelRecorder>(std::move(library));
           }),
           py::arg("driver"), py::arg("candidates"), "Raises RuntimeError with the reason where CUPTI cannot be used.")
      .def("start", &KernelRecorder::start, py::arg("data_phase"), py::arg("devices"), Released())
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
            return as_dict(data);
          },
          py::arg("stop_ns"));
}

}  // namespace perfsuite
