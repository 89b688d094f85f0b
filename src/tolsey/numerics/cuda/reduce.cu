/* Sums, means, variances, norms, extremes, running sums: docs/numerics/reductions.md, sections 1 and 2.
 *
 * A reduction is a few passes. The first gives a number for each chunk of each list, a further one reduces those likewise,
 * until one is left, which is finished (divided, its root taken). launches.py counts the passes.
 *
 * A pass has two forms. NAME_rows: a warp takes a chunk, neighbouring threads neighbouring numbers of a list. NAME_columns,
 * for lists that lie beside each other: neighbouring threads (x) take neighbouring lists, and the lanes are threadIdx.y. */
#include "warps.h"

enum finish { NOTHING, DIVIDED, ROOT };

struct pass {
    struct lists lists;
    const float *x, *y;           /* numbers; a second factor */
    const float *mean, *rstd;     /* statistics that a term takes away and multiplies with */
    int64_t stat_every, stat_step, stat_lists; /* of number i of a list: (i / stat_every) * stat_step + list / stat_lists */
    float power;
    int32_t finish;
    float by; /* what it is divided by */
    float *out; /* [lists, chunks] */
};

INLINE int64_t statistic(const struct pass &it, int64_t list, int64_t i) {
    return i / it.stat_every * it.stat_step + list / it.stat_lists;
}
INLINE float finished(const struct pass &it, float result) {
    if (it.finish == DIVIDED) return result / it.by;
    if (it.finish == ROOT) return ssqrt(result);
    return result;
}

/* What number i of a list, at place `at`, adds to its lane. */
#define TERM(name, join_by, expression)                                                                                \
    struct name {                                                                                                      \
        typedef join_by join;                                                                                          \
        static __device__ float add(const struct pass &it, float lane, int64_t list, int64_t i, int64_t at) {          \
            const float x = it.x[at];                                                                                  \
            return (expression);                                                                                       \
        }                                                                                                              \
    };
INLINE float square(float d, float lane) { return sfma(d, d, lane); }
INLINE float size(float x) { return vabs(vset(x)).x; }
INLINE float normalised(const struct pass &it, float x, int64_t s) { return (x - it.mean[s]) * it.rstd[s]; }
TERM(plain, adding, lane + x)
TERM(squares, adding, square(x, lane))
TERM(sizes, adding, lane + size(x))
TERM(not_zero, adding, lane + (x != 0.0f ? 1.0f : 0.0f))
TERM(powers, adding, lane + spow(size(x), it.power))
TERM(deviations, adding, square(x - it.mean[list], lane))
TERM(differences, adding, square(x - it.y[at], lane))
TERM(with_normalised, adding, sfma(x, normalised(it, it.y[at], statistic(it, list, i)), lane))
TERM(largest_of, largest, largest::join(lane, x))
TERM(smallest_of, smallest, smallest::join(lane, x))
TERM(largest_size, largest, largest::join(lane, size(x)))
TERM(smallest_size, smallest, smallest::join(lane, size(x)))

INLINE int64_t chunks_of(int64_t n) { return n > CHUNK ? (n + CHUNK - 1) / CHUNK : 1; }

template <class Term> INLINE void rows(const struct pass &it) {
    const int64_t chunks = chunks_of(it.lists.n), count = it.lists.kept * it.lists.width * chunks;
    for (int64_t piece = this_thread() / LANES; piece < count; piece += all_threads() / LANES) {
        const int64_t list = piece / chunks, chunk = piece % chunks, begin = list_begin(it.lists, list);
        const float result = chunk_of<typename Term::join>(
            chunk * CHUNK, least(it.lists.n, (chunk + 1) * CHUNK),
            [&](float lane, int64_t i) { return Term::add(it, lane, list, i, begin + list_place(it.lists, i)); });
        if (lane_of_thread() == 0) it.out[piece] = finished(it, result);
    }
}

/* Blocks of 32 lists by 32 lanes. */
template <class Term> INLINE void columns(const struct pass &it) {
    __shared__ float lanes[LANES][LANES + 1];
    const int64_t chunks = chunks_of(it.lists.n), panels = (it.lists.width + LANES - 1) / LANES;
    const int x = threadIdx.x, y = threadIdx.y;
    for (int64_t piece = blockIdx.x; piece < it.lists.kept * panels * chunks; piece += gridDim.x) {
        const int64_t chunk = piece / panels % chunks, kept = piece / panels / chunks;
        const int64_t column = piece % panels * LANES + x, list = kept * it.lists.width + column;
        const bool there = column < it.lists.width;
        float lane = Term::join::nothing();
        if (there) {
            const int64_t begin = offset_of(it.lists.kept_dim, it.lists.kept_dims, kept) + column;
            for (int64_t i = chunk * CHUNK + y; i < least(it.lists.n, (chunk + 1) * CHUNK); i += LANES)
                lane = Term::add(it, lane, list, i, begin + list_place(it.lists, i));
        }
        lanes[y][x] = lane;
        for (int half = LANES / 2; half > 0; half /= 2) {
            __syncthreads();
            if (y < half) lanes[y][x] = Term::join::join(lanes[y][x], lanes[y + half][x]);
        }
        if (y == 0 && there) it.out[list * chunks + chunk] = finished(it, lanes[0][x]);
        __syncthreads();
    }
}

#define PASS(name)                                                                                                     \
    KERNEL __launch_bounds__(256) name##_rows(const struct pass it) { rows<name>(it); }                                \
    KERNEL __launch_bounds__(1024) name##_columns(const struct pass it) { columns<name>(it); }
PASS(plain)
PASS(squares)
PASS(sizes)
PASS(not_zero)
PASS(powers)
PASS(deviations)
PASS(differences)
PASS(with_normalised)
PASS(largest_of)
PASS(smallest_of)
PASS(largest_size)
PASS(smallest_size)

/* Sums of powers become norms. */
KERNEL norm_of_powers(float *y, float exponent, int64_t n) {
    FOR_PLACES(i, 0, n) y[i] = spow(y[i], exponent);
}

/* ---------------------------------------------------------------- along one dim of [before, n, after] */

/* Whether the number at place i takes the place of the held one. */
INLINE bool chosen(float x, int64_t i, float held, int64_t at) {
    if (held != held) return x != x && i < at;
    return x != x || x > held || (x == held && i < at);
}

/* A warp for each list; n > 0. */
KERNEL argmax(const float *x, int64_t *place, int64_t before, int64_t n, int64_t after) {
    for (int64_t list = this_thread() / LANES; list < before * after; list += all_threads() / LANES) {
        const float *mine = x + list / after * n * after + list % after;
        int64_t at = least(lane_of_thread(), n - 1);
        float held = mine[at * after];
        for (int64_t i = at + LANES; i < n; i += LANES)
            if (chosen(mine[i * after], i, held, at)) held = mine[(at = i) * after];
        for (int half = LANES / 2; half > 0; half /= 2) {
            const float other = __shfl_down_sync(0xffffffffu, held, half);
            const int64_t there = __shfl_down_sync(0xffffffffu, (long long)at, half);
            if (chosen(other, there, held, at)) held = other, at = there;
        }
        if (lane_of_thread() == 0) place[list] = at;
    }
}

/* A thread for each list: the law adds one after the other. */
KERNEL cumsum(const float *x, float *y, int64_t before, int64_t n, int64_t after) {
    FOR_PLACES(list, 0, before * after) {
        const int64_t begin = list / after * n * after + list % after;
        float sum = 0.0f;
        for (int64_t i = 0; i < n; i++) y[begin + i * after] = sum = sum + x[begin + i * after];
    }
}
