// What driver.py calls of libcuda, over this machine's memory and the emulated kernels: so that its calls are made at all where
// there is no GPU. Signatures and error codes are those of cuda.h. As a device would, it refuses addresses that are not its own.
// With RUNS_NOTHING a launch is checked and forgotten, so that what is left is the caller's time (tests/bench/bench_launch.py).
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <string>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, INVALID_CONTEXT = 201, ILLEGAL_ADDRESS = 700 };
typedef uint64_t CUdeviceptr;
static const size_t MEMORY = 64 << 20;
static std::map<CUdeviceptr, size_t> taken;
static void *kernels, *current;
static int context;

static bool ours(CUdeviceptr from, size_t size) {
    auto after = taken.upper_bound(from);
    if (after == taken.begin()) return false;
    --after;
    return from + size <= after->first + after->second;
}

extern "C" {
int cuInit(unsigned flags) {
#ifdef RUNS_NOTHING
    kernels = &context;
#else
    kernels = dlopen(getenv("EMULATED_KERNELS"), RTLD_NOW);
#endif
    taken.clear(); // each test opens the device anew
    return flags == 0 && kernels ? SUCCESS : INVALID_VALUE;
}
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = 7, ordinal == 0 ? SUCCESS : INVALID_VALUE; }
int cuDevicePrimaryCtxRetain(void **made, int device) { return *made = &context, device == 7 ? SUCCESS : INVALID_VALUE; }
int cuCtxSetCurrent(void *given) { return current = given, given == &context ? SUCCESS : INVALID_CONTEXT; }
int cuDeviceGetAttribute(int *value, int what, int device) {
    *value = what == 16 ? 3 : what == 75 ? 8 : what == 76 ? 6 : -1;
    return device == 7 ? SUCCESS : INVALID_VALUE;
}
int cuModuleLoadData(void **module, const void *image) {
    *module = strdup((const char *)image);
    return current ? SUCCESS : INVALID_CONTEXT;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
#ifdef RUNS_NOTHING
    *function = kernels;
#else
    *function = dlsym(kernels, (std::string("emulate_") + name).c_str());
#endif
    return *function && module ? SUCCESS : NOT_FOUND;
}
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared_bytes, void *stream, void **arguments, void **extra) {
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || shared_bytes || stream || extra) return INVALID_VALUE;
#ifndef RUNS_NOTHING
    ((void (*)(const unsigned *, const unsigned *, void **))function)(grid, block, arguments);
#endif
    return SUCCESS;
}
int cuMemAlloc_v2(CUdeviceptr *address, size_t size) {
    size_t all = size;
    for (auto &one : taken) all += one.second;
    if (size == 0) return INVALID_VALUE;
    if (all > MEMORY) return OUT_OF_MEMORY;
    *address = (CUdeviceptr)aligned_alloc(512, (size + 511) / 512 * 512);
    memset((void *)*address, 0xaa, size);
    taken[*address] = size;
    return SUCCESS;
}
int cuMemFree_v2(CUdeviceptr address) {
    if (!taken.erase(address)) return INVALID_VALUE;
    free((void *)address);
    return SUCCESS;
}
int cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t size) {
    return ours(to, size) ? memset((void *)to, value, size), SUCCESS : ILLEGAL_ADDRESS;
}
int cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
    if (to % 4 || !ours(to, 4 * count)) return ILLEGAL_ADDRESS;
    for (size_t i = 0; i < count; i++) ((unsigned *)to)[i] = value;
    return SUCCESS;
}
int cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size) {
    return ours(to, size) ? memcpy((void *)to, from, size), SUCCESS : ILLEGAL_ADDRESS;
}
int cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size) {
    return ours(from, size) ? memcpy(to, (void *)from, size), SUCCESS : ILLEGAL_ADDRESS;
}
int cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size) {
    return ours(to, size) && ours(from, size) ? memcpy((void *)to, (void *)from, size), SUCCESS : ILLEGAL_ADDRESS;
}
int cuCtxSynchronize() { return SUCCESS; }
int cuGetErrorName(int error, const char **name) {
    static const std::map<int, const char *> names = {{INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
                                                      {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
                                                      {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
                                                      {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
                                                      {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"}};
    auto found = names.find(error);
    return *name = found == names.end() ? nullptr : found->second, found == names.end() ? INVALID_VALUE : SUCCESS;
}
}
