/* S and D on a GPU (docs/numerics/reductions.md, section 1): the law's 32 lanes are the 32 threads of a warp.
 *
 * Thread l of a warp adds the numbers l, l + 32, … of a chunk of 4096; then the halving tree folds the upper half of the lanes
 * onto the lower, five times. Which warp does which chunk of which list is free.
 *
 * Next in the flow: reduce.cu, softmax.cu, norms.cu, losses.cu. */
#ifndef TOLSEY_CUDA_WARPS_H
#define TOLSEY_CUDA_WARPS_H

#include "lane.h"

#include "functions.h"

enum { LANES = 32, CHUNK = 4096, MAX_RANK = 8, MAX_CHUNKS = 4096 };

/* ---------------------------------------------------------------- lists: which numbers are reduced together */

struct dim {
    int64_t size, stride;
};

/* As native/lists.h has it; launches.py fills it in. Dims of one kind that are neighbours are one. */
struct lists {
    int64_t n;     /* numbers of one list */
    int64_t kept;  /* groups of lists */
    int64_t width; /* lists of one group, beside each other in memory */
    int64_t kept_dims, reduced_dims;
    struct dim kept_dim[MAX_RANK], reduced_dim[MAX_RANK];
};

INLINE int64_t offset_of(const struct dim *dim, int64_t dims, int64_t index) {
    int64_t offset = 0;
    for (int64_t d = dims - 1; d > 0; d--) {
        offset += index % dim[d].size * dim[d].stride;
        index /= dim[d].size;
    }
    return dims > 0 ? offset + index * dim[0].stride : 0;
}
INLINE int64_t list_begin(const struct lists &it, int64_t list) {
    return offset_of(it.kept_dim, it.kept_dims, list / it.width) + list % it.width;
}
INLINE int64_t list_place(const struct lists &it, int64_t i) {
    return it.reduced_dims == 1 ? i * it.reduced_dim[0].stride : offset_of(it.reduced_dim, it.reduced_dims, i);
}

/* ---------------------------------------------------------------- joining */

/* A sum of what `Term` adds, or an extreme. */
struct adding {
    static __device__ float nothing() { return 0.0f; }
    static __device__ float join(float a, float b) { return a + b; }
};
struct largest {
    static __device__ float nothing() { return -INFINITE; }
    static __device__ float join(float a, float b) { return vmax(vset(a), vset(b)).x; }
};
struct smallest {
    static __device__ float nothing() { return INFINITE; }
    static __device__ float join(float a, float b) { return vmin(vset(a), vset(b)).x; }
};

INLINE int lane_of_thread(void) { return threadIdx.x % LANES; }

/* The halving tree; every thread of the warp gets its result. */
template <class Join> INLINE float tree(float lane) {
    for (int half = LANES / 2; half > 0; half /= 2) lane = Join::join(lane, __shfl_down_sync(0xffffffffu, lane, half));
    return __shfl_sync(0xffffffffu, lane, 0);
}

/* Numbers first … past - 1, at most a chunk, of which `add(lane, i)` takes the i-th into a lane. */
template <class Join, class Add> INLINE float chunk_of(int64_t first, int64_t past, const Add &add) {
    float lane = Join::nothing();
    for (int64_t i = first + lane_of_thread(); i < past; i += LANES) lane = add(lane, i);
    return tree<Join>(lane);
}

/* ---------------------------------------------------------------- a team of warps with one list */

/* A number of a list, as a thread of the list's team sees it: which one it is, and how manieth of the thread's own. */
struct member {
    int64_t i;
    int own;
};

/* Numbers that several passes need. Who keeps none computes one anew for each pass. */
template <class Number> struct computed {
    Number number;
    __device__ float operator[](member of) const { return number(of); }
};
template <int KEPT> struct kept {
    float own[KEPT];
    __device__ float operator[](member of) const { return own[of.own]; }
};

/* WARPS warps that work on one list. A team of one warp takes lists of one chunk; a larger one is a block, and takes lists of
 * up to MAX_CHUNKS chunks. Where each thread keeps up to KEPT numbers in registers, a list has at most 32 KEPT: it is read
 * once. */
