// A GPU in so far as the kernels of numerics/cuda use one: a block's threads are fibers of one thread of the CPU, and take
// turns at barriers and shuffles. Slow and obvious; for comparing bits where there is no GPU. Kernels see what lane.h needs
// of CUDA: threadIdx and its kin, __syncthreads, __shfl_*_sync of whole warps, atomicAdd, a few intrinsics.
//
// A block whose threads wait for each other at different places would hang on a GPU; here the process ends with a message.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <tuple>
#include <ucontext.h>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __launch_bounds__(...)
#define UNROLL

struct Place {
    unsigned x, y, z;
};
inline Place threadIdx, blockIdx, blockDim, gridDim;

struct Barrier {
    unsigned arrived = 0, passed = 0;
};
struct Copy {
    void *to;
    const void *from;
    unsigned group;
};
struct Fiber {
    ucontext_t context; // where it begins
    jmp_buf here;       // where it goes on
    Place thread;
    bool begun, done;
    unsigned shuffles, groups;
    std::deque<Copy> copies;
};
struct Block {
    enum { MOST = 1024, STACK = 1 << 16, WARP = 32 };
    std::vector<Fiber> fibers{MOST};
    std::vector<char> stacks = std::vector<char>((size_t)MOST * STACK);
    ucontext_t outside;
    unsigned count, now, left, idle;
    Barrier all, warps[MOST / WARP];
    uint64_t shuffled[MOST / WARP][2][WARP];
    uint32_t shown[MOST / WARP][2][6 * WARP];
    void (*body)(void *);
    void *argument;
};
inline Block block;

// A jump saves no signal mask, which is two calls of the system less than swapcontext; the stacks are ucontext's.
inline void go_on(Fiber &fiber) {
    threadIdx = fiber.thread;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    setcontext(&fiber.context);
}

// On to the next fiber that has not ended. `moved`: the one that goes did something since it came.
inline void turn(bool moved) {
    block.idle = moved ? 0 : block.idle + 1;
    if (block.idle > 2 * block.count) {
        fprintf(stderr, "emulator: %u threads wait for each other at different places\n", block.left);
        abort();
    }
    const unsigned from = block.now;
    do block.now = (block.now + 1) % block.count;
    while (block.fibers[block.now].done);
    if (block.now == from) return;
    if (_setjmp(block.fibers[from].here) == 0) go_on(block.fibers[block.now]);
}
inline void wait(Barrier &barrier, unsigned members) {
    const unsigned passed = barrier.passed;
    if (++barrier.arrived == members) {
        barrier.arrived = 0;
        barrier.passed++;
        return;
    }
    for (bool moved = true; barrier.passed == passed; moved = false) turn(moved);
}
inline void __syncthreads() { wait(block.all, block.count); }

template <class T> inline T shuffle(T value, int from) {
    const unsigned warp = block.now / Block::WARP, turns = block.fibers[block.now].shuffles++ % 2;
    uint64_t *slots = block.shuffled[warp][turns];
    memcpy(&slots[block.now % Block::WARP], &value, sizeof value);
    wait(block.warps[warp], Block::WARP);
    memcpy(&value, &slots[from], sizeof value);
    return value;
}
template <class T> inline T __shfl_sync(unsigned, T value, int from) { return shuffle(value, from); }
template <class T> inline T __shfl_down_sync(unsigned, T value, int by) {
    const int lane = block.now % Block::WARP;
    return shuffle(value, lane + by < Block::WARP ? lane + by : lane);
}
inline void __syncwarp() { wait(block.warps[block.now / Block::WARP], Block::WARP); }
template <class T> inline T atomicAdd(T *place, T more) {
    const T before = *place;
    *place = before + more;
    return before;
}

template <class T> inline T atomicMax(T *place, T other) {
    const T before = *place;
    if (other > before) *place = other;
    return before;
}

