/* Pooling over windows of planes [height, width], forwards and backwards (docs/numerics/reductions.md, section 7).
 *
 * Along each axis a window of output o is a range of the input; the two axes are independent, so their ranges are worked out
 * once for all planes. A task is one plane. Backwards, a plane's outputs are taken in row-major order and add to what their
 * windows cover, which is the law's order for every element. */
#include "reduce.h"

/* Along one axis, for each output: first element, how many, and how many where the padding counts too. */
struct axis {
    int64_t *first, *count, *padded;
};

struct pooling {
    const float *grad, *x;
    const int64_t *given_place;
    float *y;
    int64_t *place;
    int64_t height, width, out_height, out_width;
    struct axis rows, columns;
    int64_t dilation[2], kernel[2];
    int64_t divisor;
    int counts_padding;
    /* windows of `kernel` elements that no edge cuts: how many, where each begins in its plane, which output it gives */
    int64_t whole, *whole_at, *whole_out;
    float whole_divisor;
};

/* Memory for both axes' ranges, and for the whole windows of a plane. */
static int axes(struct pooling *it) {
    const int64_t outs = it->out_height + it->out_width, windows = it->out_height * it->out_width;
    int64_t *at = tolsey_scratch(SCRATCH_EXTRA, sizeof(int64_t) * (size_t)(3 * outs + 2 * windows + 1));
    if (!at) return TOLSEY_NO_MEMORY;
    it->rows = (struct axis){at, at + it->out_height, at + 2 * it->out_height};
    at += 3 * it->out_height;
    it->columns = (struct axis){at, at + it->out_width, at + 2 * it->out_width};
    it->whole_at = at + 3 * it->out_width;
    it->whole_out = it->whole_at + windows;
    return TOLSEY_OK;
}

static int sizes_are_wrong(const struct pooling *it, int64_t planes) {
    return planes < 0 || it->height < 0 || it->width < 0 || it->out_height < 0 || it->out_width < 0;
}

/* ---------------------------------------------------------------- largest */

/* Elements `dilation` apart from o * stride - padding on; first is the first one inside. 0 where some window has none. */
static int spread_windows(struct axis *axis, int64_t outs, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t dilation) {
    for (int64_t o = 0; o < outs; o++) {
        int64_t begin = o * stride - padding, last = least(begin + (kernel - 1) * dilation, size - 1);
        int64_t before = begin < 0 ? (-begin + dilation - 1) / dilation : 0;
        axis->first[o] = begin + before * dilation;
        axis->count[o] = axis->first[o] <= last ? (last - axis->first[o]) / dilation + 1 : 0;
        if (before >= kernel || axis->count[o] <= 0) return 0;
    }
    return 1;
}

static int largest_task(void *ctx, int64_t begin, int64_t end) {
    const struct pooling *it = ctx;
    for (int64_t plane = begin; plane < end; plane++) {
        const float *x = it->x + plane * it->height * it->width;
        int64_t out = plane * it->out_height * it->out_width;
        for (int64_t oh = 0; oh < it->out_height; oh++)
            for (int64_t ow = 0; ow < it->out_width; ow++, out++) {
                int64_t place = it->rows.first[oh] * it->width + it->columns.first[ow];
                float held = x[place];
                for (int64_t i = 0; i < it->rows.count[oh]; i++) {
                    int64_t at = (it->rows.first[oh] + i * it->dilation[0]) * it->width + it->columns.first[ow];
                    for (int64_t j = 0; j < it->columns.count[ow]; j++, at += it->dilation[1])
                        if (!(x[at] <= held)) {
                            /* greater, or a NaN on either side: a held NaN yields to NaN only */
                            if (held != held && x[at] == x[at]) continue;
                            held = x[at];
                            place = at;
                        }
                }
                it->y[out] = held;
                it->place[out] = place;
            }
    }
    return TOLSEY_OK;
}

