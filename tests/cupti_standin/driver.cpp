// A scripted libcuda.so.1 for the tests: a driver that sees so many GPUs.
static int g_code = 0, g_devices = 1;

extern "C" {
void standin_driver(int code, int devices) {
  g_code = code;
  g_devices = devices;
}
int cuInit(unsigned) { return g_code; }
int cuDeviceGetCount(int* count) { return *count = g_devices, 0; }
}
