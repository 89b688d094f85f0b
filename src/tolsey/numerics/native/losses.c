/* Negative log likelihood and squared error, forwards and backwards (docs/numerics/reductions.md, section 5).
 *
 * A target outside 0 … classes - 1 that is not the ignored one is refused before anything is written behind it. */
#include "reduce.h"

enum { NONE, MEAN, SUM };

/* S or D of the chunks of a flat list, then S of those. `of_chunk` writes one number for each of its lists. */
static int sum_chunks(tolsey_task of_chunk, void *ctx, float *partial, int64_t lists, int64_t n, float *totals) {
    const int64_t chunks = most(1, (n + CHUNK - 1) / CHUNK);
    int answer = tolsey_parallel(chunks, 2, of_chunk, ctx);
    for (int64_t list = 0; list < lists && !answer; list++)
        answer = tolsey_sum(partial + list * chunks, totals + list, 1, &chunks, 1);
    return answer;
}

/* ---------------------------------------------------------------- negative log likelihood */

struct likelihood {
    const float *grad, *x, *weight, *total;
    const int64_t *target;
    float *loss, *dx, *partial;
    int64_t examples, classes, places, ignored, chunks;
    int32_t reduction;
};

/* Whether position k counts, and its class. */
INLINE int counted(const struct likelihood *it, int64_t k, int64_t *class, int *answer) {
    *class = it->target[k];
    if (*class == it->ignored) return 0;
    if (*class >= 0 && *class < it->classes) return 1;
    *answer = TOLSEY_BAD_INDEX;
    return 0;
}

/* Where the number of position k and a class lies. */
INLINE int64_t place_of(const struct likelihood *it, int64_t k, int64_t class) {
    return (k / it->places * it->classes + class) * it->places + k % it->places;
}

static int likelihood_task(void *ctx, int64_t begin, int64_t end) {
    const struct likelihood *it = ctx;
    float loss[CHUNK], weight[CHUNK];
    const int64_t n = it->examples * it->places;
    int answer = TOLSEY_OK;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t first = chunk * CHUNK, length = least(CHUNK, n - first);
        for (int64_t i = 0; i < length; i++) {
            int64_t class;
            const int counts = counted(it, first + i, &class, &answer);
            weight[i] = !counts ? 0.0f : it->weight ? it->weight[class] : 1.0f;
            loss[i] = counts ? -it->x[place_of(it, first + i, class)] * weight[i] : 0.0f;
        }
        if (answer) return answer;
        if (it->reduction == NONE)
            memcpy(it->loss + first, loss, sizeof(float) * (size_t)length);
        else {
            it->partial[chunk] = chunk_sum(loss, length);
            it->partial[it->chunks + chunk] = chunk_sum(weight, length);
        }
    }
    return TOLSEY_OK;
}

/* x: [examples, classes, places], target: [examples, places], weight: [classes] or NULL. loss: as target (reduction 0) or
 * one number; total: one number. */
TOLSEY_EXPORT int tolsey_nll_loss(const float *x, const int64_t *target, const float *weight, float *loss, float *total,
                                  int64_t examples, int64_t classes, int64_t places, int32_t reduction, int64_t ignored) {
    LAWFUL_ENTRY;
    if (examples < 0 || classes < 0 || places < 0 || reduction < NONE || reduction > SUM) return TOLSEY_BAD_ARGUMENT;
    const int64_t n = examples * places;
    struct likelihood it = {.x = x, .weight = weight, .target = target, .loss = loss, .examples = examples, .classes = classes,
                            .places = places, .ignored = ignored, .reduction = reduction,
                            .chunks = most(1, (n + CHUNK - 1) / CHUNK)};
    *total = 0.0f;
    if (reduction == NONE) return n ? tolsey_parallel(it.chunks, 2, likelihood_task, &it) : TOLSEY_OK;
    it.partial = tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)(2 * it.chunks));
    if (!it.partial) return TOLSEY_NO_MEMORY;
    float totals[2];
    int answer = sum_chunks(likelihood_task, &it, it.partial, 2, n, totals);
    if (answer) return answer;
    *total = totals[1];
    *loss = reduction == MEAN ? totals[0] / totals[1] : totals[0];
    return TOLSEY_OK;
}