/* x: [planes, height, width]; y and place: [planes, out_height, out_width]; pairs are for rows and columns. */
TOLSEY_EXPORT int tolsey_max_pool2d(const float *x, float *y, int64_t *place, int64_t planes, int64_t height, int64_t width,
                                    int64_t out_height, int64_t out_width, const int64_t *kernel, const int64_t *stride,
                                    const int64_t *padding, const int64_t *dilation) {
    LAWFUL_ENTRY;
    struct pooling it = {.x = x, .y = y, .place = place, .height = height, .width = width, .out_height = out_height,
                         .out_width = out_width, .dilation = {dilation[0], dilation[1]}};
    if (sizes_are_wrong(&it, planes)) return TOLSEY_BAD_ARGUMENT;
    for (int d = 0; d < 2; d++)
        if (kernel[d] < 1 || stride[d] < 1 || padding[d] < 0 || dilation[d] < 1) return TOLSEY_BAD_ARGUMENT;
    int answer = axes(&it);
    if (answer) return answer;
    if (!spread_windows(&it.rows, out_height, height, kernel[0], stride[0], padding[0], dilation[0]) ||
        !spread_windows(&it.columns, out_width, width, kernel[1], stride[1], padding[1], dilation[1]))
        return TOLSEY_BAD_ARGUMENT;
    return tolsey_parallel(planes, (1 << 12) / (out_height * out_width + 1), largest_task, &it);
}

static int largest_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct pooling *it = ctx;
    const int64_t size = it->height * it->width, outs = it->out_height * it->out_width;
    for (int64_t plane = begin; plane < end; plane++) {
        float *dx = it->y + plane * size;
        memset(dx, 0, sizeof(float) * (size_t)size);
        for (int64_t out = plane * outs; out < (plane + 1) * outs; out++) {
            const int64_t place = it->given_place[out];
            if (place < 0 || place >= size) return TOLSEY_BAD_INDEX;
            dx[place] = dx[place] + it->grad[out];
        }
    }
    return TOLSEY_OK;
}

/* grad and place: [planes, out_height, out_width]; dx: [planes, height, width]. */
TOLSEY_EXPORT int tolsey_max_pool2d_backward(const float *grad, const int64_t *place, float *dx, int64_t planes, int64_t height,
                                             int64_t width, int64_t out_height, int64_t out_width) {
    LAWFUL_ENTRY;
    struct pooling it = {.grad = grad, .given_place = place, .y = dx, .height = height, .width = width,
                         .out_height = out_height, .out_width = out_width};
    if (sizes_are_wrong(&it, planes)) return TOLSEY_BAD_ARGUMENT;
    return tolsey_parallel(planes, (1 << 12) / (height * width + 1), largest_backward_task, &it);
}

/* ---------------------------------------------------------------- mean */

/* A number of elements as binary32: what the sum of a window is divided by. */
INLINE float divisor(const struct pooling *it, int64_t oh, int64_t ow) {
    if (it->divisor) return (float)it->divisor;
    if (it->counts_padding) return (float)(it->rows.padded[oh] * it->columns.padded[ow]);
    return (float)(it->rows.count[oh] * it->columns.count[ow]);
}

/* Whether no edge cuts a window of at most 32 elements; kernel is 0 where windows have no one size. */
INLINE int is_whole(const struct pooling *it, int64_t oh, int64_t ow) {
    const int64_t rows = it->rows.count[oh], columns = it->columns.count[ow];
    return rows > 0 && rows == it->kernel[0] && columns == it->kernel[1] && rows * columns <= LANES;
}

/* S of a window of at most 32 elements: a lane has one of them, so only the tree is left. */
INLINE float small_window(const float *x, int64_t rows, int64_t columns, int64_t width) {
    float lane[LANES];
    int64_t n = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) lane[n++] = 0.0f + x[i * width + j];
    for (int64_t h = LANES / 2; h > 0; h /= 2) {
        for (int64_t j = 0; j + h < n && j < h; j++) lane[j] = lane[j] + lane[j + h];
        n = least(n, h);
    }
    return n ? lane[0] : 0.0f;
}

/* S of any window: whole rows of the plane lie in one piece, others are gathered a chunk at a time. */
static float large_window(const float *x, int64_t rows, int64_t columns, int64_t width) {
    if (columns == width) return row_sum(x, rows * columns);
    float chunk[CHUNK];
    struct totals total;
    totals_begin(&total);
    int64_t held = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns;) {
            const int64_t count = least(columns - j, CHUNK - held);
            memcpy(chunk + held, x + i * width + j, sizeof(float) * (size_t)count);
            held += count;
            j += count;
            if (held < CHUNK) continue;
            totals_add(&total, chunk_sum(chunk, held));
            held = 0;
        }
    if (held) totals_add(&total, chunk_sum(chunk, held));
    return totals_end(&total);
}

