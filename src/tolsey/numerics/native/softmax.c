/* softmax and log-softmax along one dim of [outer, n, inner], forwards and backwards.
 *
 * inner = 1: a list is a row, three passes over it while it lies in the cache. inner > 1: PANEL lists beside each other.
 *
 * The largest of a list is taken here with vgreater, which passes over NaN and takes any sign of zero, and the bits are the
 * law's all the same. A NaN in the list makes its own exponential NaN, so the sum, so every result. The sign of a zero m
 * shows nowhere but in x - m for x = ±0, which is ±0: its exponential is 1 either way; and for log_softmax it is followed by
 * - l, which hides it unless l = +0, that is unless all other exponentials are +0: then x is m, and its sign is the one
 * that was taken. */
#include "functions.h"
#include "reduce.h"

enum softmax { SOFTMAX, SAFE_SOFTMAX, LOG_SOFTMAX };

struct softmax_task {
    enum softmax kind;
    const float *grad, *x;
    float *y;
    int64_t n, inner;
};

/* ---------------------------------------------------------------- rows */

INLINE int all_are(const float *x, float number, int64_t n, int64_t step) {
    for (int64_t i = 0; i < n; i++)
        if (x[i * step] != number) return 0;
    return 1;
}

/* S(exp(x - m)); the exponentials go to e where it is not NULL. */
INLINE float chunk_exponentials(const float *x, float greatest, float *e, int64_t n) {
    struct lanes a = {0};
    const vf m = vset(greatest);
    FOR_LANES(n, {
        vf v = vfirst(vexp(vload_n(x + i, w) - m), w);
        if (e) vstore_n(e + i, v, w);
        a.v[q] = a.v[q] + v;
    });
    return lanes_total(a);
}

INLINE void softmax_row(enum softmax kind, const float *x, float *y, int64_t n) {
    const float greatest = row_greatest(x, n);
    float sum;
    if (kind == SAFE_SOFTMAX && greatest == -__builtin_inff() && all_are(x, greatest, n, 1)) {
        memset(y, 0, sizeof(float) * (size_t)n);
    } else if (kind == LOG_SOFTMAX) {
        SUM_CHUNKS(sum, n, chunk_exponentials(x + begin, greatest, NULL, length));
        const vf m = vset(greatest), l = vlog(vset(sum));
        FOR_VECTORS(i, w, 0, n) { vstore_n(y + i, (vload_n(x + i, w) - m) - l, w); }
    } else {
        SUM_CHUNKS(sum, n, chunk_exponentials(x + begin, greatest, y + begin, length));
        const vf r = vset(1.0f) / vset(sum);
        FOR_VECTORS(i, w, 0, n) { vstore_n(y + i, vload_n(y + i, w) * r, w); }
    }
}

INLINE void softmax_backward_row(enum softmax kind, const float *grad, const float *y, float *dx, int64_t n) {
    if (kind == LOG_SOFTMAX) {
        const vf s = vset(row_sum(grad, n));
        FOR_VECTORS(i, w, 0, n) { vstore_n(dx + i, vfma(vneg(vexp(vload_n(y + i, w))), s, vload_n(grad + i, w)), w); }
    } else {
        const vf s = vset(row_dot(grad, y, n));
        FOR_VECTORS(i, w, 0, n) { vstore_n(dx + i, (vload_n(grad + i, w) - s) * vload_n(y + i, w), w); }
    }
}

static int rows_task(void *ctx, int64_t begin, int64_t end) {
    const struct softmax_task *it = ctx;
    for (int64_t row = begin; row < end; row++) softmax_row(it->kind, it->x + row * it->n, it->y + row * it->n, it->n);
    return TOLSEY_OK;
}

static int backward_rows_task(void *ctx, int64_t begin, int64_t end) {
    const struct softmax_task *it = ctx;
    for (int64_t at = begin * it->n; at < end * it->n; at += it->n)
        softmax_backward_row(it->kind, it->grad + at, it->x + at, it->y + at, it->n);
    return TOLSEY_OK;
}

/* ---------------------------------------------------------------- columns */

/* The first list of panel `piece`, and how many lists it has. */
INLINE int64_t panel_at(const struct softmax_task *it, int64_t piece, int64_t *width) {
    const int64_t panels = (it->inner - 1) / PANEL + 1, column = piece % panels * PANEL;
    *width = least(PANEL, it->inner - column);
    return piece / panels * it->n * it->inner + column;
}

