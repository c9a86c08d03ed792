#include "launch_site.h"

#include <stdexcept>
#include <vector>

#include "phases.h"

namespace perfsuite {
namespace {

thread_local std::vector<uint64_t> t_sites;

const LaunchObserver kFollower{
    [](const LaunchObserver*, int64_t, uint64_t site, bool outermost) {
      if (outermost) t_sites.clear();  // what an earlier following may have left behind
      t_sites.push_back(site);
    },
    [](const LaunchObserver*, int64_t, bool) {
      if (!t_sites.empty()) t_sites.pop_back();
    }};

}  // namespace

void follow_launch_sites() {
  if (launch_observer() != nullptr)
    throw std::runtime_error("the kernel recorder is running in this process: stop it first");
  set_launch_observer(&kFollower);
}

void forget_launch_sites() {
  if (launch_observer() == &kFollower) set_launch_observer(nullptr);
}

int64_t current_launch_site() { return t_sites.empty() ? 0 : int64_t(t_sites.back()); }

}  // namespace perfsuite
