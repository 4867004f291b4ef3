/* A driver without a card, for tests: what the program asks of libcuda, done by the processor.
 *
 * Work is queued and runs only when somebody waits, as late as a real card may run it. So a copy that reads
 * memory which was changed too early is seen. What a recording cannot hold breaks it, as in the real driver.
 *
 * Set from outside: FAKE_VERSION (13000), FAKE_CAPABILITY (80), FAKE_MEMORY (268435456), FAKE_CARDS (1). */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int result;
enum { SUCCESS = 0, INVALID = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, BAD_DEVICE = 101, NOT_FOUND = 500,
       ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901 };

static long setting(const char *name, long otherwise) {
  const char *value = getenv(name);
  return value ? atol(value) : otherwise;
}

/* Work. A kernel adds one to each number. */
struct work { int kernel; void *to; const void *from; size_t bytes; };
struct list { struct work *work; size_t count, room; };

static struct list queue, recorded;
static size_t done;
static int recording, broken, stopped;
static size_t taken, pinned;

static void push(struct list *list, struct work work) {
  if (list->count == list->room) {
    list->room = list->room ? 2 * list->room : 64;
    list->work = realloc(list->work, list->room * sizeof work);
  }
  list->work[list->count++] = work;
}

static result run(size_t until) {
  for (; done < until && !stopped; done++) {
    struct work *work = &queue.work[done];
    if (work->kernel == 2) { stopped = 1; break; }
    if (work->kernel) for (size_t i = 0; i < work->bytes; i++) ((float *)work->to)[i] += 1;
    else memmove(work->to, work->from, work->bytes);
  }
  return stopped ? ILLEGAL_ADDRESS : SUCCESS;
}

static result add(struct work work, int host) {
  if (stopped) return ILLEGAL_ADDRESS;
  if (!recording) { push(&queue, work); return SUCCESS; }
  if (host) fprintf(stderr, "a recording holds a copy from the processor\n"), abort();
  push(&recorded, work);
  return SUCCESS;
}

static result wait_for(size_t until) {
  if (recording) { broken = 1; return CAPTURE_UNSUPPORTED; }
  return run(until);
}

result cuInit(unsigned flags) { return setting("FAKE_CARDS", 1) ? SUCCESS : NO_DEVICE; }
result cuDriverGetVersion(int *v) { *v = setting("FAKE_VERSION", 13000); return SUCCESS; }
result cuDeviceGetCount(int *n) { *n = setting("FAKE_CARDS", 1); return SUCCESS; }
result cuDeviceGet(int *device, int n) { *device = n; return n < setting("FAKE_CARDS", 1) ? SUCCESS : BAD_DEVICE; }
result cuDeviceGetName(char *to, int room, int d) { snprintf(to, room, "Fake Card %d", d); return SUCCESS; }
result cuDeviceTotalMem_v2(size_t *n, int d) { *n = setting("FAKE_MEMORY", 256 << 20); return SUCCESS; }
result cuDeviceGetAttribute(int *value, int which, int d) {
  long capability = setting("FAKE_CAPABILITY", 80);
  *value = which == 75 ? capability / 10 : which == 76 ? capability % 10 : 0;
  return SUCCESS;
}
result cuGetErrorString(result r, const char **text) { *text = "the fake driver refuses"; return SUCCESS; }
result cuDevicePrimaryCtxRetain(void **context, int d) { *context = &queue; return SUCCESS; }
result cuDevicePrimaryCtxRelease_v2(int d) {
  if (taken || pinned) fprintf(stderr, "%zu bytes of the card and %zu locked ones are left\n", taken, pinned), abort();
  return SUCCESS;
}
result cuCtxSetCurrent(void *context) { return stopped ? ILLEGAL_ADDRESS : SUCCESS; }
result cuStreamCreate(void **stream, unsigned flags) { *stream = &queue; return SUCCESS; }
result cuStreamDestroy_v2(void *stream) { return SUCCESS; }
result cuStreamSynchronize(void *stream) { return wait_for(queue.count); }
result cuModuleLoadData(void **module, const void *image) {
  *module = &recorded;
  return (uintptr_t)image % 8 ? INVALID : SUCCESS;
}
result cuModuleUnload(void *module) { return SUCCESS; }
result cuModuleGetFunction(void **function, void *module, const char *name) {
  *function = (void *)(strcmp(name, "stop") ? 1L : 2L);
  return strcmp(name, "missing") ? SUCCESS : NOT_FOUND;
}
static int shared_allowed = 48 << 10;
result cuFuncSetAttribute(void *f, int which, int value) { shared_allowed = value; return which == 8 ? SUCCESS : INVALID; }
result cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                      unsigned shared, void *stream, void **params, void **extra) {
  struct { uint64_t address; uint64_t count; } p;
  if (!gx || !gy || !gz || !bx || !by || !bz || (int)shared > shared_allowed) return INVALID;
  memcpy(&p, params[0], sizeof p);
  return add((struct work){ (int)(long)function, (void *)p.address, 0, p.count }, 0);
}

