/* The one order of adding (docs/numerics/reductions.md, section 1) for every kernel that makes one number of several.
 *
 * A list of up to 4096 numbers, a chunk, goes through 32 lanes: number i is added to lane i mod 32. 32 lanes are 2, 4 or 8
 * vectors, so that every build keeps them in registers, and a number that is not there is +0, which changes no lane. A
 * longer list is the list of its chunks' results, and so on: `struct totals`.
 *
 * Two shapes. A list that lies in one piece is folded along (FOR_LANES, row_sum, row_dot). Lists that lie beside each other
 * (columns) are folded side by side, one vector of columns at a time, each with 32 lanes of its own (struct columns). */
#ifndef TOLSEY_REDUCE_H
#define TOLSEY_REDUCE_H

#include "base.h"

enum { LANES = 32, CHUNK = 4096, LANE_VECTORS = LANES / VW };

/* Lanes stay in registers only where the loop over their vectors is written out. With fma in software there is nothing to
 * gain, and a file takes half a minute to compile. */
#if defined(TOLSEY_BASELINE)
#define UNROLLED
#elif defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

struct lanes {
    vf v[LANE_VECTORS];
};

/* The body for each vector of a list of n numbers, n at most CHUNK: `i` the place of its first number, `w` how many are
 * there (VW or more: all), `q` the vector of lanes that it belongs to. */
