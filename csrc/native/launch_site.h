// Which op the calling thread is in, for who is called back at a launch and wants to know where it came from.
#pragma once

#include <cstdint>

namespace perfsuite {

// From here on the op recorder tells where it is, on every thread; until forget_launch_sites(). The kernel recorder asks
// the op recorder for the same and cannot run meanwhile: throws std::runtime_error where it does.
void follow_launch_sites();
void forget_launch_sites();
// Number of the op recorder's for the innermost op that began since; 0 where there is none.
int64_t current_launch_site();

}  // namespace perfsuite
