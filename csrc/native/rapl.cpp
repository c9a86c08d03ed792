#include "rapl.h"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

namespace perfsuite {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The zones "intel-rapl:0" (a package) and "intel-rapl:0:1" (a part of one); AMD's appear under the same name.
// "intel-rapl-mmio:0" is a second view of the same package and is left out.
std::vector<std::string> zone_folders(const std::string& powercap) {
  std::vector<std::string> found;
  if (DIR* folder = opendir(powercap.c_str())) {
    while (const dirent* entry = readdir(folder))
      if (std::strncmp(entry->d_name, "intel-rapl:", 11) == 0) found.emplace_back(entry->d_name);
    closedir(folder);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Rapl::Rapl(const std::string& powercap) {
  const std::vector<std::string> folders = zone_folders(powercap);
  bool any = false;
  for (const std::string& folder : folders) {
    const std::string path = powercap + "/" + folder;
    std::string name = first_line(path + "/name");
    const size_t part = folder.find(':', 11);
    if (part != std::string::npos) name = first_line(powercap + "/" + folder.substr(0, part) + "/name") + "-" + name;
    const std::string range = first_line(path + "/max_energy_range_uj");
    const int file = open((path + "/energy_uj").c_str(), O_RDONLY | O_CLOEXEC);
    std::string absent;
    if (file < 0) {
      absent = path + "/energy_uj: " + std::strerror(errno);
      if (errno == EACCES) absent += " (only root may read it since Linux 5.10)";
    }
    any = any || file >= 0;
    const double range_j = range.empty() ? kMissing : 1e-6 * std::strtod(range.c_str(), nullptr);
    zones_.push_back({name, columns_.size(), file, range_j});
    columns_.push_back({"rapl_" + name + "_energy_j", "J", absent});
  }
  if (any) columns_.push_back({"rapl_read_ns", "ns", ""});
  if (folders.empty()) unavailable_ = "no intel-rapl zone in " + powercap + ": the kernel or the hypervisor shows none";
  if (!folders.empty() && !any) unavailable_ = columns_[0].absent;
}

Rapl::~Rapl() {
  for (const RaplZone& zone : zones_)
    if (zone.file >= 0) close(zone.file);
}

void Rapl::read(Reading& row) {
  for (const RaplZone& zone : zones_) {
    if (zone.file < 0) continue;
    char text[32];
    const ssize_t n = pread(zone.file, text, sizeof(text) - 1, 0);
    if (n <= 0) {
      row.fail(zone.column, std::string("energy_uj: ") + (n < 0 ? std::strerror(errno) : "empty"));
      continue;
    }
    text[n] = '\0';
    row.set(zone.column, 1e-6 * double(std::strtoull(text, nullptr, 10)));
  }
  if (columns_.size() > zones_.size()) row.set(zones_.size(), row.elapsed_ns());
}

}  // namespace perfsuite