#define FOR_LANES(n, ...)                                                                                              \
    do {                                                                                                               \
        const int64_t n_ = (n);                                                                                        \
        int64_t at_ = 0;                                                                                               \
        for (; at_ + LANES <= n_; at_ += LANES) {                                                                      \
            UNROLLED for (int q = 0; q < LANE_VECTORS; q++) {                                                          \
                const int64_t i = at_ + q * VW, w = VW;                                                                \
                (void)w;                                                                                               \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
        UNROLLED for (int q = 0; q < LANE_VECTORS; q++) {                                                              \
            const int64_t i = at_ + q * VW, w = n_ - i;                                                                \
            if (w <= 0) break;                                                                                         \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

/* The first w lanes of x, +0 in the others: for what was computed from places that are not there. */
INLINE vf vfirst(vf x, int64_t w) { return w >= VW ? x : vselect(vcount() < vset_i((int32_t)w), x, (vf){0}); }

/* A vector and itself moved down by `by` places; what comes in above is left over. */
#if defined(__clang__)
#define MOVED_DOWN_4(v, by) __builtin_shufflevector(v, v, (by), (by) + 1, ((by) + 2) % 4, ((by) + 3) % 4)
#else
#define MOVED_DOWN_4(v, by) __builtin_shuffle(v, (vi4){(by), (by) + 1, ((by) + 2) % 4, ((by) + 3) % 4})
#endif
typedef float vf4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));

/* The halving tree over the lanes. */
INLINE float lanes_total(struct lanes a) {
    vf4 four;
#if VW == 16
    __m512 x = (__m512)(a.v[0] + a.v[1]);
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    four = (vf4)_mm256_castps256_ps128(y) + (vf4)_mm256_extractf128_ps(y, 1);
#elif VW == 8
    vf x = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    four = (vf4)_mm256_castps256_ps128((__m256)x) + (vf4)_mm256_extractf128_ps((__m256)x, 1);
#else
    four = ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
#endif
    four = four + MOVED_DOWN_4(four, 2);
    four = four + MOVED_DOWN_4(four, 1);
    return four[0];
}

/* S of numbers that come one by one, for lists longer than a chunk: the chunks' results of level k are the numbers of level
 * k + 1. Five levels hold more than 2^60. */
enum { LEVELS = 5 };
struct totals {
    float lane[LEVELS][LANES];
    int32_t count[LEVELS];
};

INLINE void totals_begin(struct totals *t) { memset(t, 0, sizeof *t); }

INLINE float totals_of_level(struct totals *t, int level) {
    float *lane = t->lane[level];
    for (int h = LANES / 2; h > 0; h /= 2)
        for (int j = 0; j < h; j++) lane[j] = lane[j] + lane[j + h];
    float total = lane[0];
    memset(lane, 0, sizeof t->lane[level]);
    t->count[level] = 0;
    return total;
}

INLINE void totals_add_to(struct totals *t, int level, float number) {
    for (; level < LEVELS; level++) {
        float *lane = &t->lane[level][t->count[level] % LANES];
        *lane = *lane + number;
        if (++t->count[level] < CHUNK) return;
        number = totals_of_level(t, level);
    }
}
INLINE void totals_add(struct totals *t, float number) { totals_add_to(t, 0, number); }

/* S of all that was added. A result handed up alone is a list of one number, whose S is that number. */
INLINE float totals_end(struct totals *t) {
    for (int level = 0; level + 1 < LEVELS; level++)
        if (t->count[level] > 0) totals_add_to(t, level + 1, totals_of_level(t, level));
    return totals_of_level(t, LEVELS - 1);
}

/* total = S over the chunks of a list of n numbers, where `of_chunk` is an expression in `begin` and `length`. */
#define SUM_CHUNKS(total, n, of_chunk)                                                                                 \
    do {                                                                                                               \
        const int64_t all_ = (n);                                                                                      \
        if (all_ <= CHUNK) {                                                                                           \
            const int64_t begin = 0, length = all_;                                                                    \
            (void)begin;                                                                                               \
            total = (of_chunk);                                                                                        \
        } else {                                                                                                       \
            struct totals t_;                                                                                          \
            totals_begin(&t_);                                                                                         \
            for (int64_t begin = 0; begin < all_; begin += CHUNK) {                                                    \
                const int64_t length = least(CHUNK, all_ - begin);                                                     \
                totals_add(&t_, (of_chunk));                                                                           \
            }                                                                                                          \
            total = totals_end(&t_);                                                                                   \
        }                                                                                                              \
    } while (0)

INLINE float chunk_sum(const float *x, int64_t n) {
    struct lanes a = {0};
    FOR_LANES(n, { a.v[q] = a.v[q] + vload_n(x + i, w); });
    return lanes_total(a);
}

INLINE float chunk_dot(const float *x, const float *y, int64_t n) {
    struct lanes a = {0};
    FOR_LANES(n, { a.v[q] = vfma(vload_n(x + i, w), vload_n(y + i, w), a.v[q]); });
    return lanes_total(a);
}

/* D(x - mean, x - mean). */
INLINE float chunk_squares(const float *x, float mean, int64_t n) {
    struct lanes a = {0};
    const vf m = vset(mean);
    FOR_LANES(n, {
        vf d = vfirst(vload_n(x + i, w) - m, w);
        a.v[q] = vfma(d, d, a.v[q]);
    });
    return lanes_total(a);
}

/* S and D of a list in one piece. */
INLINE float row_sum(const float *x, int64_t n) {
    float total;
    SUM_CHUNKS(total, n, chunk_sum(x + begin, length));
    return total;
}
INLINE float row_dot(const float *x, const float *y, int64_t n) {
    float total;
    SUM_CHUNKS(total, n, chunk_dot(x + begin, y + begin, length));
    return total;
}
INLINE float row_squares(const float *x, float mean, int64_t n) {
    float total;
    SUM_CHUNKS(total, n, chunk_squares(x + begin, mean, length));
    return total;
}

/* a > b ? a : b, in one instruction where there is one: a NaN in a is passed over, of equal zeros b is taken. */
INLINE vf vgreater(vf a, vf b) {
#if VW == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif VW == 8
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__x86_64__)
    return (vf)_mm_max_ps((__m128)a, (__m128)b);
#else
    return vselect((vi)(a > b), a, b);
#endif
}

/* The largest of a list but for NaN, which are passed over; of zeros any. -infinity for nothing. */
INLINE float row_greatest(const float *x, int64_t n) {
    struct lanes a;
    const vf none = vset(-__builtin_inff());
    UNROLLED for (int q = 0; q < LANE_VECTORS; q++) a.v[q] = none;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        UNROLLED for (int q = 0; q < LANE_VECTORS; q++) a.v[q] = vgreater(vload(x + i + q * VW), a.v[q]);
    for (; i < n; i += VW) a.v[0] = vgreater(vload_or(x + i, n - i, none[0]), a.v[0]);
    for (int q = 1; q < LANE_VECTORS; q++) a.v[0] = vgreater(a.v[q], a.v[0]);
    float greatest = a.v[0][0];
    for (int j = 1; j < VW; j++) greatest = a.v[0][j] > greatest ? a.v[0][j] : greatest;
    return greatest;
}

/* ---------------------------------------------------------------- columns */

/* Up to PANEL lists side by side, each with its own lanes: number j of every list lies in lane row j mod 32. */
enum { PANEL = 64 };
struct columns {
    float lane[LEVELS][LANES][PANEL];
    int32_t count[LEVELS];
};

INLINE void columns_begin(struct columns *c) { memset(c->count, 0, sizeof c->count); }

/* The lane row that the next number of every list belongs to. Add to it, then call columns_added. */
INLINE float *columns_next(struct columns *c, int level) {
    float *row = c->lane[level][c->count[level] % LANES];
    if (c->count[level] < LANES) memset(row, 0, sizeof c->lane[level][0]);
    return row;
}

/* The halving tree over the first `rows` lane rows, in place; the result is in row 0. */
INLINE void lane_rows_total(float *lane, int64_t rows, int64_t stride, int64_t width) {
    for (int64_t h = LANES / 2; h > 0; h /= 2) {
        for (int64_t j = 0; j < h && j + h < rows; j++) {
            float *to = lane + j * stride, *from = lane + (j + h) * stride;
            for (int64_t i = 0; i < width; i += VW) vstore(to + i, vload(to + i) + vload(from + i));
        }
        rows = least(rows, h);
    }
}

INLINE void columns_added(struct columns *c) {
    for (int level = 0; ++c->count[level] == CHUNK && level + 1 < LEVELS; level++) {
        lane_rows_total(c->lane[level][0], LANES, PANEL, PANEL);
        float *above = columns_next(c, level + 1);
        for (int i = 0; i < PANEL; i += VW) vstore(above + i, vload(above + i) + vload(c->lane[level][0] + i));
        c->count[level] = 0;
    }
}

/* S of each list: PANEL numbers. */
INLINE const float *columns_end(struct columns *c) {
    int top = 0;
    for (int level = 0; level < LEVELS; level++)
        if (c->count[level] > 0) top = level;
    for (int level = 0; level <= top; level++) {
        if (c->count[level] == 0) continue;
        lane_rows_total(c->lane[level][0], least(c->count[level], LANES), PANEL, PANEL);
        if (level == top) break;
        float *above = columns_next(c, level + 1);
        for (int i = 0; i < PANEL; i += VW) vstore(above + i, vload(above + i) + vload(c->lane[level][0] + i));
        c->count[level + 1]++;
    }
    if (c->count[top] == 0) memset(c->lane[top][0], 0, sizeof c->lane[0][0]);
    return c->lane[top][0];
}

/* ---------------------------------------------------------------- reduce.c, for other kernels */

TOLSEY_EXPORT int tolsey_sum(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced);
TOLSEY_EXPORT int tolsey_mean(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced);
/* D(x - mean, x - mean), one mean for each result. */
int tolsey_squares(const float *x, const float *mean, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced);

#endif
