// A scripted libnvidia-ml.so.1 for the tests, on a virtual clock.
//
// Each GPU draws a square wave of power. Its sensor works like the one described in arXiv:2312.02741 for A100 and H100:
// every `update_ns` it publishes the mean power of the last `window_ns` and sees nothing of the rest. The energy counter
// accumulates all of it and is published every `counter_ns`. Its parameters are set by the test through standin_*.
// In place of the square wave a load may be a schedule of any powers. GPM's activity is the share of time that the square
// wave was high; asked for 100 ms or less it gives values that look right and are not, as the real one does.
// Compile with -DOMIT_<function> to leave a function out of the library.
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define GPUS 8
#define FAILURES 32
#define CLOCKS 16

typedef struct {
  double low_w, high_w, duty;
  int64_t period_ns, phase_ns;        // of the load: high from phase on, for duty * period
  int64_t update_ns, window_ns, sensor_phase_ns, counter_ns, counter_phase_ns;
  int64_t reset_ns;                   // the counter starts again from 0 here; negative: never
  double limit_w;
  int mig, gpm;                       // gpm: whether the GPU has it
  int64_t segments;                   // of the schedule; 0: the square wave
  int64_t* edges_ns;                  // segments + 1
  double *watts, *joules;             // of each segment, and drawn before each edge
  char name[64];
} Gpu;

typedef struct {
  int gpu, field, code;  // field 0: the whole function
  char function[64];
  int64_t from_ns, until_ns;
} Failing;

typedef struct {
  int gpu;
  unsigned mhz;
  unsigned long long reasons;
  int64_t from_ns, until_ns;
} Clock;

static Gpu g_gpus[GPUS];
static Clock g_clocks[CLOCKS];
static int g_clock_count, g_gpm_samples;
static unsigned g_count;
static Failing g_failing[FAILURES];
static const char kDriver[] = "580.159.03";
static const char* g_driver = kDriver;
static int g_failing_count, g_hang;
static int64_t g_call_ns;  // virtual time that each call takes

static pthread_mutex_t g_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t g_changed = PTHREAD_COND_INITIALIZER;
static int64_t g_now_ns, g_limit_ns, g_waiting_for_ns;
static int g_ended, g_waiting;

// ---- the virtual clock: the sampler sleeps until the test lets time go past its deadline

int64_t standin_now_ns(void) {
  pthread_mutex_lock(&g_mutex);
  int64_t now = g_now_ns;
  pthread_mutex_unlock(&g_mutex);
  return now;
}

int standin_sleep_until_ns(int64_t deadline_ns) {
  pthread_mutex_lock(&g_mutex);
  g_waiting = 1;
  g_waiting_for_ns = deadline_ns;
  pthread_cond_broadcast(&g_changed);
  while (!g_ended && g_limit_ns < deadline_ns) pthread_cond_wait(&g_changed, &g_mutex);
  g_waiting = 0;
  int ended = g_ended;
  if (!ended && g_now_ns < deadline_ns) g_now_ns = deadline_ns;
  pthread_mutex_unlock(&g_mutex);
  return ended;
}

// Lets the sampler run until it waits for a time after t_ns; it is then t_ns.
void standin_advance_to(int64_t t_ns) {
  pthread_mutex_lock(&g_mutex);
  g_limit_ns = t_ns;
  pthread_cond_broadcast(&g_changed);
  while (!(g_waiting && g_waiting_for_ns > t_ns)) pthread_cond_wait(&g_changed, &g_mutex);
  if (g_now_ns < t_ns) g_now_ns = t_ns;
  pthread_mutex_unlock(&g_mutex);
}

// No more sleeping: the sampler takes its last sample when it is stopped.
void standin_end(void) {
  pthread_mutex_lock(&g_mutex);
  g_ended = 1;
  pthread_cond_broadcast(&g_changed);
  pthread_mutex_unlock(&g_mutex);
}

// ---- the script

