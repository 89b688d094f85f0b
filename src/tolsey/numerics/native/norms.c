/* Layer, group and batch norm, forwards and backwards (docs/numerics/reductions.md, section 4).
 *
 * A row of layer norm, a group of group norm lies in one piece: its passes run while it is in the cache. Batch norm reduces
 * over examples and is made of the reductions of reduce.c and one pass that writes.
 *
 * Gradients of weight and bias are sums over rows. In layer norm a task is one lane of them: rows j, j + 32, j + 64, … of a
 * chunk, for which it also gives dx, so that grad and x are read once. The lanes are then added up as columns of 32 rows,
 * which is the halving tree. */
#include "reduce.h"

INLINE float deviation(float variance, float eps) { return 1.0f / ssqrt(variance + eps); }

INLINE vf normed(vf x, vf mean, vf rstd) { return (x - mean) * rstd; }

INLINE vf scaled(vf h, const float *weight, vf w, const float *bias, vf b) {
    if (weight && bias) return vfma(h, w, b);
    return weight ? h * w : bias ? h + b : h;
}

/* ---------------------------------------------------------------- layer norm */

struct layer {
    const float *grad, *x, *weight, *bias;
    float *mean, *rstd, *y;
    const float *given_mean, *given_rstd;
    float *dx, *lanes; /* lanes: [chunks, lane_rows, width], dweight then dbias, what is wanted of them */
    int64_t rows, n, lane_rows, width;
    int wants_weight, wants_bias;
    float eps;
};

static int layer_task(void *ctx, int64_t begin, int64_t end) {
    const struct layer *it = ctx;
    const int64_t n = it->n;
    for (int64_t row = begin; row < end; row++) {
        const float *x = it->x + row * n;
        float *y = it->y + row * n;
        const float mean = row_sum(x, n) / (float)n;
        const float rstd = deviation(row_squares(x, mean, n) / (float)n, it->eps);
        const vf m = vset(mean), r = vset(rstd);
        FOR_VECTORS(i, w, 0, n) {
            vf weight = it->weight ? vload_n(it->weight + i, w) : m, bias = it->bias ? vload_n(it->bias + i, w) : m;
            vstore_n(y + i, scaled(normed(vload_n(x + i, w), m, r), it->weight, weight, it->bias, bias), w);
        }
        it->mean[row] = mean;
        it->rstd[row] = rstd;
    }
    return TOLSEY_OK;
}

/* x: [rows, n]; mean and rstd: [rows]; weight and bias: [n] or NULL. */
TOLSEY_EXPORT int tolsey_layer_norm(const float *x, const float *weight, const float *bias, float *y, float *mean, float *rstd,
                                    int64_t rows, int64_t n, double eps) {
    LAWFUL_ENTRY;
    if (rows < 0 || n < 0) return TOLSEY_BAD_ARGUMENT;
    struct layer it = {.x = x, .weight = weight, .bias = bias, .y = y, .mean = mean, .rstd = rstd, .n = n, .eps = (float)eps};
    return tolsey_parallel(rows, (1 << 13) / (n + 1), layer_task, &it);
}

struct two {
    float s, t;
};

/* S(g) and D(g, h) of a chunk; g = grad * weight. */
INLINE struct two chunk_two(const float *grad, const float *weight, const float *x, float mean, float rstd, int64_t n) {
    struct lanes s = {0}, t = {0};
    const vf m = vset(mean), r = vset(rstd);
    FOR_LANES(n, {
        vf g = vload_n(grad + i, w);
        if (weight) g = g * vload_n(weight + i, w);
        s.v[q] = s.v[q] + g;
        t.v[q] = vfma(g, vfirst(normed(vload_n(x + i, w), m, r), w), t.v[q]);
    });
    return (struct two){lanes_total(s), lanes_total(t)};
}

INLINE struct two row_two(const float *grad, const float *weight, const float *x, float mean, float rstd, int64_t n) {
    if (n <= CHUNK) return chunk_two(grad, weight, x, mean, rstd, n);
    struct totals s, t;
    totals_begin(&s);
    totals_begin(&t);
    for (int64_t i = 0; i < n; i += CHUNK) {
        struct two part = chunk_two(grad + i, weight ? weight + i : NULL, x + i, mean, rstd, least(CHUNK, n - i));
        totals_add(&s, part.s);
        totals_add(&t, part.t);
    }
    return (struct two){totals_end(&s), totals_end(&t)};
}

