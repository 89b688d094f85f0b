/* Convolutions in one to three dimensions as products over an image seen through a window (docs/numerics/products.md, section
 * 3); nothing is unrolled in memory. As native/conv.c:
 *
 *   forward           C[channel out, position]     = weight        x  input seen at (channel in, t)
 *   backward input    C[channel in, position]      = weight turned x  output gradient seen at (channel out, t)
 *   backward weight   C[channel out, (in, t)]      = output gradient x  input, over (image, place of the output)
 *
 * A *window* sees, from position (image, a) and tap (channel, t), the source at a * step + first + t * apart in each dimension,
 * or +0 where that lies outside. In the backward input with a stride, positions of equal remainder make a *phase*: within it
 * the same taps meet every position. blockIdx.z counts the groups. */
#include "coordinates.h"
#include "gemm.h"

struct window {
    int64_t images, groups, channels_up, channels_down; /* channels of a group: of the lines of C, and of the source */
    int64_t size[DIMENSIONS];                           /* of the source */
    int64_t grid[DIMENSIONS], step[DIMENSIONS];         /* positions */
    int64_t taps[DIMENSIONS], first[DIMENSIONS], apart[DIMENSIONS];
    int64_t kernel[DIMENSIONS], tap_first[DIMENSIONS], tap_apart[DIMENSIONS]; /* of a tap in the weight */
    int64_t out[DIMENSIONS], out_first[DIMENSIONS], out_apart[DIMENSIONS];    /* of a position in the result */
};

INLINE int64_t volume(const int64_t *size) { return size[0] * size[1] * size[2]; }
INLINE int64_t index_in(const int64_t *size, const int64_t *at) { return (at[0] * size[1] + at[1]) * size[2] + at[2]; }

/* What the position and the tap see. source: [images, groups * channels, size], from this group's first channel on. */
INLINE float seen(const window &it, const float *source, const coordinates &position, const coordinates &tap) {
    int64_t at[DIMENSIONS];
    bool inside = true;
    UNROLL for (int d = 0; d < DIMENSIONS; d++) {
        at[d] = position.at[d] * it.step[d] + it.first[d] + tap.at[d] * it.apart[d];
        inside = inside && at[d] >= 0 && at[d] < it.size[d];
    }
    const int64_t plane = position.outer * it.groups * it.channels_down + tap.outer;
    return inside ? source[plane * volume(it.size) + index_in(it.size, at)] : 0.0f;
}

/* A side of the product whose lines and ks are decoded: `line_is_position` where lines are positions and ks taps, else the
 * other way round. */
template <bool LINE_IS_POSITION> struct seen_side {
    const window *it;
    const float *source;

    struct cursor {
        const seen_side *side;
        coordinates line;
        int64_t k;
        __device__ four load(int count) const {
            if (count <= 0) return four{};
            const window &it = *side->it;
            const int64_t *sizes = LINE_IS_POSITION ? it.taps : it.grid;
            four quad;
            coordinates along(k, sizes);
            UNROLL for (int e = 0; e < 4; e++, along.next(sizes)) {
                quad.number[e] = 0.0f;
                const coordinates &position = LINE_IS_POSITION ? line : along, &tap = LINE_IS_POSITION ? along : line;
                if (e < count) quad.number[e] = seen(it, side->source, position, tap);
            }
            return quad;
        }
        __device__ void next(int ks) { k += ks; }
    };
    __device__ bool along_k() const { return true; }
    __device__ cursor at(int64_t line, int64_t k) const {
        return cursor{this, coordinates(line, LINE_IS_POSITION ? it->grid : it->taps), k};
    }
};

/* weight [groups * channels_down, channels_up, kernel] of this group, turned: a line is a channel up, k a (channel down, t). */
struct turned_weight {
    const window *it;
    const float *weight;