/* Each block knows its size. */
result cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  if (stopped) return ILLEGAL_ADDRESS;
  if (taken + bytes > (size_t)setting("FAKE_MEMORY", 256 << 20)) return OUT_OF_MEMORY;
  char *block = aligned_alloc(256, (bytes + 511) / 256 * 256);
  memcpy(block, &bytes, sizeof bytes);
  memset(block + 256, 0xAA, bytes);
  taken += bytes;
  *address = (uint64_t)(block + 256);
  return SUCCESS;
}
result cuMemFree_v2(uint64_t address) {
  size_t bytes;
  if (recording) fprintf(stderr, "memory is given back during a recording\n"), abort();
  run(queue.count);
  memcpy(&bytes, (char *)address - 256, sizeof bytes);
  taken -= bytes;
  free((char *)address - 256);
  return SUCCESS;
}
result cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  if (getenv("FAKE_NO_LOCKED")) return OUT_OF_MEMORY;
  pinned++;
  *memory = malloc(bytes);
  return SUCCESS;
}
result cuMemFreeHost(void *memory) { pinned--; free(memory); return SUCCESS; }
result cuMemGetInfo_v2(size_t *free, size_t *all) {
  *all = setting("FAKE_MEMORY", 256 << 20);
  *free = *all - taken;
  return SUCCESS;
}
/* An event is a place in the queue. */
result cuEventCreate(size_t **event, unsigned flags) { *event = calloc(1, sizeof **event); return SUCCESS; }
result cuEventRecord(size_t *event, void *stream) { *event = queue.count; return SUCCESS; }
result cuEventSynchronize(size_t *event) { return wait_for(*event); }
result cuEventDestroy_v2(size_t *event) { free(event); return SUCCESS; }

result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  return add((struct work){ 0, (void *)to, from, bytes }, 1);
}
result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  return add((struct work){ 0, to, (void *)from, bytes }, 1);
}
result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
  return add((struct work){ 0, (void *)to, (void *)from, bytes }, 0);
}

static size_t graphs;
result cuStreamBeginCapture_v2(void *stream, int mode) {
  if (mode != 2) fprintf(stderr, "taking memory would break this recording\n"), abort();
  recorded = (struct list){ 0 };
  recording = 1, broken = 0;
  return SUCCESS;
}
result cuStreamEndCapture(void *stream, struct list **graph) {
  *graph = 0;
  recording = 0;
  if (broken) return CAPTURE_INVALIDATED;
  *graph = malloc(sizeof **graph);
  **graph = recorded;
  graphs++;
  return SUCCESS;
}
result cuGraphGetNodes(struct list *graph, void *nodes, size_t *count) { *count = graph->count; return SUCCESS; }
result cuGraphInstantiateWithFlags(struct list **ready, struct list *graph, unsigned long long flags) {
  if (getenv("FAKE_NO_GRAPHS")) return OUT_OF_MEMORY;
  *ready = malloc(sizeof **ready);
  **ready = *graph;
  (*ready)->work = malloc(graph->count * sizeof *graph->work + 1);
  memcpy((*ready)->work, graph->work, graph->count * sizeof *graph->work);
  return SUCCESS;
}
result cuGraphDestroy(struct list *graph) { free(graph->work); free(graph); return SUCCESS; }
result cuGraphLaunch(struct list *ready, void *stream) {
  for (size_t i = 0; i < ready->count; i++) push(&queue, ready->work[i]);
  return stopped ? ILLEGAL_ADDRESS : SUCCESS;
}
result cuGraphExecDestroy(struct list *ready) { free(ready->work); free(ready); return SUCCESS; }