/* One row: its dx, and its part in the lanes of dweight and dbias; NULL where not wanted. */
INLINE void layer_backward_row(const struct layer *it, int64_t row, float *dweight, float *dbias) {
    const int64_t n = it->n;
    const float *grad = it->grad + row * n, *x = it->x + row * n, *weight = it->weight;
    float *dx = it->dx ? it->dx + row * n : NULL;
    const vf m = vset(it->given_mean[row]), r = vset(it->given_rstd[row]);
    vf s = {0}, t = {0};
    if (dx) {
        struct two sums = row_two(grad, weight, x, m[0], r[0], n);
        s = vset(sums.s / (float)n);
        t = vset(sums.t / (float)n);
    }
    FOR_VECTORS(i, w, 0, n) {
        vf d = vload_n(grad + i, w), h = normed(vload_n(x + i, w), m, r);
        if (dweight) vstore_n(dweight + i, vfma(d, h, vload_n(dweight + i, w)), w);
        if (dbias) vstore_n(dbias + i, vload_n(dbias + i, w) + d, w);
        if (dx) {
            vf g = weight ? d * vload_n(weight + i, w) : d;
            vstore_n(dx + i, (g - vfma(h, t, s)) * r, w);
        }
    }
}

static int layer_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct layer *it = ctx;
    for (int64_t row = begin; row < end; row++) layer_backward_row(it, row, NULL, NULL);
    return TOLSEY_OK;
}

static int layer_backward_lane_task(void *ctx, int64_t begin, int64_t end) {
    const struct layer *it = ctx;
    for (int64_t lane = begin; lane < end; lane++) {
        float *sums = it->lanes + lane * it->width;
        float *dweight = it->wants_weight ? sums : NULL;
        float *dbias = it->wants_bias ? sums + (it->wants_weight ? it->n : 0) : NULL;
        memset(sums, 0, sizeof(float) * (size_t)it->width);
        const int64_t first = lane / it->lane_rows * CHUNK, last = least(first + CHUNK, it->rows);
        for (int64_t row = first + lane % it->lane_rows; row < last; row += LANES)
            layer_backward_row(it, row, dweight, dbias);
    }
    return TOLSEY_OK;
}

/* dx: [rows, n], dweight and dbias: [n]; each NULL where it is not wanted. */
TOLSEY_EXPORT int tolsey_layer_norm_backward(const float *grad, const float *x, const float *mean, const float *rstd,
                                             const float *weight, float *dx, float *dweight, float *dbias, int64_t rows,
                                             int64_t n) {
    LAWFUL_ENTRY;
    if (rows < 0 || n < 0) return TOLSEY_BAD_ARGUMENT;
    if (n == 0) return TOLSEY_OK;
    struct layer it = {.grad = grad, .x = x, .given_mean = mean, .given_rstd = rstd, .weight = weight, .dx = dx, .rows = rows, .n = n};
    if (!dweight && !dbias) return dx ? tolsey_parallel(rows, (1 << 13) / n, layer_backward_task, &it) : TOLSEY_OK;

    const int64_t chunks = most(1, (rows + CHUNK - 1) / CHUNK);
    it.wants_weight = dweight != NULL;
    it.wants_bias = dbias != NULL;
    it.width = n * (it.wants_weight + it.wants_bias);
    it.lane_rows = chunks > 1 ? LANES : least(rows, LANES);
    it.lanes = tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)((chunks * it.lane_rows + chunks + 1) * it.width));
    if (!it.lanes) return TOLSEY_NO_MEMORY;
    int answer = tolsey_parallel(chunks * it.lane_rows, 1, layer_backward_lane_task, &it);
    float *of_chunks = it.lanes + chunks * it.lane_rows * it.width, *total = of_chunks + chunks * it.width;
    if (!answer) answer = tolsey_sum(it.lanes, of_chunks, 3, (int64_t[]){chunks, it.lane_rows, it.width}, 2);
    if (!answer) answer = tolsey_sum(of_chunks, total, 2, (int64_t[]){chunks, it.width}, 1);
    if (answer) return answer;
    if (dweight) memcpy(dweight, total, sizeof(float) * (size_t)n);
    if (dbias) memcpy(dbias, total + it.width - n, sizeof(float) * (size_t)n);
    return TOLSEY_OK;
}

/* ---------------------------------------------------------------- channels */

/* A tensor [examples, channels, places]. Statistics of channel c in example e are at e * example_step + c / per_group: batch
 * norm has one per channel (0, 1), group norm one per example and group. */