/* Means of windows that no edge cuts, at most 32 elements each: PANEL side by side, a lane row for each element. The tree over
 * lanes that are the elements, not +0 plus them, differs where all are -0 only, and there by the sign of the result. */
static void whole_windows(const struct pooling *it, const float *x, float *y) {
    float lane[LANES * PANEL];
    for (int64_t first = 0; first < it->whole; first += PANEL) {
        const int64_t here = least(PANEL, it->whole - first), *at = it->whole_at + first, *out = it->whole_out + first;
        int64_t n = 0;
        for (int64_t i = 0; i < it->kernel[0]; i++)
            for (int64_t j = 0; j < it->kernel[1]; j++, n++) {
                const float *from = x + i * it->width + j;
                for (int64_t k = 0; k < here; k++) lane[n * PANEL + k] = from[at[k]];
            }
        lane_rows_total(lane, n, PANEL, here);
        const vf by = vset(it->whole_divisor);
        for (int64_t k = 0; k < here; k += VW) vstore(lane + k, (vload(lane + k) + (vf){0}) / by);
        for (int64_t k = 0; k < here; k++) y[out[k]] = lane[k];
    }
}

static int mean_task(void *ctx, int64_t begin, int64_t end) {
    const struct pooling *it = ctx;
    for (int64_t plane = begin; plane < end; plane++) {
        const float *x = it->x + plane * it->height * it->width;
        float *y = it->y + plane * it->out_height * it->out_width;
        whole_windows(it, x, y);
        for (int64_t oh = 0; oh < it->out_height; oh++)
            for (int64_t ow = 0; ow < it->out_width; ow++) {
                if (is_whole(it, oh, ow)) continue;
                const int64_t rows = it->rows.count[oh], columns = it->columns.count[ow];
                const float *from = x + it->rows.first[oh] * it->width + it->columns.first[ow];
                const float sum = rows * columns <= LANES ? small_window(from, rows, columns, it->width)
                                                          : large_window(from, rows, columns, it->width);
                y[oh * it->out_width + ow] = rows > 0 && columns > 0 ? sum / divisor(it, oh, ow) : 0.0f;
            }
    }
    return TOLSEY_OK;
}

static int mean_backward_task(void *ctx, int64_t begin, int64_t end) {
    const struct pooling *it = ctx;
    for (int64_t plane = begin; plane < end; plane++) {
        float *dx = it->y + plane * it->height * it->width;
        const float *grad = it->grad + plane * it->out_height * it->out_width;
        memset(dx, 0, sizeof(float) * (size_t)(it->height * it->width));
        for (int64_t oh = 0; oh < it->out_height; oh++)
            for (int64_t ow = 0; ow < it->out_width; ow++) {
                const float part = *grad++ / divisor(it, oh, ow);
                float *to = dx + it->rows.first[oh] * it->width + it->columns.first[ow];
                for (int64_t i = 0; i < it->rows.count[oh]; i++, to += it->width)
                    for (int64_t j = 0; j < it->columns.count[ow]; j++) to[j] = to[j] + part;
            }
    }
    return TOLSEY_OK;
}

/* Elements o * stride - padding …, kernel of them, cut at the plane; `padded` cut at its padding only. */
static void even_windows(struct axis *axis, int64_t outs, int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
    for (int64_t o = 0; o < outs; o++) {
        const int64_t begin = o * stride - padding, end = least(begin + kernel, size + padding);
        axis->padded[o] = end - begin;
        axis->first[o] = most(begin, 0);
        axis->count[o] = most(0, least(end, size) - axis->first[o]);
    }
}

/* Elements floor(o * size / outs) … ceil((o + 1) * size / outs) - 1. */
static void fitting_windows(struct axis *axis, int64_t outs, int64_t size) {
    for (int64_t o = 0; o < outs; o++) {
        axis->first[o] = o * size / outs;
        axis->count[o] = axis->padded[o] = ((o + 1) * size + outs - 1) / outs - axis->first[o];
    }
}