void standin_reset(unsigned count, int64_t now_ns) {
  for (int i = 0; i < GPUS; ++i) free(g_gpus[i].edges_ns), free(g_gpus[i].watts), free(g_gpus[i].joules);
  g_clock_count = 0;
  g_driver = kDriver;
  memset(g_gpus, 0, sizeof(g_gpus));
  g_count = count;
  g_failing_count = g_ended = g_waiting = g_hang = 0;
  g_call_ns = 0;
  g_now_ns = g_limit_ns = now_ns;
}

void standin_gpu(unsigned i, const char* name, double limit_w, int mig) {
  strncpy(g_gpus[i].name, name, sizeof(g_gpus[i].name) - 1);
  g_gpus[i].limit_w = limit_w;
  g_gpus[i].mig = mig;
  g_gpus[i].reset_ns = -1;
}
void standin_old_driver(int old) { g_driver = old ? "575.57.08" : kDriver; }
void standin_gpm(unsigned i, int there) { g_gpus[i].gpm = there; }
int standin_gpm_samples(void) { return g_gpm_samples; }  // allocated and not freed

// From edges_ns[k] to edges_ns[k + 1] the GPU draws watts[k]; before and after, what it draws next to it.
void standin_schedule(unsigned i, int64_t segments, const int64_t* edges_ns, const double* watts) {
  Gpu* g = &g_gpus[i];
  g->segments = segments;
  g->edges_ns = malloc((size_t)(segments + 1) * sizeof(int64_t));
  g->watts = malloc((size_t)segments * sizeof(double));
  g->joules = malloc((size_t)(segments + 1) * sizeof(double));
  memcpy(g->edges_ns, edges_ns, (size_t)(segments + 1) * sizeof(int64_t));
  memcpy(g->watts, watts, (size_t)segments * sizeof(double));
  g->joules[0] = 1e-9 * (double)edges_ns[0] * watts[0];
  for (int64_t k = 0; k < segments; ++k)
    g->joules[k + 1] = g->joules[k] + 1e-9 * (double)(edges_ns[k + 1] - edges_ns[k]) * watts[k];
}
// For a while the SM clock is this, lowered for these reasons; else it is 1980 MHz under the power cap.
void standin_clock(int gpu, unsigned mhz, unsigned long long reasons, int64_t from_ns, int64_t until_ns) {
  g_clocks[g_clock_count++] = (Clock){gpu, mhz, reasons, from_ns, until_ns};
}
void standin_load(unsigned i, double low_w, double high_w, double duty, int64_t period_ns, int64_t phase_ns) {
  Gpu* g = &g_gpus[i];
  g->low_w = low_w, g->high_w = high_w, g->duty = duty, g->period_ns = period_ns, g->phase_ns = phase_ns;
}
void standin_sensor(unsigned i, int64_t update_ns, int64_t window_ns, int64_t phase_ns) {
  Gpu* g = &g_gpus[i];
  g->update_ns = update_ns, g->window_ns = window_ns, g->sensor_phase_ns = phase_ns;
}
void standin_counter(unsigned i, int64_t update_ns, int64_t phase_ns, int64_t reset_ns) {
  Gpu* g = &g_gpus[i];
  g->counter_ns = update_ns, g->counter_phase_ns = phase_ns, g->reset_ns = reset_ns;
}
void standin_fail(int gpu, const char* function, int field, int code, int64_t from_ns, int64_t until_ns) {
  Failing* f = &g_failing[g_failing_count++];
  f->gpu = gpu, f->field = field, f->code = code, f->from_ns = from_ns, f->until_ns = until_ns;
  strncpy(f->function, function, sizeof(f->function) - 1);
  f->function[sizeof(f->function) - 1] = 0;
}
void standin_call_takes(int64_t ns) { g_call_ns = ns; }
// While on, a read does not return.
void standin_hang(int on) {
  pthread_mutex_lock(&g_mutex);
  g_hang = on;
  pthread_cond_broadcast(&g_changed);
  pthread_mutex_unlock(&g_mutex);
}