struct channels {
    const float *grad, *x, *mean, *rstd, *weight, *bias;
    const float *s, *t; /* means of g and g * h, like the statistics */
    float *y, *sum, *product;
    int64_t examples, channels, places, example_step, per_group, chunks;
    int how;
};

INLINE int64_t statistic(const struct channels *it, int64_t example, int64_t channel) {
    return example * it->example_step + channel / it->per_group;
}

/* S(grad) and D(grad, h) of each channel over examples and places: pieces are (channel, chunk). A chunk is a run of places
 * for each of some examples; where runs are whole multiples of the lanes they are folded as they lie, else gathered. */
static int channel_sums_task(void *ctx, int64_t begin, int64_t end) {
    const struct channels *it = ctx;
    const int gathers = it->places % LANES != 0;
    float grad[CHUNK], h[CHUNK];
    for (int64_t piece = begin; piece < end; piece++) {
        const int64_t channel = piece / it->chunks, first = piece % it->chunks * CHUNK;
        const int64_t n = least(CHUNK, it->examples * it->places - first);
        struct lanes sum = {0}, product = {0};
        int64_t example = first / it->places, place = first % it->places, which = statistic(it, example, channel);
        for (int64_t at = 0; at < n; example++, place = 0, which += it->example_step) {
            const int64_t count = least(it->places - place, n - at);
            const int64_t from = (example * it->channels + channel) * it->places + place;
            const vf m = vset(it->mean[which]), r = vset(it->rstd[which]);
            if (gathers) {
                FOR_VECTORS(i, w, 0, count) {
                    vstore_n(grad + at + i, vload_n(it->grad + from + i, w), w);
                    vstore_n(h + at + i, normed(vload_n(it->x + from + i, w), m, r), w);
                }
            } else {
                FOR_LANES(count, {
                    vf g = vload_n(it->grad + from + i, w);
                    sum.v[q] = sum.v[q] + g;
                    product.v[q] = vfma(g, normed(vload_n(it->x + from + i, w), m, r), product.v[q]);
                });
            }
            at += count;
        }
        it->sum[piece] = gathers ? chunk_sum(grad, n) : lanes_total(sum);
        it->product[piece] = gathers ? chunk_dot(grad, h, n) : lanes_total(product);
    }
    return TOLSEY_OK;
}

/* The same where a channel has one place: columns of [examples, channels], statistics by channel. */
static int channel_columns_task(void *ctx, int64_t begin, int64_t end) {
    const struct channels *it = ctx;
    struct columns *sums = tolsey_scratch(SCRATCH_ROW, 2 * sizeof *sums);
    if (!sums) return TOLSEY_NO_MEMORY;
    for (int64_t panel = begin; panel < end; panel++) {
        const int64_t first = panel * PANEL, width = least(PANEL, it->channels - first);
        columns_begin(&sums[0]);
        columns_begin(&sums[1]);
        for (int64_t example = 0; example < it->examples; example++) {
            const int64_t at = example * it->channels + first;
            float *sum = columns_next(&sums[0], 0), *product = columns_next(&sums[1], 0);
            FOR_VECTORS(j, w, 0, width) {
                vf g = vload_n(it->grad + at + j, w);
                vf h = normed(vload_n(it->x + at + j, w), vload_n(it->mean + first + j, w), vload_n(it->rstd + first + j, w));
                vstore(sum + j, vload(sum + j) + g);
                vstore(product + j, vfma(g, h, vload(product + j)));
            }
            columns_added(&sums[0]);
            columns_added(&sums[1]);
        }
        memcpy(it->sum + first, columns_end(&sums[0]), sizeof(float) * (size_t)width);
        memcpy(it->product + first, columns_end(&sums[1]), sizeof(float) * (size_t)width);
    }
    return TOLSEY_OK;
}

/* Both sums of every channel, into dbias and dweight. Uses SCRATCH_EXTRA where a channel is longer than a chunk. */
static int channel_sums(struct channels it, float *dweight, float *dbias) {
    if (it.places == 1 && it.example_step == 0) {
        it.sum = dbias;
        it.product = dweight;
        return tolsey_parallel((it.channels + PANEL - 1) / PANEL, 1, channel_columns_task, &it);
    }
    const int64_t n = it.examples * it.places;
    it.chunks = most(1, (n + CHUNK - 1) / CHUNK);
    const int64_t pieces = it.channels * it.chunks;
    it.sum = it.chunks == 1 ? dbias : tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)(2 * pieces));
    it.product = it.chunks == 1 ? dweight : it.sum + pieces;
    if (!it.sum) return TOLSEY_NO_MEMORY;
    int answer = tolsey_parallel(pieces, (1 << 13) / (least(n, CHUNK) + 1), channel_sums_task, &it);
    if (answer || it.chunks == 1) return answer;
    const int64_t sizes[] = {it.channels, it.chunks};
    answer = tolsey_sum(it.sum, dbias, 2, sizes, 2);
    return answer ? answer : tolsey_sum(it.product, dweight, 2, sizes, 2);
}

