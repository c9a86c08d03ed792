#include "procstat.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

namespace perfsuite {
namespace {

enum : size_t { kUser, kSystem, kMinorFaults, kMajorFaults, kRss };

double seconds(const timeval& t) { return double(t.tv_sec) + 1e-6 * double(t.tv_usec); }

}  // namespace

ProcStat::ProcStat() : page_bytes_(double(sysconf(_SC_PAGESIZE))) {
  columns_ = {{"cpu_user_s", "s", ""},
              {"cpu_system_s", "s", ""},
              {"minor_faults", "1", ""},
              {"major_faults", "1", ""},
              {"rss_bytes", "B", ""}};
  statm_ = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
  if (statm_ < 0) columns_[kRss].absent = std::string("/proc/self/statm: ") + std::strerror(errno);
}

ProcStat::~ProcStat() {
  if (statm_ >= 0) close(statm_);
}

void ProcStat::read(Reading& row) {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  row.set(kUser, seconds(usage.ru_utime));
  row.set(kSystem, seconds(usage.ru_stime));
  row.set(kMinorFaults, double(usage.ru_minflt));
  row.set(kMajorFaults, double(usage.ru_majflt));
  if (statm_ < 0) return;
  char text[128];
  const ssize_t n = pread(statm_, text, sizeof(text) - 1, 0);
  if (n < 0) return row.fail(kRss, std::string("/proc/self/statm: ") + std::strerror(errno));
  text[n] = '\0';
  unsigned long resident = 0;
  if (std::sscanf(text, "%*u %lu", &resident) != 1) return row.fail(kRss, "/proc/self/statm: not the expected format");
  row.set(kRss, double(resident) * page_bytes_);
}

}  // namespace perfsuite
