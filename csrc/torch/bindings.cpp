// perfsuite._torch: the native code that is compiled against the installed torch.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <unordered_map>

#include "allocation_log.h"
#include "allocator.h"
#include "op_recorder.h"
#include "reuse.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

const SharedTable& shared_table() {
  const py::object capsule = py::module_::import("perfsuite._native").attr("shared");
  const auto* table = static_cast<const SharedTable*>(PyCapsule_GetPointer(capsule.ptr(), kCapsuleName));
  if (!table) throw py::error_already_set();
  if (table->version != kSharedVersion)
    throw py::import_error("perfsuite._native has version " + std::to_string(table->version) +
                           " of the shared table and perfsuite._torch was built for version " +
                           std::to_string(kSharedVersion) + ": reinstall perfsuite");
  return *table;
}

py::object bytes_of_a_call(const Signature& s, int64_t bytes) {
  if (bytes == kUnknownBytes) return py::none();
  return py::int_(s.folded ? (bytes + s.calls / 2) / s.calls : bytes);
}

py::list signatures(std::vector<Signature>& all) {
  std::sort(all.begin(), all.end(), [](const Signature& a, const Signature& b) { return a.self_ns > b.self_ns; });
  py::list out;
  for (const Signature& s : all) {
    py::dict shape;
    shape["signature"] = s.text;
    shape["sampled_calls"] = s.calls;
    shape["sampled_self_ns"] = s.self_ns;
    shape["bytes"] = bytes_of_a_call(s, s.bytes);
    shape["footprint_bytes"] = bytes_of_a_call(s, s.footprint_bytes);
    out.append(shape);
  }
  return out;
}

py::array_t<int64_t> cumulative(const OpData& data, std::vector<int64_t> OpMark::*column) {
  py::array_t<int64_t> out({py::ssize_t(data.marks.size()), py::ssize_t(data.rows.size())});
  int64_t* p = out.mutable_data();
  std::fill(p, p + out.size(), 0);
  for (const OpMark& mark : data.marks) {
    std::copy((mark.*column).begin(), (mark.*column).end(), p);
    p += data.rows.size();
  }
  return out;
}

const char* name_of(Direction direction) {
  static const char* const kDirections[] = {"none", "forward", "backward"};
  return kDirections[size_t(direction)];
}

py::dict key_as_dict(const RowKey& key, bool on_clock) {
  py::dict out;
  out["name"] = op_name(key.name()).text;
  out["direction"] = name_of(key.direction());
  out["op"] = key.op();
  out["module"] = key.module();
  out["phase"] = key.phase();
  out["thread"] = on_clock ? "clock" : "other";
  return out;
}

// Sorted by begin; names are numbered in the order of their first slice.
void add_slices(std::vector<OpSlice>& slices, py::dict& out) {
  std::sort(slices.begin(), slices.end(), [](const OpSlice& a, const OpSlice& b) {
    return std::tie(a.begin_ns, a.thread, a.depth) < std::tie(b.begin_ns, b.thread, b.depth);
  });
  py::array_t<int64_t> array({py::ssize_t(slices.size()), py::ssize_t(5)});
  int64_t* next = array.mutable_data();
  std::unordered_map<uint32_t, int64_t> index;
  py::list names;
  for (const OpSlice& slice : slices) {
    const auto [it, fresh] = index.emplace(slice.name, int64_t(index.size()));
    if (fresh) names.append(op_name(slice.name).text);
    for (const int64_t value : {slice.begin_ns, slice.end_ns, it->second, int64_t(slice.thread), int64_t(slice.depth)})
      *next++ = value;
  }
  out["slices"] = array;
  out["slice_names"] = names;
}