/* What is written for every element, from what holds for its channel. */
enum { SCALE, CENTRED, DAMPED };
INLINE vf element(int how, vf g, vf x, vf m, vf r, const struct channels *it, vf weight, vf bias, vf s, vf t) {
    if (how == SCALE) return scaled(normed(x, m, r), it->weight, weight, it->bias, bias);
    vf rw = it->weight ? r * weight : r;
    return how == CENTRED ? (g - vfma(normed(x, m, r), t, s)) * rw : g * rw;
}

INLINE int elements_task(int how, const struct channels *it, int64_t begin, int64_t end) {
    int64_t example = begin / it->channels, channel = begin % it->channels;
    int64_t which = statistic(it, example, channel), in_group = channel % it->per_group;
    for (int64_t run = begin; run < end; run++) {
        const int64_t at = run * it->places;
        const vf m = vset(it->mean[which]), r = vset(it->rstd[which]), none = {0};
        const vf weight = it->weight ? vset(it->weight[channel]) : none, bias = it->bias ? vset(it->bias[channel]) : none;
        const vf s = how == CENTRED ? vset(it->s[which]) : none, t = how == CENTRED ? vset(it->t[which]) : none;
        FOR_VECTORS(i, w, 0, it->places) {
            vf g = how == SCALE ? none : vload_n(it->grad + at + i, w), x = how == DAMPED ? none : vload_n(it->x + at + i, w);
            vstore_n(it->y + at + i, element(how, g, x, m, r, it, weight, bias, s, t), w);
        }
        if (++in_group == it->per_group) in_group = 0, which++;
        if (++channel == it->channels) channel = 0, which = statistic(it, ++example, 0);
    }
    return TOLSEY_OK;
}

/* One place a channel, statistics by channel: vectors run over channels. */
INLINE int flat_task(int how, const struct channels *it, int64_t begin, int64_t end) {
    const vf none = {0};
    for (int64_t example = begin; example < end; example++) {
        const int64_t at = example * it->channels;
        FOR_VECTORS(i, w, 0, it->channels) {
            vf g = how == SCALE ? none : vload_n(it->grad + at + i, w), x = how == DAMPED ? none : vload_n(it->x + at + i, w);
            vf weight = it->weight ? vload_n(it->weight + i, w) : none, bias = it->bias ? vload_n(it->bias + i, w) : none;
            vf s = how == CENTRED ? vload_n(it->s + i, w) : none, t = how == CENTRED ? vload_n(it->t + i, w) : none;
            vf m = vload_n(it->mean + i, w), r = vload_n(it->rstd + i, w);
            vstore_n(it->y + at + i, element(how, g, x, m, r, it, weight, bias, s, t), w);
        }
    }
    return TOLSEY_OK;
}

#define ELEMENTS(HOW)                                                                                                  \
    static int elements_##HOW(void *it, int64_t begin, int64_t end) { return elements_task(HOW, it, begin, end); }     \
    static int flat_##HOW(void *it, int64_t begin, int64_t end) { return flat_task(HOW, it, begin, end); }
ELEMENTS(SCALE)
ELEMENTS(CENTRED)
ELEMENTS(DAMPED)

static int elements(int how, struct channels it) {
    static const tolsey_task over_places[] = {elements_SCALE, elements_CENTRED, elements_DAMPED};
    static const tolsey_task over_channels[] = {flat_SCALE, flat_CENTRED, flat_DAMPED};
    if (it.places == 1 && it.example_step == 0)
        return tolsey_parallel(it.examples, (1 << 13) / (it.channels + 1), over_channels[how], &it);
    return tolsey_parallel(it.examples * it.channels, (1 << 13) / (it.places + 1), over_places[how], &it);
}

/* ---------------------------------------------------------------- group norm */

struct group {
    const float *x, *weight, *bias;
    float *y, *mean, *rstd;
    int64_t groups, per_group, places;
    float eps;
};