// Matrix units: a warp's threads show each other what they hold, meet once, and each takes the products of its own sums.
template <int WORDS> inline const uint32_t *show(const uint32_t (&mine)[WORDS]) {
    const unsigned warp = block.now / Block::WARP, turns = block.fibers[block.now].shuffles++ % 2;
    uint32_t *slots = block.shown[warp][turns];
    memcpy(&slots[block.now % Block::WARP * WORDS], mine, sizeof mine);
    wait(block.warps[warp], Block::WARP);
    return slots;
}
inline int32_t products_of_bytes(uint32_t x, uint32_t y) {
    int32_t sum = 0;
    for (int byte = 0; byte < 32; byte += 8) sum += (int8_t)(x >> byte) * (int8_t)(y >> byte);
    return sum;
}
inline void mma_16x8x32(int32_t (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const uint32_t *shown = show({a[0], a[1], a[2], a[3], b0, b1});
    const unsigned lane = block.now % Block::WARP;
    for (unsigned e = 0; e < 4; e++)
        for (unsigned t = 0; t < 4; t++) { // the threads that hold the row's and the column's ks
            const uint32_t *row = shown + (lane / 4 * 4 + t) * 6, *column = shown + ((lane % 4 * 2 + e % 2) * 4 + t) * 6;
            c[e] += products_of_bytes(row[e / 2], column[4]) + products_of_bytes(row[e / 2 + 2], column[5]);
        }
}
inline void mma_8x8x16(int32_t &c0, int32_t &c1, uint32_t a, uint32_t b) {
    const uint32_t *shown = show({a, b});
    const unsigned lane = block.now % Block::WARP;
    for (unsigned t = 0; t < 4; t++) {
        const uint32_t row = shown[(lane / 4 * 4 + t) * 2];
        c0 += products_of_bytes(row, shown[(lane % 4 * 8 + t) * 2 + 1]);
        c1 += products_of_bytes(row, shown[(lane % 4 * 8 + 4 + t) * 2 + 1]);
    }
}

// Copies beside the work arrive as late as they may: when their group is waited for.
inline void cp_async_16(void *shared, const void *global) {
    Fiber &fiber = block.fibers[block.now];
    fiber.copies.push_back({shared, global, fiber.groups});
}
inline void cp_async_commit_group() { block.fibers[block.now].groups++; }
template <int GROUPS> inline void cp_async_wait_group() {
    Fiber &fiber = block.fibers[block.now];
    while (!fiber.copies.empty() && fiber.copies.front().group + GROUPS < fiber.groups) {
        memcpy(fiber.copies.front().to, fiber.copies.front().from, 16);
        fiber.copies.pop_front();
    }
}

inline uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __uint_as_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return (uint32_t)(((uint64_t)a * b) >> 32); }

inline void fiber_body() {
    block.body(block.argument);
    block.fibers[block.now].done = true;
    if (--block.left == 0) setcontext(&block.outside);
    turn(true);
}

// Runs a kernel over a grid; arguments as cuLaunchKernel takes them.
template <class... A> inline void emulate(void (*kernel)(A...), const Place *grid, const Place *threads, void **arguments) {
    struct Call {
        void (*kernel)(A...);
        std::tuple<A...> arguments;
    };
    Call call = {kernel, [&]<size_t... I>(std::index_sequence<I...>) {
                     return std::tuple<A...>{*(A *)arguments[I]...};
                 }(std::index_sequence_for<A...>())};
    block.argument = &call;
    block.body = [](void *it) { std::apply(((Call *)it)->kernel, ((Call *)it)->arguments); };
    gridDim = *grid;
    blockDim = *threads;
    block.count = threads->x * threads->y * threads->z;
    for (blockIdx.z = 0; blockIdx.z < grid->z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid->y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid->x; blockIdx.x++) {
                block.left = block.count;
                block.idle = 0;
                for (unsigned i = 0; i < block.count; i++) {
                    Fiber &fiber = block.fibers[i];
                    fiber.begun = fiber.done = false;
                    fiber.shuffles = fiber.groups = 0;
                    fiber.copies.clear();
                    fiber.thread = {i % threads->x, i / threads->x % threads->y, i / threads->x / threads->y};
                    getcontext(&fiber.context);
                    fiber.context.uc_stack = {&block.stacks[(size_t)i * Block::STACK], 0, Block::STACK};
                    fiber.context.uc_link = nullptr;
                    makecontext(&fiber.context, fiber_body, 0);
                }
                block.now = 0;
                threadIdx = block.fibers[0].thread;
                block.fibers[0].begun = true;
                swapcontext(&block.outside, &block.fibers[0].context);
            }
}
#define EMULATED(kernel)                                                                                               \
    extern "C" __attribute__((visibility("default"))) void emulate_##kernel(const Place *grid, const Place *threads,   \
                                                                            void **arguments) {                        \
        emulate(kernel, grid, threads, arguments);                                                                     \
    }
