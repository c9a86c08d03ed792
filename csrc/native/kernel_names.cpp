#include "kernel_names.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>

namespace perfsuite {

std::string readable_kernel_name(const std::string& name, size_t limit) {
  std::string text = name;
  if (name.rfind("_Z", 0) == 0) {
    int status = 0;
    const std::unique_ptr<char, decltype(&std::free)> demangled(
        abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
    if (status == 0) text = demangled.get();
  }
  if (text.size() > limit) text.resize(limit);
  return text;
}

}  // namespace perfsuite
