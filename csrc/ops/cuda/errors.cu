// What perfsuite/cuda_extension.py asks about the library itself.
#include "device.h"

namespace {
__global__ void nothing() {}
}  // namespace

// What a cudaError_t means.
extern "C" const char* perfsuite_error_string(int error) { return cudaGetErrorString(cudaError_t(error)); }

// Whether the driver can run this library's code on the current device: launches an empty kernel.
extern "C" int perfsuite_try_device(int, void* stream) {
  return perfsuite::cuda::launch(nothing, 1, 32, 0, cudaStream_t(stream), 1);
}