    struct cursor {
        const turned_weight *side;
        int64_t line, k;
        __device__ four load(int count) const {
            if (count <= 0) return four{};
            const window &it = *side->it;
            four quad;
            coordinates tap(k, it.taps);
            UNROLL for (int e = 0; e < 4; e++, tap.next(it.taps)) {
                int64_t at[DIMENSIONS];
                UNROLL for (int d = 0; d < DIMENSIONS; d++) at[d] = it.tap_first[d] + tap.at[d] * it.tap_apart[d];
                const int64_t place = (tap.outer * it.channels_up + line) * volume(it.kernel) + index_in(it.kernel, at);
                quad.number[e] = e < count ? side->weight[place] : 0.0f;
            }
            return quad;
        }
        __device__ void next(int ks) { k += ks; }
    };
    __device__ bool along_k() const { return true; }
    __device__ cursor at(int64_t line, int64_t k) const { return cursor{this, line, k}; }
};

/* gradient [images, groups * channels_up, grid], from this group's first channel on: a line is a channel, k a position. */
struct gradient_side {
    const window *it;
    const float *gradient;

    struct cursor {
        const gradient_side *side;
        int64_t line, k;
        __device__ four load(int count) const {
            if (count <= 0) return four{};
            const window &it = *side->it;
            const uint32_t places = (uint32_t)volume(it.grid);
            uint32_t image = (uint32_t)k / places, place = (uint32_t)k % places;
            four quad;
            UNROLL for (int e = 0; e < 4; e++) {
                const int64_t plane = image * it.groups * it.channels_up + line;
                quad.number[e] = e < count ? side->gradient[plane * places + place] : 0.0f;
                if (++place == places) {
                    place = 0;
                    image++;
                }
            }
            return quad;
        }
        __device__ void next(int ks) { k += ks; }
    };
    __device__ bool along_k() const { return true; }
    __device__ cursor at(int64_t line, int64_t k) const { return cursor{this, line, k}; }
};

/* C's columns are positions of a result [images, groups * channels_up, out]. */
struct position_out {
    const window *it;
    float *result;
    const float *bias;

    __device__ void put(int64_t channel, int64_t column, const four &quad, int count) {
        for (int e = 0; e < 4 && e < count; e++) {
            const coordinates position(column + e, it->grid);
            int64_t at[DIMENSIONS];
            for (int d = 0; d < DIMENSIONS; d++) at[d] = it->out_first[d] + position.at[d] * it->out_apart[d];
            const int64_t plane = position.outer * it->groups * it->channels_up + channel;
            result[plane * volume(it->out) + index_in(it->out, at)] = bias ? quad.number[e] + bias[channel] : quad.number[e];
        }
    }
};

struct matrix_out {
    float *result;
    int64_t columns;
    __device__ void put(int64_t row, int64_t column, const four &quad, int count) {
        for (int e = 0; e < 4 && e < count; e++) result[row * columns + column + e] = quad.number[e];
    }
};

typedef shape<2, 1, 2, 8> image_shape;

KERNEL __launch_bounds__(THREADS) convolution(const window it, const float *x, const float *weight, const float *bias, float *y) {
    for (int64_t group = blockIdx.z; group < it.groups; group += gridDim.z) {
        const int64_t up = group * it.channels_up, down = group * it.channels_down, k = it.channels_down * volume(it.taps);
        const strided left = {weight + up * k, k, 1};
        const seen_side<true> right = {&it, x + down * volume(it.size)};
        position_out out = {&it, y + up * volume(it.out), bias ? bias + up : bias};
        products<image_shape>(left, right, out, it.channels_up, it.images * volume(it.grid), k);
    }
}

/* One phase. grad: [images, groups * channels_down, size]. */
KERNEL __launch_bounds__(THREADS) convolution_backward_input(const window it, const float *grad, const float *weight,
                                                            const float *bias, float *dx) {
    for (int64_t group = blockIdx.z; group < it.groups; group += gridDim.z) {
        const int64_t up = group * it.channels_up, down = group * it.channels_down;
        const turned_weight left = {&it, weight + down * it.channels_up * volume(it.kernel)};
        const seen_side<true> right = {&it, grad + down * volume(it.size)};
        position_out out = {&it, dx + up * volume(it.out), bias ? bias + up : bias};
        products<image_shape>(left, right, out, it.channels_up, it.images * volume(it.grid), it.channels_down * volume(it.taps));
    }
}