template <int WARPS, int KEPT = 0> struct team {
    static_assert(KEPT == 0 || WARPS == 1);
    enum { MEMBERS = 32 * WARPS, KEEPS = KEPT > 0 };
    /* Teams of one warp share a block, a larger one is a block. */
    static __device__ int64_t teams_a_block() { return WARPS == 1 ? blockDim.x / 32 : 1; }
    static __device__ int64_t first_list() { return blockIdx.x * teams_a_block() + (WARPS == 1 ? threadIdx.x / 32 : 0); }
    static __device__ int64_t all() { return gridDim.x * teams_a_block(); }
    /* The thread among those of its team. */
    static __device__ int thread() { return threadIdx.x % MEMBERS; }

    float *chunk_results; /* MAX_CHUNKS in shared memory; not used by a single warp */

    /* Calls `work` with each of n numbers that is this thread's, in order. */
    template <class Work> static __device__ void each(int64_t n, const Work &work) {
        if constexpr (KEPT > 0) {
            /* Unrolled, so that a number's register is known; all threads leave together. */
            UNROLL for (int own = 0; own < KEPT; own++) {
                const int i = own * LANES + thread();
                if (own * LANES >= (int)n) break;
                if (i < (int)n) work(member{i, own});
            }
        } else {
            for (int64_t i = thread(); i < n; i += MEMBERS) work(member{i, 0});
        }
    }

    template <class Number> static __device__ auto keep(int64_t n, const Number &number) {
        if constexpr (KEPT > 0) {
            kept<KEPT> numbers;
            each(n, [&](member of) { numbers.own[of.own] = number(of); });
            return numbers;
        } else {
            return computed<Number>{number};
        }
    }

    template <class Join, class Add> __device__ float over(int64_t n, const Add &add) const {
        if constexpr (WARPS == 1) {
            float lane = Join::nothing();
            each(n, [&](member of) { lane = add(lane, of); });
            return tree<Join>(lane);
        } else {
            const int64_t chunks = n > CHUNK ? (n + CHUNK - 1) / CHUNK : 1;
            for (int64_t chunk = threadIdx.x / 32; chunk < chunks; chunk += WARPS) {
                const float result = chunk_of<Join>(chunk * CHUNK, least(n, (chunk + 1) * CHUNK),
                                                    [&](float lane, int64_t i) { return add(lane, member{i, 0}); });
                if (lane_of_thread() == 0) chunk_results[chunk] = result;
            }
            __syncthreads();
            const float *results = chunk_results;
            const float result =
                chunk_of<Join>(0, chunks, [=](float lane, int64_t i) { return Join::join(lane, results[i]); });
            __syncthreads();
            return result;
        }
    }
    template <class Add> __device__ float sum(int64_t n, const Add &add) const { return over<adding>(n, add); };
};

#define FOR_LISTS(list, team, count) for (int64_t list = team.first_list(); list < (count); list += team.all())

/* Kernels of one text: NAME_warp for lists of one chunk, NAME_block for longer ones. */
#define TEAM_KERNELS(name, parameters, arguments)                                                                      \
    KERNEL __launch_bounds__(256) name##_warp parameters {                                                             \
        const team<1> warp = {nullptr};                                                                                \
        name(warp, arguments);                                                                                         \
    }                                                                                                                  \
    KERNEL __launch_bounds__(512) name##_block parameters {                                                            \
        __shared__ float chunk_results[MAX_CHUNKS];                                                                    \
        const team<16> block = {chunk_results};                                                                        \
        name(block, arguments);                                                                                        \
    }
/* NAME_kept for lists of up to 1024 numbers, which stay in registers; launches.py knows that number. */
#define KEPT_KERNEL(name, parameters, arguments)                                                                       \
    KERNEL __launch_bounds__(256) name##_kept parameters {                                                             \
        const team<1, 32> warp = {nullptr};                                                                            \
        name(warp, arguments);                                                                                         \
    }

#endif
