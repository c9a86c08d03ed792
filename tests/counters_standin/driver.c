// A libcuda.so.1 with one GPU and a context on it, unless STANDIN_NO_CONTEXT is set.
#include <stdlib.h>

int cuInit(unsigned flags) { return flags; }
int cuCtxGetCurrent(void** context) {
  *context = getenv("STANDIN_NO_CONTEXT") ? 0 : (void*)1;
  return 0;
}
int cuCtxGetDevice(int* device) {
  *device = 0;
  return 0;
}
