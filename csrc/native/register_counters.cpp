#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "counter_host.h"
#include "kernel_names.h"
#include "launch_join.h"
#include "pm_sampling.h"
#include "range_replay.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {
namespace {

py::bytes as_bytes(const std::vector<uint8_t>& image) {
  return {reinterpret_cast<const char*>(image.data()), image.size()};
}
std::vector<uint8_t> as_image(std::string_view bytes) { return {bytes.begin(), bytes.end()}; }

// Stamps of the device's clock, and values.
py::dict as_dict(const SampleStore& store) {
  py::array_t<int64_t> t({py::ssize_t(store.num_rows()), py::ssize_t(2)});
  py::array_t<double> values({py::ssize_t(store.num_rows()), py::ssize_t(store.num_columns())});
  int64_t* next_t = t.mutable_data();
  double* next = values.mutable_data();
  for (size_t row = 0; row < store.num_rows(); ++row) {
    *next_t++ = int64_t(store.start_ns(row));
    *next_t++ = int64_t(store.end_ns(row));
    for (size_t c = 0; c < store.num_columns(); ++c) *next++ = store.value(row, c);
  }
  py::dict out;
  out["stamps_ns"] = t;
  out["values"] = values;
  out["num_samples"] = store.num_samples();
  out["dropped_first"] = store.dropped_first();
  out["lost"] = store.lost();
  out["invalid"] = store.invalid();
  out["merged"] = store.merged();
  return out;
}

py::tuple as_tuple(const ClockOffset& o) { return py::make_tuple(o.method, o.offset_ns, o.bound_ns); }

py::list as_rows(const LaunchJoin& join) {
  py::list out;
  for (const auto& [key, row] : join.rows())
    out.append(py::make_tuple(std::get<0>(key), std::get<1>(key), std::get<2>(key), row.calls, row.sums));
  return out;
}

py::dict as_dict(const LaunchJoin& join) {
  py::dict out;
  out["rows"] = as_rows(join);
  out["unjoined"] = join.unjoined();
  out["dropped"] = join.dropped();
  out["launches"] = join.launches();
  out["ranges"] = join.ranges();
  return out;
}

void register_host(py::module_& m) {
  m.def("counter_driver_missing", &driver_missing, "Why no counter can be read here, for want of a driver; else ''.");
  m.def("counter_current_device", &current_device, "CUDA's number of the device of this thread's context.");
  py::class_<CounterLibrary, std::shared_ptr<CounterLibrary>>(m, "CounterLibrary", "CUPTI's counter interfaces.")
      .def(py::init<const std::string&, const std::string&>(), py::arg("folder"), py::arg("cupti"))
      .def_property_readonly("version", &CounterLibrary::version, "130001 for 13.0 update 1; 0 where it does not say.")
      .def("chips", &supported_chips, "Names of the chips that it can plan for.")
      .def("chip_of", &chip_of, py::arg("device"), "Name of the chip of this CUDA device. RuntimeError without one.");

  py::enum_<Collection>(m, "Collection")
      .value("ranges", Collection::kRanges)
      .value("sampling", Collection::kSampling);
  py::class_<CounterHost, std::shared_ptr<CounterHost>>(m, "CounterHost", "The metrics of one chip.")
      .def(py::init([](std::shared_ptr<CounterLibrary> library, std::string chip, Collection collection,
                       std::string_view availability) {
             return std::make_shared<CounterHost>(std::move(library), std::move(chip), collection,
                                                  as_image(availability));
           }),
           py::arg("library"), py::arg("chip"), py::arg("collection"), py::arg("availability") = "")
      .def("base_metrics", &CounterHost::base_metrics, py::arg("type"), "Of type 0 counter, 1 ratio or 2 throughput.")
      .def("properties",
           [](const CounterHost& h, const std::string& metric) {
             const MetricProperties p = h.properties(metric);
             return py::make_tuple(p.description, p.hw_unit, p.unit, p.type);
           },
           py::arg("metric"), "(description, hardware unit, unit, type)")
      .def("config_image", [](const CounterHost& h, const std::vector<std::string>& metrics) {
             return as_bytes(h.config_image(metrics));
           },
           py::arg("metrics"))
      .def("passes",
           [](const CounterHost& h, std::string_view image) {
             auto copy = as_image(image);
             return h.passes(copy);
           },
           py::arg("config_image"))
      .def("evaluate",
           [](const CounterHost& h, std::string_view data, size_t index, const std::vector<std::string>& metrics) {
             std::vector<const char*> names;
             for (const std::string& metric : metrics) names.push_back(metric.c_str());
             std::vector<double> values(metrics.size());
             h.evaluate(reinterpret_cast<const uint8_t*>(data.data()), data.size(), index, names, values.data());
             return values;
           },
           py::arg("counter_data"), py::arg("index"), py::arg("metrics"));
}

void register_sampling(py::module_& m) {
  m.attr("ADD_UP") = kAddUp;
  m.attr("OVER_TIME") = kOverTime;
  py::class_<SampleStore>(m, "SampleStore", "Counter samples in bounded memory: neighbours are merged when it is full.")
      .def(py::init<std::vector<int>, size_t>(), py::arg("kinds"), py::arg("max_rows"))
      .def("restart", &SampleStore::restart)
      .def("add",
           [](SampleStore& s, uint64_t start_ns, uint64_t end_ns, const std::vector<double>& values) {
             if (values.size() != s.num_columns()) throw std::invalid_argument("a value for each metric");
             s.add(start_ns, end_ns, values.data());
           },
           py::arg("start_ns"), py::arg("end_ns"), py::arg("values"))
      .def("rows", [](const SampleStore& s) { return as_dict(s); });
  py::class_<SampleClock>(m, "SampleClock", "Where on the monotonic clock another clock's stamps lie, with a bound.")
      .def(py::init<>())
      .def("read_beside", &SampleClock::read_beside, py::arg("before_ns"), py::arg("cupti_ns"), py::arg("after_ns"))
      .def("not_before", &SampleClock::not_before, py::arg("stamp_ns"), py::arg("started_ns"))
      .def("not_after", &SampleClock::not_after, py::arg("stamp_ns"), py::arg("read_ns"))
      .def("offset", [](const SampleClock& c) { return as_tuple(c.offset()); }, "(method, offset_ns, bound_ns)");

  m.def("sampling_availability",
        [](const CounterLibrary& library, size_t device) { return as_bytes(sampling_availability(library, device)); },
        py::arg("library"), py::arg("device"), "RuntimeError with the reason where this GPU cannot be sampled.");
  py::class_<PmSampling>(m, "PmSampling", "Counters over time, read on a thread of its own; runs once.")
      .def(py::init([](std::shared_ptr<CounterHost> host, size_t device, std::vector<std::string> metrics,
                       std::vector<int> kinds, bool by_time, uint64_t interval, size_t hardware_buffer_bytes,
                       uint32_t max_samples, int64_t decode_period_ns, size_t max_rows) {
             const int trigger = by_time ? cupti_profiler::kTriggerTimeNs : cupti_profiler::kTriggerSysclkCycles;
             return std::make_unique<PmSampling>(
                 std::move(host), PmSamplingConfig{device, std::move(metrics), std::move(kinds), trigger, interval,
                                                   hardware_buffer_bytes, max_samples, decode_period_ns, max_rows});
           }),
           py::arg("host"), py::arg("device"), py::arg("metrics"), py::arg("kinds"), py::arg("by_time"),
           py::arg("interval"), py::arg("hardware_buffer_bytes"), py::arg("max_samples"),
           py::arg("decode_period_ns"), py::arg("max_rows"))
      .def("start", &PmSampling::start, py::call_guard<py::gil_scoped_release>())
      .def("stop", &PmSampling::stop, py::call_guard<py::gil_scoped_release>())
      .def("result", [](const PmSampling& s) {
        py::dict out = as_dict(s.store());
        out["clock"] = as_tuple(s.clock().offset());
        out["overflows"] = s.overflows();
        out["error"] = s.error();
        out["cpu_ns"] = s.cpu_ns();
        return out;
      });
}

void register_replay(py::module_& m) {
  py::class_<LaunchJoin>(m, "LaunchJoin", "Puts the names of launches on the ranges measured around them, by order.")
      .def(py::init<size_t>(), py::arg("columns"))
      .def("add",
           [](LaunchJoin& join, const std::vector<std::tuple<std::string, int64_t, int32_t, bool>>& launches,
              const std::vector<std::pair<int64_t, std::vector<double>>>& ranges, int64_t dropped) {
             std::vector<Launch> l;
             for (const auto& [name, site, phase, ordered] : launches)
               l.push_back({readable_kernel_name(name), site, phase, ordered});
             std::vector<MeasuredRange> r;
             for (const auto& [position, values] : ranges) r.push_back({position, values});
             join.add(l, std::move(r), dropped);
           },
           py::arg("launches"), py::arg("ranges"), py::arg("dropped"))
      .def("result", [](const LaunchJoin& join) { return as_dict(join); });

  m.def("ranges_availability",
        [](const CounterLibrary& library) { return as_bytes(ranges_availability(library)); }, py::arg("library"),
        "RuntimeError with the reason where kernels cannot be replayed.");
  py::class_<RangeReplay>(m, "RangeReplay", "Counters of each kernel, which is replayed until all are collected.")
      .def(py::init([](std::shared_ptr<CounterHost> host, std::vector<std::string> metrics, size_t max_ranges,
                       uintptr_t site) {
             return std::make_unique<RangeReplay>(
                 std::move(host),
                 RangeReplayConfig{std::move(metrics), max_ranges, reinterpret_cast<int64_t (*)()>(site)});
           }),
           py::arg("host"), py::arg("metrics"), py::arg("max_ranges"), py::arg("site") = 0)
      .def("start", &RangeReplay::start, py::call_guard<py::gil_scoped_release>())
      .def("flush", &RangeReplay::flush, py::call_guard<py::gil_scoped_release>())
      .def("stop", &RangeReplay::stop, py::call_guard<py::gil_scoped_release>())
      .def("result", [](const RangeReplay& r) {
        py::dict out = as_dict(r.join());
        out["passes"] = r.passes();
        return out;
      });
}

}  // namespace

void register_counters(py::module_& m) {
  register_host(m);
  register_sampling(m);
  register_replay(m);
}

}  // namespace perfsuite