// Energy in joules since virtual time 0; t_ns may be negative.
double standin_true_energy_j(unsigned i, int64_t t_ns) {
  const Gpu* g = &g_gpus[i];
  if (g->segments) {
    int64_t low = 0, high = g->segments;  // the segment that holds t_ns, or the one next to it
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (g->edges_ns[middle] <= t_ns) low = middle; else high = middle;
    }
    return g->joules[low] + 1e-9 * (double)(t_ns - g->edges_ns[low]) * g->watts[low];
  }
  const double high_ns = g->duty * (double)g->period_ns;
  const double since = (double)(t_ns - g->phase_ns), start = (double)-g->phase_ns;
  const double periods = floor(since / (double)g->period_ns), periods0 = floor(start / (double)g->period_ns);
  const double in = fmin(since - periods * (double)g->period_ns, high_ns);
  const double in0 = fmin(start - periods0 * (double)g->period_ns, high_ns);
  const double high = (periods - periods0) * high_ns + in - in0;
  return 1e-9 * ((double)t_ns * g->low_w + high * (g->high_w - g->low_w));
}

// ---- the library

static int64_t last_update(int64_t now, int64_t period, int64_t phase) {
  int64_t n = (now - phase) / period;
  if ((now - phase) % period < 0) --n;
  return n * period + phase;
}

static double mean_w(unsigned i, int64_t begin, int64_t end) {
  return (standin_true_energy_j(i, end) - standin_true_energy_j(i, begin)) / (1e-9 * (double)(end - begin));
}

static unsigned instant_mw(unsigned i, int64_t now) {
  const Gpu* g = &g_gpus[i];
  const int64_t u = last_update(now, g->update_ns, g->sensor_phase_ns);
  return (unsigned)(1e3 * mean_w(i, u - g->window_ns, u));
}

// A second's worth of what the sensor saw.
static unsigned average_mw(unsigned i, int64_t now) {
  const Gpu* g = &g_gpus[i];
  const int64_t n = 1000000000 / g->update_ns;
  double sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += instant_mw(i, now - k * g->update_ns);
  return (unsigned)(sum / (double)n);
}

static unsigned long long energy_mj(unsigned i, int64_t now) {
  const Gpu* g = &g_gpus[i];
  const int64_t u = last_update(now, g->counter_ns, g->counter_phase_ns);
  double e = standin_true_energy_j(i, u);
  if (g->reset_ns >= 0 && u >= g->reset_ns) e -= standin_true_energy_j(i, g->reset_ns);
  return (unsigned long long)(1e3 * e);
}

#define POWER_CAP 4ull

static const Clock* clock_at(int gpu, int64_t now) {
  for (int k = 0; k < g_clock_count; ++k)
    if (g_clocks[k].gpu == gpu && now >= g_clocks[k].from_ns && now < g_clocks[k].until_ns) return &g_clocks[k];
  return NULL;
}

// Time until now during which the clock was lowered for this reason.
static unsigned long long lowered_ns(int gpu, unsigned long long reason, int64_t now) {
  int64_t total = reason == POWER_CAP ? now : 0;
  for (int k = 0; k < g_clock_count; ++k) {
    const Clock* c = &g_clocks[k];
    const int64_t until = now < c->until_ns ? now : c->until_ns;
    if (c->gpu != gpu || until <= c->from_ns) continue;
    if (reason == POWER_CAP) total -= until - c->from_ns;
    if (c->reasons & reason) total += until - c->from_ns;
  }
  return (unsigned long long)total;
}

static int failing(int gpu, const char* function, int field, int64_t now) {
  for (int k = 0; k < g_failing_count; ++k) {
    const Failing* f = &g_failing[k];
    if ((f->gpu == gpu || f->gpu < 0) && f->field == field && now >= f->from_ns && now < f->until_ns &&
        (strcmp(f->function, function) == 0 || strcmp(f->function, "*") == 0))
      return f->code;
  }
  return 0;
}

