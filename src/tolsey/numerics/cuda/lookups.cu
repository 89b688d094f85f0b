/* Gradients of look-ups: values that land on one place are added in the order in which they stand
 * (docs/numerics/reductions.md, sections 1 and 6).
 *
 * No atomic addition of floats: positions are sorted by the place that they land on, those of one place staying in their order
 * (a radix sort, eight bits at a time, each pass of three kernels). Then each run of equal places is walked by one thread for
 * each number beside it. What lands nowhere has the place `nowhere`, behind all others. */
#include "lane.h"

enum { BLOCK = 256, DIGITS = 256 };

/* ---------------------------------------------------------------- where positions land */

/* Positions of an embedding: their row; nowhere where the index is the padding. *wrong is raised by any other index outside. */
KERNEL embedding_places(const int64_t *index, int64_t *place, int64_t *position, int64_t n, int64_t rows, int64_t padding,
                        int32_t *wrong) {
    FOR_PLACES(i, 0, n) {
        const int64_t row = index[i];
        const bool there = row >= 0 && row < rows;
        if (row != padding && !there) *wrong = 1;
        place[i] = row == padding || !there ? rows : row;
        position[i] = i;
    }
}

enum { MAX_RANK = 8 };
struct scatter {
    int64_t rank, dim, nowhere;
    int64_t walked[MAX_RANK];        /* sizes of the index */
    int64_t source_step[MAX_RANK], step[MAX_RANK]; /* in elements, of source and destination */
    int64_t bound;                   /* the destination's size in dim */
};

/* Positions of an index [walked …]: where they land in the destination, and where their value lies in the source. */
KERNEL scatter_places(const struct scatter it, const int64_t *index, int64_t *place, int64_t *position, int64_t n,
                      int32_t *wrong) {
    FOR_PLACES(i, 0, n) {
        const int64_t moved = index[i];
        const bool there = moved >= 0 && moved < it.bound;
        if (!there) *wrong = 1;
        int64_t rest = i, to = 0, from = 0;
        for (int64_t d = it.rank - 1; d >= 0; d--) {
            const int64_t at = rest % it.walked[d];
            rest /= it.walked[d];
            to += (d == it.dim ? moved : at) * it.step[d];
            from += at * it.source_step[d];
        }
        place[i] = there ? to : it.nowhere;
        position[i] = from;
    }
}

/* Positions of a pooling's outputs [planes, n / planes]: the place in their plane of `size` numbers. */
KERNEL pooled_places(const int64_t *within, int64_t *place, int64_t *position, int64_t n, int64_t outs, int64_t size,
                     int64_t nowhere, int32_t *wrong) {
    FOR_PLACES(i, 0, n) {
        const int64_t at = within[i];
        const bool there = at >= 0 && at < size;
        if (!there) *wrong = 1;
        place[i] = there ? i / outs * size + at : nowhere;
        position[i] = i;
    }
}

/* ---------------------------------------------------------------- sorting */

/* A block takes 256 positions that follow each other. counts: [digit, block]. */
KERNEL __launch_bounds__(BLOCK) sort_count(const int64_t *place, int64_t n, int32_t shift, int32_t *counts, int64_t blocks) {
    __shared__ int32_t found[DIGITS];
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        found[threadIdx.x] = 0;
        __syncthreads();
        const int64_t i = block * BLOCK + threadIdx.x;
        if (i < n) atomicAdd(&found[place[i] >> shift & (DIGITS - 1)], 1);
        __syncthreads();
        counts[threadIdx.x * blocks + block] = found[threadIdx.x];
        __syncthreads();
    }
}

/* Each count becomes the sum of those before it; one block. */
KERNEL __launch_bounds__(BLOCK) sort_offsets(int32_t *counts, int64_t n) {
    __shared__ int32_t sums[BLOCK];
    const int64_t each = (n + BLOCK - 1) / BLOCK, first = least(n, threadIdx.x * each), past = least(n, first + each);
    int32_t sum = 0;
    for (int64_t i = first; i < past; i++) sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    int32_t before = 0;
    for (int t = 0; t < threadIdx.x; t++) before += sums[t];
    for (int64_t i = first; i < past; i++) {
        const int32_t here = counts[i];
        counts[i] = before;
        before += here;
    }
}

/* Moves each position behind those of smaller digits and those of its own that stand before it. */
KERNEL __launch_bounds__(BLOCK) sort_move(const int64_t *place, const int64_t *position, int64_t *to_place, int64_t *to_position,
                                          int64_t n, int32_t shift, const int32_t *offsets, int64_t blocks) {
    __shared__ int32_t digits[BLOCK];
    for (int64_t block = blockIdx.x; block < blocks; block += gridDim.x) {
        const int64_t i = block * BLOCK + threadIdx.x;
        const int32_t digit = i < n ? (int32_t)(place[i] >> shift & (DIGITS - 1)) : DIGITS;
        digits[threadIdx.x] = digit;
        __syncthreads();
        if (i < n) {
            int64_t to = offsets[digit * blocks + block];
            for (int t = 0; t < threadIdx.x; t++) to += digits[t] == digit;
            to_place[to] = place[i];
            to_position[to] = position[i];
        }
        __syncthreads();
    }
}

/* ---------------------------------------------------------------- adding */

/* y: [places, width] begins with what is added to. Threads of a block (x) share a sorted position and split the width; the
 * position that begins a run adds the whole run. With `scale` the finished place is divided by how many were added. */
KERNEL add_runs(const int64_t *place, const int64_t *position, const float *value, float *y, int64_t n, int64_t width,
                int64_t nowhere, int32_t scale) {
    const int64_t lines = (int64_t)gridDim.x * blockDim.y;
    for (int64_t first = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; first < n; first += lines) {
        const int64_t to = place[first];
        if (to == nowhere || (first > 0 && place[first - 1] == to)) continue;
        int64_t past = first + 1;
        while (past < n && place[past] == to) past++;
        for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
            float sum = y[to * width + j];
            for (int64_t i = first; i < past; i++) sum = sum + value[position[i] * width + j];
            y[to * width + j] = scale ? sum / (float)(past - first) : sum;
        }
    }
}
