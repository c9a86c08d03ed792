// What a launch costs: the call on the host, and the way from the call to what a kernel did, seen by the host.
#include "../native/clock.h"
#include "../ops/cuda/device.h"

namespace {
using namespace perfsuite::cuda;

constexpr int64_t kLongestTripNs = 1'000'000'000;

__global__ void empty() {}

__global__ void arrive(volatile int64_t* flag, int64_t value) {
  if (threadIdx.x == 0) *flag = value;
}
}  // namespace

// `launches` empty kernels, one after the other; what each call took goes to calls_ns, in the host's memory, where that
// is not null. `device` says on which device, and is not touched.
extern "C" int machine_launches(int, const void*, int64_t launches, void* calls_ns, void* stream) {
  auto* const took = static_cast<int64_t*>(calls_ns);
  for (int64_t i = 0; i < launches; ++i) {
    const int64_t start = perfsuite::now_ns();
    const int error = launch(empty, 1, 32, 0, cudaStream_t(stream), 1);
    if (error) return error;
    if (took) took[i] = perfsuite::now_ns() - start;
  }
  return 0;
}

// `trips` times: launch a kernel that writes to `flag` (a word of the host's memory that the device can write to), and
// wait until it is there. What each took goes to trips_ns, in the host's memory. Nothing else may be running.
extern "C" int machine_round_trips(int, const void*, int64_t trips, void* flag, void* trips_ns, void* stream) {
  auto* const seen = static_cast<volatile int64_t*>(flag);
  auto* const took = static_cast<int64_t*>(trips_ns);
  for (int64_t i = 0; i < trips; ++i) {
    *seen = -1;
    const int64_t start = perfsuite::now_ns();
    const int error = launch(arrive, 1, 32, 0, cudaStream_t(stream), 1, seen, i);
    if (error) return error;
    while (*seen != i)
      if (perfsuite::now_ns() - start > kLongestTripNs) return int(cudaErrorLaunchTimeout);
    took[i] = perfsuite::now_ns() - start;
  }
  return 0;
}
