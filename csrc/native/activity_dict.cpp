#include "activity_dict.h"

#include <pybind11/numpy.h>

namespace py = pybind11;

namespace perfsuite {
namespace {

// Names come from outside: what is not UTF-8 in them is replaced.
py::str text(const std::string& s) {
  return py::reinterpret_steal<py::str>(PyUnicode_DecodeUTF8(s.data(), py::ssize_t(s.size()), "replace"));
}

py::object triple(const std::array<int64_t, 3>& v) {
  py::list out;
  for (int64_t i : v) out.append(i);
  return out;
}

py::dict as_dict(const ActivityRow& row) {
  const bool kernel = row.kind == WorkKind::kKernel;
  py::dict out;
  out["name"] = text(row.name);
  out["kind"] = kernel ? "kernel" : row.kind == WorkKind::kMemcpy ? "memcpy" : "memset";
  out["copy"] = py::none();
  if (!row.copy.empty()) {
    py::dict copy;
    copy["direction"] = row.copy;
    copy["pinned"] = row.pinned < 0 ? py::object(py::none()) : py::object(py::bool_(row.pinned == 1));
    out["copy"] = copy;
  }
  out["external"] = row.external;
  out["phase"] = row.phase;
  out["device"] = row.device;
  out["graph"] = row.graph;
  out["calls"] = row.calls;
  out["time_ns"] = row.time_ns;
  out["share_ns"] = row.share_ns;
  out["min_ns"] = row.min_ns;
  out["max_ns"] = row.max_ns;
  // A whole graph, and different kernels in one row, have no shape of their own.
  const bool shaped = kernel && row.block[0] != 0 && row.name != "(other)";
  out["bytes"] = kernel ? py::object(py::none()) : py::object(py::int_(row.bytes));
  out["grid"] = shaped ? triple(row.grid) : py::object(py::none());
  out["block"] = shaped ? triple(row.block) : py::object(py::none());
  out["registers"] = shaped ? py::object(py::int_(row.registers)) : py::object(py::none());
  out["shared_bytes"] = shaped ? py::object(py::int_(row.shared_bytes)) : py::object(py::none());
  return out;
}

py::dict as_dict(const DeviceAccount& device) {
  py::list idle, busy, gaps;
  for (const IdleRow& row : device.idle) {
    py::dict d;
    d["cause"] = name_of(row.cause);
    d["phase"] = row.phase;
    d["time_ns"] = row.time_ns;
    idle.append(d);
  }
  for (const auto& [phase, ns] : device.busy) {
    py::dict d;
    d["phase"] = phase;
    d["time_ns"] = ns;
    busy.append(d);
  }
  for (const GapClass& gap : device.gaps) {
    py::dict d;
    d["up_to_ns"] = gap.up_to_ns ? py::object(py::int_(gap.up_to_ns)) : py::object(py::none());
    d["count"] = gap.count;
    d["time_ns"] = gap.time_ns;
    gaps.append(d);
  }
  py::dict out;
  out["device"] = device.device;
  out["clock_ns"] = device.clock_ns;
  out["busy_ns"] = device.busy_ns;
  out["idle_ns"] = device.idle_ns;
  out["overlap_ns"] = device.overlap_ns;
  out["idle"] = idle;
  out["busy"] = busy;
  out["gaps"] = gaps;
  return out;
}

py::list as_list(const std::vector<NamedSum>& sums, const char* name, const char* count) {
  py::list out;
  for (const NamedSum& sum : sums) {
    py::dict d;
    d[name] = sum.name;
    d[count] = sum.count;
    d["time_ns"] = sum.time_ns;
    out.append(d);
  }
  return out;
}

py::array_t<int64_t> array(const std::vector<int64_t>& values) {
  return py::array_t<int64_t>(py::ssize_t(values.size()), values.data());
}

py::object as_dict(const BusyTable& table) {
  if (table.device < 0) return py::none();
  py::dict out;
  out["device"] = table.device;
  out["reason"] = table.unavailable.empty() ? py::object(py::none()) : py::object(py::str(table.unavailable));
  py::list names;
  for (const std::string& name : table.names) names.append(text(name));
  const py::ssize_t columns = py::ssize_t(table.names.size()) + 1;
  out["names"] = names;
  out["edges_ns"] = array(table.edges_ns);
  out["busy_ns"] = array(table.busy_ns).reshape({py::ssize_t(table.busy_ns.size()) / columns, columns});
  return out;
}

}  // namespace

py::dict as_dict(const ActivityData& data) {
  py::list rows, devices;
  for (const ActivityRow& row : data.rows) rows.append(as_dict(row));
  for (const DeviceAccount& device : data.devices) devices.append(as_dict(device));
  py::array_t<int64_t> slices({py::ssize_t(data.slices.size()), py::ssize_t(6)});
  py::array_t<int64_t> launches(py::ssize_t(data.slices.size()));
  int64_t* next = slices.mutable_data();
  int64_t* next_launch = launches.mutable_data();
  for (const Slice& s : data.slices) {
    for (int64_t value : {s.start_ns, s.end_ns, s.row, s.device, s.stream, s.correlation}) *next++ = value;
    *next_launch++ = s.launch_ns;
  }

  py::dict out;
  out["rows"] = rows;
  out["devices"] = devices;
  out["syncs"] = as_list(data.syncs, "type", "calls");
  out["overheads"] = as_list(data.overheads, "kind", "count");
  out["slices"] = slices;
  out["launch_ns"] = launches;
  out["busy"] = as_dict(data.busy);
  out["slices_dropped"] = data.slices_dropped;
  out["records"] = data.records;
  out["dropped"] = data.dropped;
  out["late"] = data.late;
  out["late_ns"] = data.late_ns;
  out["late_syncs"] = data.late_syncs;
  out["unknown"] = data.unknown;
  out["damaged"] = data.damaged;
  out["untimed"] = data.untimed;
  out["outside"] = data.outside;
  out["unlaunched"] = data.unlaunched;
  out["other"] = data.other;
  out["shortened"] = data.shortened;
  return out;
}

}  // namespace perfsuite