// Time passes, then the call fails as scripted or goes on. Devices are numbered from 1.
static int64_t enter(void) {
  pthread_mutex_lock(&g_mutex);
  while (g_hang) pthread_cond_wait(&g_changed, &g_mutex);
  g_now_ns += g_call_ns;
  int64_t now = g_now_ns;
  pthread_mutex_unlock(&g_mutex);
  return now;
}
#define ENTER(function)                                                 \
  const int i = (int)(intptr_t)device - 1;                              \
  const int64_t now = enter();                                          \
  const int code = failing(i, #function, 0, now);                       \
  if (code) return code

typedef void* Device;
typedef struct {
  unsigned field, scope;
  long long timestamp, latency;
  int type, result;
  union {
    double d;
    unsigned u;
    unsigned long long ull;
  } value;
} FieldValue;

int nvmlInit_v2(void) { return failing(-1, "nvmlInit_v2", 0, g_now_ns); }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) {
  switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
  }
}
int nvmlSystemGetDriverVersion(char* version, unsigned n) {
  strncpy(version, g_driver, n);
  return 0;
}
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = g_count, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, Device* device) {
  *device = (Device)(intptr_t)(i + 1);
  return failing((int)i, "nvmlDeviceGetHandleByIndex_v2", 0, g_now_ns);
}
int nvmlDeviceGetName(Device device, char* name, unsigned n) {
  ENTER(nvmlDeviceGetName);
  strncpy(name, g_gpus[i].name, n);
  return 0;
}
int nvmlDeviceGetUUID(Device device, char* uuid, unsigned n) {
  ENTER(nvmlDeviceGetUUID);
  strncpy(uuid, "GPU-00000000", n);
  uuid[11] = (char)('0' + i);
  return 0;
}
int nvmlDeviceGetMigMode(Device device, unsigned* current, unsigned* pending) {
  ENTER(nvmlDeviceGetMigMode);
  *current = *pending = (unsigned)g_gpus[i].mig;
  return 0;
}
#ifndef OMIT_nvmlDeviceGetEnforcedPowerLimit
int nvmlDeviceGetEnforcedPowerLimit(Device device, unsigned* mw) {
  ENTER(nvmlDeviceGetEnforcedPowerLimit);
  *mw = (unsigned)(1e3 * g_gpus[i].limit_w);
  return 0;
}
#endif
#ifndef OMIT_nvmlDeviceGetFieldValues
int nvmlDeviceGetFieldValues(Device device, int n, FieldValue* values) {
  ENTER(nvmlDeviceGetFieldValues);
  for (int k = 0; k < n; ++k) {
    FieldValue* v = &values[k];
    v->result = failing(i, "nvmlDeviceGetFieldValues", (int)v->field, now);
    if (v->result) continue;
    v->type = 1;
    v->value.u = 7;
    if (v->field >= 269 && g_driver != kDriver) continue;  // a setting, in the old one
    switch (v->field) {
      case 74: v->type = 3, v->value.ull = lowered_ns(i, POWER_CAP, now); break;
      case 76: v->type = 3, v->value.ull = lowered_ns(i, 0x10, now); break;
      case 269: v->type = 3, v->value.ull = lowered_ns(i, 0x20, now); break;
      case 270: v->type = 3, v->value.ull = lowered_ns(i, 0x40, now); break;
      case 271: v->type = 3, v->value.ull = lowered_ns(i, 0x80, now); break;
      case 82: v->value.u = 70; break;
      case 83: v->type = 3, v->value.ull = energy_mj((unsigned)i, now); break;
      case 185: v->value.u = average_mw((unsigned)i, now); break;
      case 186: v->value.u = instant_mw((unsigned)i, now); break;
      case 197: v->type = 3, v->value.ull = (unsigned long long)(now / 1000); break;
      case 198: v->type = 0, v->value.d = (double)now / 500.0; break;
      default: v->result = 3;
    }
  }
  return 0;
}
#endif
#ifndef OMIT_nvmlDeviceGetPowerUsage
int nvmlDeviceGetPowerUsage(Device device, unsigned* mw) {
  ENTER(nvmlDeviceGetPowerUsage);
  *mw = average_mw((unsigned)i, now);
  return 0;
}
#endif
#ifndef OMIT_nvmlDeviceGetTotalEnergyConsumption
int nvmlDeviceGetTotalEnergyConsumption(Device device, unsigned long long* mj) {
  ENTER(nvmlDeviceGetTotalEnergyConsumption);
  *mj = energy_mj((unsigned)i, now);
  return 0;
}
#endif
#ifndef OMIT_nvmlDeviceGetUtilizationRates
int nvmlDeviceGetUtilizationRates(Device device, unsigned* rates) {
  ENTER(nvmlDeviceGetUtilizationRates);
  if (g_gpus[i].mig) return 3;
  rates[0] = 90, rates[1] = 40;
  return 0;
}
#endif
int nvmlDeviceGetClockInfo(Device device, int type, unsigned* mhz) {
  ENTER(nvmlDeviceGetClockInfo);
  const Clock* c = clock_at(i, now);
  *mhz = type != 1 ? 2619 : c ? c->mhz : 1980;
  return 0;
}
int nvmlDeviceGetTemperature(Device device, int sensor, unsigned* celsius) {
  ENTER(nvmlDeviceGetTemperature);
  *celsius = sensor == 0 ? 55 : 0;
  return 0;
}
#ifndef OMIT_nvmlDeviceGetCurrentClocksEventReasons
int nvmlDeviceGetCurrentClocksEventReasons(Device device, unsigned long long* bits) {
  ENTER(nvmlDeviceGetCurrentClocksEventReasons);
  const Clock* c = clock_at(i, now);
  *bits = c ? c->reasons : POWER_CAP;
  return 0;
}
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long* bits) {
  ENTER(nvmlDeviceGetCurrentClocksThrottleReasons);
  *bits = 8;
  return 0;
}
int nvmlDeviceGetMemoryInfo(Device device, unsigned long long* memory) {
  ENTER(nvmlDeviceGetMemoryInfo);
  memory[0] = 80ull << 30, memory[2] = 12ull << 30, memory[1] = memory[0] - memory[2];
  return 0;
}