static int columns_task(void *ctx, int64_t begin, int64_t end) {
    const struct softmax_task *it = ctx;
    struct columns *sums = tolsey_scratch(SCRATCH_SUMS, sizeof *sums);
    if (!sums) return TOLSEY_NO_MEMORY;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t width, at = panel_at(it, piece, &width);
        const float *x = it->x + at;
        float *y = it->y + at, m[PANEL], scale[PANEL];
        for (int j = 0; j < PANEL; j++) m[j] = -__builtin_inff();
        for (int64_t i = 0; i < it->n; i++)
            FOR_VECTORS(j, w, 0, width) { vstore(m + j, vgreater(vload_n(x + i * it->inner + j, w), vload(m + j))); }

        columns_begin(sums);
        for (int64_t i = 0; i < it->n; i++) {
            float *lane = columns_next(sums, 0);
            FOR_VECTORS(j, w, 0, width) {
                vf e = vexp(vload_n(x + i * it->inner + j, w) - vload(m + j));
                if (it->kind != LOG_SOFTMAX) vstore_n(y + i * it->inner + j, e, w);
                vstore(lane + j, vload(lane + j) + e);
            }
            columns_added(sums);
        }
        const float *sum = columns_end(sums);

        for (int j = 0; j < PANEL; j += VW) {
            vf s = vload(sum + j);
            vstore(scale + j, it->kind == LOG_SOFTMAX ? vlog(s) : vset(1.0f) / s);
        }
        for (int64_t i = 0; i < it->n; i++)
            FOR_VECTORS(j, w, 0, width) {
                const int64_t place = i * it->inner + j;
                vf s = vload(scale + j);
                vf v = it->kind == LOG_SOFTMAX ? (vload_n(x + place, w) - vload(m + j)) - s : vload_n(y + place, w) * s;
                vstore_n(y + place, v, w);
            }
        for (int64_t j = 0; it->kind == SAFE_SOFTMAX && j < width; j++)
            if (m[j] == -__builtin_inff() && all_are(x + j, m[j], it->n, it->inner))
                for (int64_t i = 0; i < it->n; i++) y[i * it->inner + j] = 0.0f;
    }
    return TOLSEY_OK;
}

static int backward_columns_task(void *ctx, int64_t begin, int64_t end) {
    const struct softmax_task *it = ctx;
    struct columns *sums = tolsey_scratch(SCRATCH_SUMS, sizeof *sums);
    if (!sums) return TOLSEY_NO_MEMORY;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t width, at = panel_at(it, piece, &width);
        columns_begin(sums);
        for (int64_t i = 0; i < it->n; i++) {
            float *lane = columns_next(sums, 0);
            FOR_VECTORS(j, w, 0, width) {
                const int64_t place = at + i * it->inner + j;
                vf g = vload_n(it->grad + place, w), s = vload(lane + j);
                vstore(lane + j, it->kind == LOG_SOFTMAX ? s + g : vfma(g, vload_n(it->x + place, w), s));
            }
            columns_added(sums);
        }
        const float *sum = columns_end(sums);
        for (int64_t i = 0; i < it->n; i++)
            FOR_VECTORS(j, w, 0, width) {
                const int64_t place = at + i * it->inner + j;
                vf g = vload_n(it->grad + place, w), y = vload_n(it->x + place, w), s = vload(sum + j);
                vstore_n(it->y + place, it->kind == LOG_SOFTMAX ? vfma(vneg(vexp(y)), s, g) : (g - s) * y, w);
            }
    }
    return TOLSEY_OK;
}

/* ---------------------------------------------------------------- entries */

static int over_lists(struct softmax_task it, int64_t outer, tolsey_task rows, tolsey_task columns) {
    if (outer < 0 || it.n < 0 || it.inner < 0) return TOLSEY_BAD_ARGUMENT;
    if (it.n == 0 || it.inner == 0) return TOLSEY_OK;
    if (it.inner == 1) return tolsey_parallel(outer, (1 << 13) / it.n, rows, &it);
    return tolsey_parallel(outer * ((it.inner - 1) / PANEL + 1), (1 << 13) / (it.n * PANEL), columns, &it);
}

TOLSEY_EXPORT int tolsey_softmax(const float *x, float *y, int64_t outer, int64_t n, int64_t inner) {
    LAWFUL_ENTRY;
    return over_lists((struct softmax_task){SOFTMAX, NULL, x, y, n, inner}, outer, rows_task, columns_task);
}
TOLSEY_EXPORT int tolsey_safe_softmax(const float *x, float *y, int64_t outer, int64_t n, int64_t inner) {
    LAWFUL_ENTRY;
    return over_lists((struct softmax_task){SAFE_SOFTMAX, NULL, x, y, n, inner}, outer, rows_task, columns_task);
}
TOLSEY_EXPORT int tolsey_log_softmax(const float *x, float *y, int64_t outer, int64_t n, int64_t inner) {
    LAWFUL_ENTRY;
    return over_lists((struct softmax_task){LOG_SOFTMAX, NULL, x, y, n, inner}, outer, rows_task, columns_task);
}

/* y is what the forward gave. */
TOLSEY_EXPORT int tolsey_softmax_backward(const float *grad, const float *y, float *dx, int64_t outer, int64_t n,
                                          int64_t inner) {
    LAWFUL_ENTRY;
    return over_lists((struct softmax_task){SOFTMAX, grad, y, dx, n, inner}, outer, backward_rows_task,
                      backward_columns_task);
}
TOLSEY_EXPORT int tolsey_log_softmax_backward(const float *grad, const float *y, float *dx, int64_t outer, int64_t n,
                                              int64_t inner) {
    LAWFUL_ENTRY;
    return over_lists((struct softmax_task){LOG_SOFTMAX, grad, y, dx, n, inner}, outer, backward_rows_task,
                      backward_columns_task);
}