static int group_task(void *ctx, int64_t begin, int64_t end) {
    const struct group *it = ctx;
    const int64_t n = it->per_group * it->places;
    const vf none = {0};
    for (int64_t group = begin; group < end; group++) {
        const float *x = it->x + group * n;
        const float mean = row_sum(x, n) / (float)n, rstd = deviation(row_squares(x, mean, n) / (float)n, it->eps);
        const vf m = vset(mean), r = vset(rstd);
        const int64_t first = group % it->groups * it->per_group;
        for (int64_t c = 0; c < it->per_group; c++) {
            const vf weight = it->weight ? vset(it->weight[first + c]) : none;
            const vf bias = it->bias ? vset(it->bias[first + c]) : none;
            FOR_VECTORS(i, w, c * it->places, (c + 1) * it->places) {
                vf h = normed(vload_n(x + i, w), m, r);
                vstore_n(it->y + group * n + i, scaled(h, it->weight, weight, it->bias, bias), w);
            }
        }
        it->mean[group] = mean;
        it->rstd[group] = rstd;
    }
    return TOLSEY_OK;
}

/* x: [examples, channels, places]; mean and rstd: [examples, groups]; weight and bias: [channels] or NULL. */
TOLSEY_EXPORT int tolsey_group_norm(const float *x, const float *weight, const float *bias, float *y, float *mean, float *rstd,
                                    int64_t examples, int64_t channels, int64_t places, int64_t groups, double eps) {
    LAWFUL_ENTRY;
    if (examples < 0 || channels < 0 || places < 0 || groups < 1 || channels % groups != 0) return TOLSEY_BAD_ARGUMENT;
    struct group it = {x, weight, bias, y, mean, rstd, groups, channels / groups, places, (float)eps};
    return tolsey_parallel(examples * groups, (1 << 13) / (it.per_group * places + 1), group_task, &it);
}

/* dx of whole groups; weight by channel. */
static int group_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct channels *it = ctx;
    const int64_t n = it->per_group * it->places;
    float g[CHUNK];
    for (int64_t group = begin; group < end; group++) {
        const float *x = it->x + group * n, *grad = it->grad + group * n;
        const float *weight = it->weight ? it->weight + group % it->example_step * it->per_group : NULL;
        const float mean = it->mean[group], rstd = it->rstd[group];
        struct totals s, t;
        totals_begin(&s);
        totals_begin(&t);
        for (int64_t first = 0; first < n; first += CHUNK) {
            const int64_t length = least(CHUNK, n - first);
            for (int64_t at = 0; weight && at < length;) {
                const int64_t channel = (first + at) / it->places;
                const int64_t count = least((channel + 1) * it->places - first - at, length - at);
                const vf scale = vset(weight[channel]);
                FOR_VECTORS(i, w, 0, count) { vstore_n(g + at + i, vload_n(grad + first + at + i, w) * scale, w); }
                at += count;
            }
            struct two part = chunk_two(weight ? g : grad + first, NULL, x + first, mean, rstd, length);
            totals_add(&s, part.s);
            totals_add(&t, part.t);
        }
        const vf m = vset(mean), r = vset(rstd), gs = vset(totals_end(&s) / (float)n), gt = vset(totals_end(&t) / (float)n);
        for (int64_t channel = 0; channel < it->per_group; channel++) {
            const vf scale = weight ? vset(weight[channel]) : r;
            const int64_t at = channel * it->places;
            FOR_VECTORS(i, w, at, at + it->places) {
                vf d = vload_n(grad + i, w);
                if (weight) d = d * scale;
                vstore_n(it->y + group * n + i, (d - vfma(normed(vload_n(x + i, w), m, r), gt, gs)) * r, w);
            }
        }
    }
    return TOLSEY_OK;
}

/* dx: as x; dweight and dbias: [channels]; each NULL where it is not wanted. */
TOLSEY_EXPORT int tolsey_group_norm_backward(const float *grad, const float *x, const float *mean, const float *rstd,
                                             const float *weight, float *dx, float *dweight, float *dbias, int64_t examples,
                                             int64_t channels, int64_t places, int64_t groups) {
    LAWFUL_ENTRY;
    if (examples < 0 || channels < 0 || places < 0 || groups < 1 || channels % groups != 0) return TOLSEY_BAD_ARGUMENT;
    if (channels == 0) return TOLSEY_OK;
    struct channels it = {.grad = grad, .x = x, .mean = mean, .rstd = rstd, .weight = weight, .y = dx, .examples = examples,
                          .channels = channels, .places = places, .example_step = groups, .per_group = channels / groups};
    int answer = TOLSEY_OK;
    if (dx) answer = tolsey_parallel(examples * groups, (1 << 13) / (it.per_group * places + 1), group_backward_task, &it);
    if (answer || (!dweight && !dbias)) return answer;
    float *spare = tolsey_scratch(SCRATCH_COLUMNS, sizeof(float) * (size_t)channels);
    if (!spare) return TOLSEY_NO_MEMORY;
    return channel_sums(it, dweight ? dweight : spare, dbias ? dbias : spare);
}

