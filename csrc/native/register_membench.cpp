#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "membench.h"
#include "register.h"

namespace py = pybind11;

namespace perfsuite {

void register_membench(py::module_& m) {
  m.attr("compiler") = "g++ " __VERSION__;
  m.def("membench_isas", &membench_isas, "Instruction sets there are kernels for on this CPU, widest first.");
  m.def("membench_kernels", &membench_kernels, "Names of the bandwidth kernels on this CPU.");

  py::class_<MemoryBench>(m, "MemoryBench",
                          "Bandwidth of working sets of up to max_bytes; one thread per entry of cpus, pinned where "
                          "allowed. isa '' is the widest. Raises ValueError on bad arguments and MemoryError.")
      .def(py::init<std::vector<int>, int64_t, const std::string&>(), py::arg("cpus"), py::arg("max_bytes"),
           py::arg("isa") = "")
      .def_property_readonly("isa", &MemoryBench::isa)
      .def(
          "run",
          [](MemoryBench& bench, const std::string& kernel, int64_t working_set_bytes, int64_t passes, int repetitions,
             int slices) {
            BandwidthRun run;
            {
              py::gil_scoped_release released;
              run = bench.run(kernel, working_set_bytes, passes, repetitions, slices);
            }
            py::dict out;
            out["samples_ns"] = run.samples_ns;
            out["bytes"] = run.bytes;
            out["working_set_bytes"] = run.working_set_bytes;
            out["elements"] = run.elements;
            out["checksums"] = run.checksums;
            out["pinned"] = run.pinned;
            return out;
          },
          py::arg("kernel"), py::arg("working_set_bytes"), py::arg("passes"), py::arg("repetitions"),
          py::arg("slices") = 1,
          "One sample in ns per repetition (first start to last end): `passes` passes over one of `slices` parts of "
          "the working set in turn. bytes are those the program reads "
          "and writes in a repetition, all threads; the read that an ordinary store costs the hardware first "
          "(write-allocate) is not counted. checksums (per thread): sums modulo 2**32 of float32 bit patterns.");

  py::class_<PointerChase>(m, "PointerChase",
                           "Latency: one thread follows a random cyclic permutation of cache lines of line_bytes.")
      .def(py::init([](int64_t bytes, int cpu, int line_bytes, uint64_t seed) {
             py::gil_scoped_release released;
             return std::make_unique<PointerChase>(bytes, line_bytes, cpu, seed);
           }),
           py::arg("bytes"), py::arg("cpu"), py::arg("line_bytes") = 64, py::arg("seed") = 1)
      .def_property_readonly("lines", &PointerChase::lines)
      .def("run", &PointerChase::run, py::arg("steps"), py::arg("repetitions"), py::arg("warm_steps") = 0,
           py::call_guard<py::gil_scoped_release>(), "Samples in ns, each of `steps` dependent loads.")
      .def(
          "next_lines",
          [](const PointerChase& chase) {
            const auto next = chase.next_lines();
            return py::array_t<int64_t>(py::ssize_t(next.size()), next.data());
          },
          "int64 (lines,): the line that follows each line.");

  m.def(
      "fma_run",
      [](const std::vector<int>& cpus, int64_t iterations, int repetitions, const std::string& isa) {
        FmaRun run;
        {
          py::gil_scoped_release released;
          run = run_fma(cpus, iterations, repetitions, isa);
        }
        py::dict out;
        out["samples_ns"] = run.samples_ns;
        out["flops"] = run.flops;
        out["checksums"] = run.checksums;
        out["pinned"] = run.pinned;
        return out;
      },
      py::arg("cpus"), py::arg("iterations"), py::arg("repetitions"), py::arg("isa") = "",
      "float32 multiply-adds in registers: samples in ns and the flops (two per multiply-add) of one repetition.");
}

}  // namespace perfsuite