/* C of few numbers, each a long chain: tiles of SIDE x SIDE, so that there are many, two chains of a row a thread. A thread waits
 * for memory more than it multiplies, so much of k is fetched at once. As in gemm.h, the next step comes while one is worked on. */
enum { SIDE = 16, DEPTH = 64 };

template <class Left, class Right, class Out>
INLINE void small_product(const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int k, int64_t first_row,
                          int64_t first_column) {
    __shared__ part<SIDE, DEPTH> left_part[2], right_part[2];
    const int row = threadIdx.x / (SIDE / 2), column = threadIdx.x % (SIDE / 2) * 2;
    const int rows = (int)least(m - first_row, SIDE), columns = (int)least(n - first_column, SIDE);
    four chain = {};
    fetched<Left, SIDE, DEPTH> left(a, first_row);
    fetched<Right, SIDE, DEPTH> right(b, first_column);
    left.fetch(rows, k);
    right.fetch(columns, k);
    __syncthreads(); /* the tile before this one is done with shared memory */
    left.store(left_part[0]);
    right.store(right_part[0]);
    __syncthreads();
    int now = 0, rest = k;
    const auto go_on = [&](int s) {
        const float by = left_part[now].number[s][row];
        UNROLL for (int e = 0; e < 2; e++) chain.number[e] = sfma(by, right_part[now].number[s][column + e], chain.number[e]);
    };
    for (; rest >= DEPTH; rest -= DEPTH) {
        const bool more = rest > DEPTH;
        if (more) {
            left.fetch(rows, rest - DEPTH);
            right.fetch(columns, rest - DEPTH);
        }
        UNROLL for (int s = 0; s < DEPTH; s++) go_on(s);
        now ^= 1;
        if (more) {
            left.store(left_part[now]);
            right.store(right_part[now]);
        }
        __syncthreads();
    }
    for (int s = 0; s < rest; s++) go_on(s);
    if (row < rows) out.put(first_row + row, first_column + column, chain, (int)least(columns - column, 2));
}

struct small_products {
    template <class Left, class Right, class Out>
    static __device__ void run(const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int64_t k) {
        const int64_t across = (n + SIDE - 1) / SIDE, tiles = (m + SIDE - 1) / SIDE * across;
        for (int64_t at = blockIdx.x; at < tiles; at += gridDim.x)
            small_product(a, b, out, m, n, (int)k, at / across * SIDE, at % across * SIDE);
    }
};
struct image_products {
    template <class Left, class Right, class Out>
    static __device__ void run(const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int64_t k) {
        products<image_shape>(a, b, out, m, n, k);
    }
};

template <class Products> INLINE void backward_weight(const window &it, const float *grad, const float *x, float *dw) {
    for (int64_t group = blockIdx.z; group < it.groups; group += gridDim.z) {
        const int64_t up = group * it.channels_up, down = group * it.channels_down;
        const int64_t columns = it.channels_down * volume(it.taps);
        const gradient_side left = {&it, grad + up * volume(it.grid)};
        const seen_side<false> right = {&it, x + down * volume(it.size)};
        matrix_out out = {dw + up * columns, columns};
        Products::run(left, right, out, it.channels_up, columns, it.images * volume(it.grid));
    }
}

#define BACKWARD_WEIGHT(name, of)                                                                                      \
    KERNEL __launch_bounds__(THREADS) name(const window it, const float *grad, const float *x, float *dw) {            \
        backward_weight<of>(it, grad, x, dw);                                                                          \
    }
BACKWARD_WEIGHT(convolution_backward_weight_64, image_products)
BACKWARD_WEIGHT(convolution_backward_weight_16, small_products)
