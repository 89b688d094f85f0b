/* Windows over the last two dims, forwards and backwards: docs/numerics/reductions.md, section 7. A thread for each result: an
 * output scans its window, an input's gradient scans the outputs whose windows hold it, in their order. The gradient of
 * max_pool2d is a scatter (lookups.cu). */
#include "warps.h"

struct planes {
    int64_t count, height, width, out_height, out_width;
    int64_t kernel[2], stride[2], padding[2], dilation[2];
    int32_t fitting, count_padding; /* fitting: windows of adaptive pooling */
    int64_t divisor;                /* 0: none */
};

/* Rows (axis 0) or columns of output `out` in a plane: first … past - 1 inside, and how many with the padding. */
struct span {
    int64_t first, past, padded;
};
INLINE span span_of(const struct planes &it, int axis, int64_t out) {
    const int64_t size = axis ? it.width : it.height, outs = axis ? it.out_width : it.out_height;
    if (it.fitting) {
        const int64_t first = out * size / outs, past = ((out + 1) * size + outs - 1) / outs;
        return span{first, past, past - first};
    }
    const int64_t first = out * it.stride[axis] - it.padding[axis], past = least(first + it.kernel[axis], size + it.padding[axis]);
    return span{most(first, 0), least(past, size), past - first};
}
INLINE float counted(const struct planes &it, const span &rows, const span &columns) {
    if (it.divisor) return (float)it.divisor;
    if (it.count_padding) return (float)(rows.padded * columns.padded);
    return (float)(most(rows.past - rows.first, 0) * most(columns.past - columns.first, 0));
}

/* S of a window's numbers by one thread, which holds all lanes; windows of more than a chunk by chunks. */
struct window_sum {
    float lanes[LANES], chunks[LANES];
    int64_t in_chunk, done;

    static __device__ float folded(float *lanes) {
        for (int half = LANES / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++) lanes[j] = lanes[j] + lanes[j + half];
        return lanes[0];
    }
    __device__ window_sum() : in_chunk(0), done(0) {
        for (int j = 0; j < LANES; j++) lanes[j] = chunks[j] = 0.0f;
    }
    __device__ void close_chunk() {
        chunks[done % LANES] = chunks[done % LANES] + folded(lanes);
        done++;
        in_chunk = 0;
        for (int j = 0; j < LANES; j++) lanes[j] = 0.0f;
    }
    __device__ void add(float x) {
        if (in_chunk == CHUNK) close_chunk();
        lanes[in_chunk % LANES] = lanes[in_chunk % LANES] + x;
        in_chunk++;
    }
    __device__ float total() {
        if (done == 0) return folded(lanes);
        close_chunk();
        return folded(chunks);
    }
};

KERNEL avg_pool2d(const struct planes it, const float *x, float *y) {
    FOR_PLACES(i, 0, it.count * it.out_height * it.out_width) {
        const int64_t plane = i / (it.out_height * it.out_width);
        const span rows = span_of(it, 0, i / it.out_width % it.out_height), columns = span_of(it, 1, i % it.out_width);
        const float *from = x + plane * it.height * it.width;
        float mean = 0.0f;
        if (rows.first < rows.past && columns.first < columns.past) {
            window_sum sum;
            for (int64_t row = rows.first; row < rows.past; row++)
                for (int64_t column = columns.first; column < columns.past; column++) sum.add(from[row * it.width + column]);
            mean = sum.total() / counted(it, rows, columns);
        }
        y[i] = mean;
    }
}

/* The first output whose window may hold `at`, and one past the last. */
INLINE span outs_of(const struct planes &it, int axis, int64_t at) {
    const int64_t size = axis ? it.width : it.height, outs = axis ? it.out_width : it.out_height;
    if (it.fitting) {
        int64_t first = at * outs / size, past = least(outs, first + 1);
        while (first > 0 && span_of(it, axis, first - 1).past > at) first--;
        while (past < outs && span_of(it, axis, past).first <= at) past++;
        while (first < past && span_of(it, axis, first).past <= at) first++;
        return span{first, past, 0};
    }
    const int64_t from = at + it.padding[axis] - it.kernel[axis] + 1;
    const int64_t first = from > 0 ? (from + it.stride[axis] - 1) / it.stride[axis] : 0;
    return span{first, least(outs, (at + it.padding[axis]) / it.stride[axis] + 1), 0};
}

KERNEL avg_pool2d_backward(const struct planes it, const float *grad, float *dx) {
    FOR_PLACES(i, 0, it.count * it.height * it.width) {
        const int64_t plane = i / (it.height * it.width);
        const span down = outs_of(it, 0, i / it.width % it.height), across = outs_of(it, 1, i % it.width);
        const float *from = grad + plane * it.out_height * it.out_width;
        float sum = 0.0f;
        for (int64_t oh = down.first; oh < down.past; oh++)
            for (int64_t ow = across.first; ow < across.past; ow++)
                sum = sum + from[oh * it.out_width + ow] / counted(it, span_of(it, 0, oh), span_of(it, 1, ow));
        dx[i] = sum;
    }
}

/* *wrong is raised by a window without element. */
KERNEL max_pool2d(const struct planes it, const float *x, float *y, int64_t *places, int32_t *wrong) {
    FOR_PLACES(i, 0, it.count * it.out_height * it.out_width) {
        const int64_t plane = i / (it.out_height * it.out_width);
        const int64_t top = i / it.out_width % it.out_height * it.stride[0] - it.padding[0];
        const int64_t left = i % it.out_width * it.stride[1] - it.padding[1];
        const float *from = x + plane * it.height * it.width;
        float held = 0.0f;
        int64_t at = -1;
        for (int64_t a = 0; a < it.kernel[0]; a++)
            for (int64_t b = 0; b < it.kernel[1]; b++) {
                const int64_t row = top + a * it.dilation[0], column = left + b * it.dilation[1];
                if (row < 0 || row >= it.height || column < 0 || column >= it.width) continue;
                const float found = from[row * it.width + column];
                if (at >= 0 && !(found > held || found != found)) continue;
                held = found;
                at = row * it.width + column;
            }
        if (at < 0) *wrong = 1;
        y[i] = held;
        places[i] = at;
    }
}