/* ---------------------------------------------------------------- batch norm */

/* x: [examples, channels, places]; all others: [channels]. Training gives saved_mean, saved_rstd and the new running ones
 * from the batch; else saved_* are not written (may be NULL) and the running ones are copied. */
TOLSEY_EXPORT int tolsey_batch_norm(const float *x, const float *weight, const float *bias, const float *running_mean,
                                    const float *running_variance, float *y, float *saved_mean, float *saved_rstd,
                                    float *new_mean, float *new_variance, int64_t examples, int64_t channels, int64_t places,
                                    int32_t training, double momentum, double eps) {
    LAWFUL_ENTRY;
    if (examples < 0 || channels < 0 || places < 0) return TOLSEY_BAD_ARGUMENT;
    float *rstd = training ? saved_rstd : tolsey_scratch(SCRATCH_COLUMNS, sizeof(float) * (size_t)(channels + 1));
    if (!rstd) return TOLSEY_NO_MEMORY;
    if (training) {
        const int64_t sizes[] = {examples, channels, places};
        const float n = (float)(examples * places), fewer = (float)(examples * places - 1);
        const float a = (float)momentum, k = (float)(1.0 - momentum);
        int answer = tolsey_mean(x, saved_mean, 3, sizes, 5);
        if (!answer) answer = tolsey_squares(x, saved_mean, rstd, 3, sizes, 5);
        if (answer) return answer;
        for (int64_t c = 0; c < channels; c++) {
            const float squares = rstd[c];
            new_mean[c] = sfma(saved_mean[c], a, running_mean[c] * k);
            new_variance[c] = sfma(squares / fewer, a, running_variance[c] * k);
            rstd[c] = deviation(squares / n, (float)eps);
        }
    } else {
        for (int64_t c = 0; c < channels; c++) {
            new_mean[c] = running_mean[c];
            new_variance[c] = running_variance[c];
            rstd[c] = deviation(running_variance[c], (float)eps);
        }
    }
    return elements(SCALE, (struct channels){.x = x, .mean = training ? saved_mean : running_mean, .rstd = rstd, .weight = weight,
                                             .bias = bias, .y = y, .examples = examples, .channels = channels,
                                             .places = places, .example_step = 0, .per_group = 1});
}

/* mean and spread are the saved ones in training (spread = 1 / deviation), else the running ones (spread = variance). dx: as
 * x; dweight and dbias: [channels]; each NULL where it is not wanted. */
TOLSEY_EXPORT int tolsey_batch_norm_backward(const float *grad, const float *x, const float *weight, const float *mean,
                                             const float *spread, float *dx, float *dweight, float *dbias, int64_t examples,
                                             int64_t channels, int64_t places, int32_t training, double eps) {
    LAWFUL_ENTRY;
    if (examples < 0 || channels < 0 || places < 0) return TOLSEY_BAD_ARGUMENT;
    float *own = tolsey_scratch(SCRATCH_COLUMNS, sizeof(float) * (size_t)(3 * channels + 1));
    if (!own) return TOLSEY_NO_MEMORY;
    float *rstd = own, *s = own + channels, *t = s + channels;
    for (int64_t c = 0; c < channels; c++) rstd[c] = training ? spread[c] : deviation(spread[c], (float)eps);
    struct channels it = {.grad = grad, .x = x, .mean = mean, .rstd = rstd, .weight = weight, .s = s, .t = t, .y = dx,
                          .examples = examples, .channels = channels, .places = places, .example_step = 0, .per_group = 1};
    if (training || dweight || dbias) {
        int answer = channel_sums(it, t, s);
        if (answer) return answer;
        if (dweight) memcpy(dweight, t, sizeof(float) * (size_t)channels);
        if (dbias) memcpy(dbias, s, sizeof(float) * (size_t)channels);
    }
    if (!dx) return TOLSEY_OK;
    const float n = (float)(examples * places);
    for (int64_t c = 0; c < channels; c++) {
        s[c] = s[c] / n;
        t[c] = t[c] / n;
    }
    return elements(training ? CENTRED : DAMPED, it);
}