py::dict as_dict(OpData data) {
  py::list rows;
  for (OpRow& row : data.rows) {
    py::dict out = key_as_dict(row.key, row.on_clock);
    out["calls"] = row.calls;
    out["total_ns"] = row.total_ns;
    out["self_ns"] = row.self_ns;
    out["shapes"] = signatures(row.signatures);
    rows.append(out);
  }
  py::list steps;
  for (const OpMark& mark : data.marks) steps.append(mark.step);
  py::dict top_level;
  for (size_t i = 0; i < data.top_level_ns.size(); ++i)
    if (data.top_level_ns[i] != 0) top_level[py::int_(int64_t(i) - 1)] = data.top_level_ns[i];
  py::dict out;
  out["rows"] = rows;
  out["top_level_ns"] = top_level;
  out["sampled_steps"] = data.sampled_steps;
  out["every"] = op_recorder::kShapesEvery;
  out["dropped_rows"] = data.dropped_rows;
  out["dropped_slices"] = data.dropped_slices;
  add_slices(data.slices, out);
  out["mark_steps"] = steps;
  out["mark_self_ns"] = cumulative(data, &OpMark::self_ns);
  out["mark_calls"] = cumulative(data, &OpMark::calls);
  return out;
}

py::dict as_dict(const AllocatorSums& sums) {
  py::dict phases;
  for (size_t i = 0; i < sums.allocations_by_phase.size(); ++i) {
    if (sums.allocations_by_phase[i] == 0) continue;
    py::dict phase;
    phase["churn_bytes"] = sums.churn_by_phase[i];
    phase["allocations"] = sums.allocations_by_phase[i];
    phases[py::int_(int64_t(i) - 1)] = phase;
  }
  py::dict out;
  out["peak_bytes"] = sums.peak_bytes;
  out["current_bytes"] = sums.current_bytes;
  out["churn_bytes"] = sums.churn_bytes;
  out["allocations"] = sums.allocations;
  out["phases"] = phases;
  return out;
}

py::dict as_dict(const AllocationLog& log) {
  py::array_t<int64_t> events({py::ssize_t(log.events.size()), py::ssize_t(3)});
  int64_t* p = events.mutable_data();
  for (const AllocationEvent& event : log.events) {
    *p++ = event.t_ns;
    *p++ = event.block;
    *p++ = event.bytes;
  }
  return py::dict(py::arg("events") = events, py::arg("dropped") = log.dropped);
}

}  // namespace
}  // namespace perfsuite

PYBIND11_MODULE(_torch, m) {
  using namespace perfsuite;
  m.doc() = "Op recorder, allocator account and the suite's operators, compiled against the installed torch.";
  const SharedTable& shared = shared_table();
  op_recorder::init(shared);

  m.def("ops_start", &op_recorder::start, py::arg("slices_from"), py::arg("slices_until"),
        "Record ops; the calling thread is the clock thread.");
  m.def("ops_stop", [] { return as_dict(op_recorder::stop()); }, "Stop; ids of modules and ops are _native.intern's.");
  m.def("ops_pause", &op_recorder::pause);
  m.def("ops_resume", &op_recorder::resume);
  m.def("ops_begin_step", &op_recorder::begin_step, py::arg("step"));
  m.def("ops_begin_evaluation", &op_recorder::begin_evaluation);
  m.def(
      "ops_site",
      [](uint64_t id) {
        const auto site = op_recorder::site(id);
        return site ? py::object(key_as_dict(site->key, site->on_clock)) : py::object(py::none());
      },
      py::arg("id"), "The row behind an external correlation id of a launch, or None; ids as in ops_stop's rows.");
  m.def("allocator_start", [&shared] { allocator_account::start(shared); });
  m.def("allocator_stop", [] { return as_dict(allocator_account::stop()); });
  m.def("allocator_held", [] {
    const HeldBytes held = allocator_account::held();
    return py::make_tuple(held.current, held.peak);
  }, "(current, peak) bytes of the account of the CPU allocator.");
  m.def("allocation_log_start", &allocation_log::start, py::arg("limit"),
        "Log each block that the account of the CPU allocator sees, which must run.");
  m.def("allocation_log_stop", [] { return as_dict(allocation_log::stop()); },
        "events: int64 (n, 3) monotonic ns, address, bytes (below zero: freed); dropped: how many found no room.");
  m.def("reuse_sums", [] {
    const ReuseSums sums = reuse_sums();
    return py::dict(py::arg("kept_bytes") = sums.kept_bytes, py::arg("reused") = sums.reused,
                    py::arg("fresh") = sums.fresh);
  });
  m.def("reuse_release", &reuse_release, "Give the memory kept for outputs of CPU operators back.");
}