static int likelihood_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct likelihood *it = ctx;
    int answer = TOLSEY_OK;
    const int64_t size = it->classes * it->places;
    const float common = it->reduction == NONE ? 0.0f : it->reduction == MEAN ? *it->grad / *it->total : *it->grad;
    for (int64_t example = begin; example < end; example++) {
        memset(it->dx + example * size, 0, sizeof(float) * (size_t)size);
        for (int64_t k = example * it->places; k < (example + 1) * it->places; k++) {
            int64_t class;
            if (!counted(it, k, &class, &answer)) continue;
            const float weight = it->weight ? it->weight[class] : 1.0f;
            it->dx[place_of(it, k, class)] = -weight * (it->reduction == NONE ? it->grad[k] : common);
        }
    }
    return answer;
}

/* grad: as loss was; total: as the forward gave it; dx: as x. */
TOLSEY_EXPORT int tolsey_nll_loss_backward(const float *grad, const int64_t *target, const float *weight, const float *total,
                                           float *dx, int64_t examples, int64_t classes, int64_t places, int32_t reduction,
                                           int64_t ignored) {
    LAWFUL_ENTRY;
    if (examples < 0 || classes < 0 || places < 0 || reduction < NONE || reduction > SUM) return TOLSEY_BAD_ARGUMENT;
    struct likelihood it = {.grad = grad, .weight = weight, .total = total, .target = target, .dx = dx, .examples = examples,
                            .classes = classes, .places = places, .ignored = ignored, .reduction = reduction};
    return tolsey_parallel(examples, (1 << 14) / (classes * places + 1), likelihood_backward_task, &it);
}

/* ---------------------------------------------------------------- squared error */

struct squared {
    const float *grad, *x, *target;
    float *y, *partial;
    int64_t n;
    int32_t reduction;
    float factor;
};

static int squared_chunk_task(void *ctx, int64_t begin, int64_t end) {
    const struct squared *it = ctx;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const float *x = it->x + chunk * CHUNK, *target = it->target + chunk * CHUNK;
        struct lanes a = {0};
        FOR_LANES(least(CHUNK, it->n - chunk * CHUNK), {
            vf d = vload_n(x + i, w) - vload_n(target + i, w);
            a.v[q] = vfma(d, d, a.v[q]);
        });
        it->partial[chunk] = lanes_total(a);
    }
    return TOLSEY_OK;
}

static int squared_task(void *ctx, int64_t begin, int64_t end) {
    const struct squared *it = ctx;
    FOR_VECTORS(i, w, begin, end) {
        vf d = vload_n(it->x + i, w) - vload_n(it->target + i, w);
        vstore_n(it->y + i, d * d, w);
    }
    return TOLSEY_OK;
}

/* x and target: n numbers; y: n numbers (reduction 0) or one. */
TOLSEY_EXPORT int tolsey_mse_loss(const float *x, const float *target, float *y, int64_t n, int32_t reduction) {
    LAWFUL_ENTRY;
    if (n < 0 || reduction < NONE || reduction > SUM) return TOLSEY_BAD_ARGUMENT;
    struct squared it = {.x = x, .target = target, .y = y, .n = n};
    if (reduction == NONE) return tolsey_parallel(n, 1 << 13, squared_task, &it);
    it.partial = tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)(n / CHUNK + 1));
    if (!it.partial) return TOLSEY_NO_MEMORY;
    int answer = sum_chunks(squared_chunk_task, &it, it.partial, 1, n, y);
    if (!answer && reduction == MEAN) *y = *y / (float)n;
    return answer;
}

static int squared_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct squared *it = ctx;
    const vf c = vset(it->factor), common = vset(*it->grad);
    FOR_VECTORS(i, w, begin, end) {
        vf d = vload_n(it->x + i, w) - vload_n(it->target + i, w);
        vstore_n(it->y + i, (c * d) * (it->reduction == NONE ? vload_n(it->grad + i, w) : common), w);
    }
    return TOLSEY_OK;
}

/* grad: n numbers (reduction 0) or one; dx: n numbers. */
TOLSEY_EXPORT int tolsey_mse_loss_backward(const float *grad, const float *x, const float *target, float *dx, int64_t n,
                                           int32_t reduction) {
    LAWFUL_ENTRY;
    if (n < 0 || reduction < NONE || reduction > SUM) return TOLSEY_BAD_ARGUMENT;
    struct squared it = {.grad = grad, .x = x, .target = target, .y = dx, .n = n, .reduction = reduction,
                         .factor = reduction == MEAN ? 2.0f / (float)n : 2.0f};
    return tolsey_parallel(n, 1 << 13, squared_backward_task, &it);
}