static int average(struct pooling it, int64_t planes, const int64_t *kernel, const int64_t *stride, const int64_t *padding,
                   tolsey_task task) {
    for (int d = 0; d < 2; d++)
        if (kernel[d] < 1 || stride[d] < 1 || padding[d] < 0) return TOLSEY_BAD_ARGUMENT;
    int answer = sizes_are_wrong(&it, planes) ? TOLSEY_BAD_ARGUMENT : axes(&it);
    if (answer) return answer;
    even_windows(&it.rows, it.out_height, it.height, kernel[0], stride[0], padding[0]);
    even_windows(&it.columns, it.out_width, it.width, kernel[1], stride[1], padding[1]);
    it.kernel[0] = kernel[0];
    it.kernel[1] = kernel[1];
    for (int64_t oh = 0; oh < it.out_height; oh++)
        for (int64_t ow = 0; ow < it.out_width; ow++) {
            if (!is_whole(&it, oh, ow)) continue;
            it.whole_at[it.whole] = it.rows.first[oh] * it.width + it.columns.first[ow];
            it.whole_out[it.whole++] = oh * it.out_width + ow;
            it.whole_divisor = divisor(&it, oh, ow);
        }
    return tolsey_parallel(planes, (1 << 12) / (it.out_height * it.out_width + 1), task, &it);
}

static int adaptive(struct pooling it, int64_t planes, tolsey_task task) {
    int answer = sizes_are_wrong(&it, planes) ? TOLSEY_BAD_ARGUMENT : axes(&it);
    if (answer) return answer;
    fitting_windows(&it.rows, it.out_height, it.height);
    fitting_windows(&it.columns, it.out_width, it.width);
    return tolsey_parallel(planes, (1 << 12) / (it.height * it.width + 1), task, &it);
}

/* Shapes as for max_pool2d; divisor 0: the number of elements, with the padding where `counts_padding`. */
TOLSEY_EXPORT int tolsey_avg_pool2d(const float *x, float *y, int64_t planes, int64_t height, int64_t width, int64_t out_height,
                                    int64_t out_width, const int64_t *kernel, const int64_t *stride, const int64_t *padding,
                                    int32_t counts_padding, int64_t divisor) {
    LAWFUL_ENTRY;
    struct pooling it = {.x = x, .y = y, .height = height, .width = width, .out_height = out_height, .out_width = out_width,
                         .divisor = divisor, .counts_padding = counts_padding};
    return average(it, planes, kernel, stride, padding, mean_task);
}

TOLSEY_EXPORT int tolsey_avg_pool2d_backward(const float *grad, float *dx, int64_t planes, int64_t height, int64_t width,
                                             int64_t out_height, int64_t out_width, const int64_t *kernel,
                                             const int64_t *stride, const int64_t *padding, int32_t counts_padding,
                                             int64_t divisor) {
    LAWFUL_ENTRY;
    struct pooling it = {.grad = grad, .y = dx, .height = height, .width = width, .out_height = out_height,
                         .out_width = out_width, .divisor = divisor, .counts_padding = counts_padding};
    return average(it, planes, kernel, stride, padding, mean_backward_task);
}

TOLSEY_EXPORT int tolsey_adaptive_avg_pool2d(const float *x, float *y, int64_t planes, int64_t height, int64_t width,
                                             int64_t out_height, int64_t out_width) {
    LAWFUL_ENTRY;
    struct pooling it = {.x = x, .y = y, .height = height, .width = width, .out_height = out_height, .out_width = out_width};
    return adaptive(it, planes, mean_task);
}

TOLSEY_EXPORT int tolsey_adaptive_avg_pool2d_backward(const float *grad, float *dx, int64_t planes, int64_t height,
                                                      int64_t width, int64_t out_height, int64_t out_width) {
    LAWFUL_ENTRY;
    struct pooling it = {.grad = grad, .y = dx, .height = height, .width = width, .out_height = out_height, .out_width = out_width};
    return adaptive(it, planes, mean_backward_task);
}