typedef struct {
  int gpu;
  int64_t taken_ns;
} GpmSample;
typedef struct {
  unsigned id;
  int result;
  double value;
  char* text[3];
} GpmMetric;
typedef struct {
  unsigned version, count;
  GpmSample *first, *second;
  GpmMetric metrics[];
} GpmMetricsGet;

#ifndef OMIT_nvmlGpmQueryDeviceSupport
int nvmlGpmQueryDeviceSupport(Device device, unsigned* support) {
  ENTER(nvmlGpmQueryDeviceSupport);
  if (support[0] != 1) return 25;
  support[1] = (unsigned)g_gpus[i].gpm;
  return 0;
}
#endif
int nvmlGpmSampleAlloc(GpmSample** sample) {
  *sample = calloc(1, sizeof(GpmSample));
  return ++g_gpm_samples, 0;
}
int nvmlGpmSampleFree(GpmSample* sample) { return free(sample), --g_gpm_samples, 0; }
int nvmlGpmSampleGet(Device device, GpmSample* sample) {
  ENTER(nvmlGpmSampleGet);
  if (g_gpus[i].mig) return 3;
  sample->gpu = i, sample->taken_ns = now;
  return 0;
}
int nvmlGpmMetricsGet(GpmMetricsGet* get) {
  const int i = get->first->gpu;
  const int64_t now = enter(), from = get->first->taken_ns, until = get->second->taken_ns;
  const int code = failing(i, "nvmlGpmMetricsGet", 0, now);
  if (code) return code;
  if (get->version != 1) return 25;
  const Gpu* g = &g_gpus[i];
  const double activity = until - from <= 100000000 ? 0.123 :
      g->high_w == g->low_w ? 1 : fmax(0, (mean_w((unsigned)i, from, until) - g->low_w) / (g->high_w - g->low_w));
  for (unsigned k = 0; k < get->count; ++k) {
    GpmMetric* m = &get->metrics[k];
    m->result = failing(i, "nvmlGpmMetricsGet", (int)m->id, now);
    switch (m->id) {
      case 2: m->value = 90 * activity; break;
      case 5: m->value = 50 * activity; break;
      case 10: m->value = 40 * activity; break;
      case 20: m->value = 1000 * activity; break;
      case 21: m->value = 2000 * activity; break;
      case 60: m->value = 3000 * activity; break;
      case 61: m->value = 4000 * activity; break;
      default: m->result = 3;
    }
  }
  return 0;
}
