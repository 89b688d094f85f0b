/* Products of whole numbers on a GPU (docs/numerics/int8.md): operands rounded to 14 or 21 bits, written as signed 7-bit digits,
 * multiplied by integer matrix units and added exactly, rounded once. Matrix products and convolutions alike.
 *
 *   int8_exponents    of each line's largest number
 *   int8_digits       the numbers of some lines and ks in their line's units, as digits, in the order of the matrix units
 *   int8_multiply_*   tiles of C: rounded, where one block has all terms; else added to sums
 *   int8_round        sums to C
 *
 * Words. A *line* is a row of A or a column of B. A *tile of digits* is 16 lines by 32 k, 512 bytes for each digit, in which the
 * 16 bytes of each of a warp's threads lie together as matrix_units.h has them: one layout for A (16 rows) and B (two times 8
 * columns), so that shared memory is filled by plain copies and read without conflicts. A *part* of a number is a digit, or the
 * sum of two: by Karatsuba's rule only equal parts are multiplied, three products instead of four, six instead of nine.
 *
 * Nothing here has an order. Products of parts are at most 2^14, so 32 bits hold 2^17 - 1 of them; a block takes at most 2^16
 * terms (launches.py). What several blocks add to a sum of 64 bits are integers too, so atomic additions may come as they like. */
#include "coordinates.h"
#include "matrix_units.h"
#include "tiling.h"
#include "whole.h"

enum { WARP = 32, LINES = 16, KS = 32, STAGES = 3 };

INLINE int lane() { return threadIdx.x % WARP; }

/* ---------------------------------------------------------------- where operands are */

/* A side of the product by line and k: a matrix, or an image seen through a window. Both are split into coordinates, over sizes
 * of 1 for a matrix. In each dimension the source is seen at
 *
 *     corner + line.at * line_apart + k.at * k_apart
 *
 * or, where that lies outside of its size, +0 in its place. Steps are in numbers, of batches, outer indices and dimensions. */
struct view {
    const float *first;
    int64_t batch_step, line_step, k_step;
    int64_t line_sizes[DIMENSIONS], k_sizes[DIMENSIONS];
    int64_t corner[DIMENSIONS], line_apart[DIMENSIONS], k_apart[DIMENSIONS];
    int64_t size[DIMENSIONS], step[DIMENSIONS];
};

struct line_of_view {
    const float *first;
    int64_t from[DIMENSIONS];
    bool there;

    __device__ line_of_view(const view &it, int64_t p, int64_t line, int64_t past) : there(line < past) {
        const coordinates split(line, it.line_sizes);
        first = it.first + p * it.batch_step + split.outer * it.line_step;
        UNROLL for (int d = 0; d < DIMENSIONS; d++) from[d] = it.corner[d] + split.at[d] * it.line_apart[d];
    }
    __device__ float at(const view &it, const coordinates &k) const {
        int64_t place = k.outer * it.k_step;
        bool inside = there;
        UNROLL for (int d = 0; d < DIMENSIONS; d++) {
            const int64_t seen = from[d] + k.at[d] * it.k_apart[d];
            inside = inside && seen >= 0 && seen < it.size[d];
            place += seen * it.step[d];
        }
        return inside ? first[place] : 0.0f;
    }
};

/* What a thread has of a tile: two lines, of each two times four neighbours along k. Eight threads' neighbouring lines, or four
 * threads' neighbouring ks, are what memory gives at once, whichever of them lie together. */
struct numbers {
    float word[4][4];

    __device__ numbers(const view &it, const line_of_view (&lines)[2], int64_t k, int64_t past) {
        UNROLL for (int half = 0; half < 2; half++) {
            const int64_t first = k + half * 16 + lane() % 4 * 4;
            coordinates along(first, it.k_sizes);
            UNROLL for (int e = 0; e < 4; e++, along.next(it.k_sizes))
                UNROLL for (int l = 0; l < 2; l++) word[2 * half + l][e] = first + e < past ? lines[l].at(it, along) : 0.0f;
        }
    }
};

/* Tiles are dealt out: blockIdx.z counts the batch, blockIdx.y the lines, the warps along blockIdx.x the ks. */
INLINE int64_t this_warp() { return this_thread() / WARP; }
INLINE int64_t all_warps() { return all_threads() / WARP; }

/* exponents [batch, lines], which are NOTHING before. */
KERNEL int8_exponents(const view it, int64_t batch, int64_t lines, int64_t depth, int32_t *exponents) {
    enum { AT_ONCE = 32 * KS };
    for (int64_t p = blockIdx.z; p < batch; p += gridDim.z)
        for (int64_t tile = blockIdx.y; tile * LINES < lines; tile += gridDim.y) {
            const int64_t first = tile * LINES + lane() / 4;
            const line_of_view mine[2] = {{it, p, first, lines}, {it, p, first + 8, lines}};
            for (int64_t k = this_warp() * AT_ONCE; k < depth; k += all_warps() * AT_ONCE) {
                int32_t largest[2] = {0, 0}; /* as bits, so that a NaN is above all */
                for (int64_t here = k; here < least(depth, k + AT_ONCE); here += KS) {
                    const numbers x(it, mine, here, depth);
                    UNROLL for (int w = 0; w < 4; w++)
                        UNROLL for (int e = 0; e < 4; e++) {
                            const int32_t size = (int32_t)(bits_of(x.word[w][e]) & 0x7fffffff);
                            largest[w % 2] = size > largest[w % 2] ? size : largest[w % 2];
                        }
                }
                for (int l = 0; l < 2; l++)
                    if (mine[l].there) atomicMax(exponents + p * lines + first + 8 * l, exponent_of(float_of(largest[l])));
            }
        }
}

/* Some lines, ks and numbers of the batch that are made into digits at once. */
struct portion {
    int64_t batch, line, lines, k, depth; /* the first of lines and ks, and how many */
    int64_t tiles, steps;                 /* of digits, along lines and k; what is beyond the numbers is 0 */
    const int32_t *exponents;             /* of the portion's first line */
    int64_t exponents_step;               /* of the batch */
    int64_t slices;
    words *to;                            /* [batch, tiles, steps, slices, 32] */
};

KERNEL int8_digits(const view it, const portion of) {
    const int p_bits = fraction_bits(of.slices);
    for (int64_t p = blockIdx.z; p < of.batch; p += gridDim.z)
        for (int64_t tile = blockIdx.y; tile < of.tiles; tile += gridDim.y) {
            const int64_t first = tile * LINES + lane() / 4, past = of.line + of.lines;
            const line_of_view mine[2] = {{it, p, of.line + first, past}, {it, p, of.line + first + 8, past}};
            float kept[2], by[2], then_by[2];
            UNROLL for (int l = 0; l < 2; l++) {
                const int32_t exponent = mine[l].there ? of.exponents[p * of.exponents_step + first + 8 * l] : NOTHING;
                scale_of(exponent, p_bits, &kept[l], &by[l], &then_by[l]);
            }
            for (int64_t step = this_warp(); step < of.steps; step += all_warps()) {
                const numbers x(it, mine, of.k + step * KS, of.k + of.depth);
                int32_t whole[4][4];
                UNROLL for (int w = 0; w < 4; w++)
                    UNROLL for (int e = 0; e < 4; e++)
                        whole[w][e] = to_whole(vset(x.word[w][e]), vset(kept[w % 2]), vset(by[w % 2]), vset(then_by[w % 2])).x;
                words *to = of.to + ((p * of.tiles + tile) * of.steps + step) * of.slices * WARP + lane();
                for (int64_t digit = of.slices - 1; digit >= 0; digit--) { /* the lowest first */
                    words packed = {};
                    UNROLL for (int w = 0; w < 4; w++)
                        UNROLL for (int e = 0; e < 4; e++) {
                            const int32_t low = digit ? ((whole[w][e] + 64) & 127) - 64 : whole[w][e];
                            whole[w][e] = (whole[w][e] - low) >> 7;
                            packed.word[w] |= (uint32_t)(low & 255) << 8 * e;
                        }
                    to[digit * WARP] = packed;
                }
            }
        }
}

/* ---------------------------------------------------------------- where results go */

/* C, some numbers of the batch, rows and columns of it: those from `column` on, where columns are split into coordinates as a
 * view's lines are. Addresses are those of the first row and the first number of the batch. */
struct product {
    int64_t batch, rows, columns, column;
    float *c;
    int64_t c_batch_step, c_row_step, c_column_step;
    int64_t column_sizes[DIMENSIONS], column_apart[DIMENSIONS];
    const float *bias; /* there may be none */
    int64_t bias_batch_step, bias_row_step, bias_column_step;
    const int32_t *row_exponents, *column_exponents; /* of the first column here */
    int64_t row_exponents_step, column_exponents_step;
    int64_t slices;
    int64_t *sums; /* where one block does not have all terms: [batch, rows, columns] with these steps */
    int64_t sums_batch_step, sums_row_step;
    const words *a, *b; /* digits, in so many tiles */
    int64_t a_tiles, b_tiles;
    int64_t steps, steps_a_block; /* of k */
};

struct column_of_product {
    float *c;
    const float *bias;
    int32_t exponent;

    __device__ column_of_product(const product &it, int64_t p, int64_t column) {
        const coordinates split(it.column + column, it.column_sizes);
        c = it.c + p * it.c_batch_step + split.outer * it.c_column_step;
        UNROLL for (int d = 0; d < DIMENSIONS; d++) c += split.at[d] * it.column_apart[d];
        bias = it.bias + p * it.bias_batch_step + (it.column + column) * it.bias_column_step;
        exponent = it.column_exponents[p * it.column_exponents_step + column];
    }
    /* The one rounding, and the bias. */
    __device__ void give(const product &it, int64_t row, int32_t row_exponent, int64_t sum) const {
        const bool finite = row_exponent != NOT_FINITE && exponent != NOT_FINITE;
        const int32_t unit = row_exponent + exponent - 2 * fraction_bits(it.slices);
        const float once = finite ? rounded_once(sum, unit) : NOT_A_NUMBER;
        c[row * it.c_row_step] = it.bias ? once + bias[row * it.bias_row_step] : once;
    }
};

/* ---------------------------------------------------------------- multiplying */

/* A warp has DOWN x ACROSS tiles of digits, a block WARPS_DOWN x WARPS_ACROSS warps. */
template <int NUMBER_OF_SLICES, int TILES_DOWN, int TILES_ACROSS, int NUMBER_DOWN, int NUMBER_ACROSS> struct shape {
    enum { SLICES = NUMBER_OF_SLICES, PARTS = SLICES * (SLICES + 1) / 2 };
    enum { DOWN = TILES_DOWN, ACROSS = TILES_ACROSS, WARPS_ACROSS = NUMBER_ACROSS, WARPS = NUMBER_DOWN * NUMBER_ACROSS };
    enum { ROW_TILES = DOWN * NUMBER_DOWN, COLUMN_TILES = ACROSS * NUMBER_ACROSS };
    enum { ROWS = LINES * ROW_TILES, COLUMNS = LINES * COLUMN_TILES };
    enum { TILES = ROW_TILES + COLUMN_TILES, TILES_A_WARP = (TILES + WARPS - 1) / WARPS };
    static_assert(LINES * ACROSS == WARP, "each thread gives a column");

    /* The digits of a part, the highest one being 0; equal for a part that is a digit. */
    static __device__ constexpr int upper(int part) { return part < SLICES ? part : part == SLICES + 2 ? 1 : 0; }
    static __device__ constexpr int lower(int part) { return part < SLICES ? part : part == SLICES ? 1 : 2; }
};

/* The sums of four pairs of 8-bit numbers, which have 8 bits again. */
INLINE uint32_t sums_of_bytes(uint32_t x, uint32_t y) {
    return ((x & 0x7f7f7f7f) + (y & 0x7f7f7f7f)) ^ ((x ^ y) & 0x80808080);
}

/* A thread's digits of one tile. */
template <class Shape> struct fragment {
    words digit[Shape::SLICES];

    fragment() = default;
    __device__ explicit fragment(const words (&tile)[Shape::SLICES][WARP]) {
        UNROLL for (int d = 0; d < Shape::SLICES; d++) digit[d] = tile[d][lane()];
    }
    __device__ words part(int part) const {
        const int upper = Shape::upper(part), lower = Shape::lower(part);
        if (upper == lower) return digit[upper];
        words sum;
        UNROLL for (int w = 0; w < 4; w++) sum.word[w] = sums_of_bytes(digit[upper].word[w], digit[lower].word[w]);
        return sum;
    }
};

/* One step of k of both sides: tiles of A, then of B. */
template <class Shape> struct stage {
    words tile[Shape::TILES][Shape::SLICES][WARP];
};

/* The tiles that a thread's warp brings, and where their digits are. */
template <class Shape> struct source {
    enum { STEP = Shape::SLICES * WARP };
    const words *from[Shape::TILES_A_WARP];

    __device__ static int tile(int t) { return threadIdx.x / WARP + t * Shape::WARPS; }
    __device__ source(const product &it, int64_t p, int64_t row, int64_t column, int64_t step) {
        UNROLL for (int t = 0; t < Shape::TILES_A_WARP; t++) {
            const bool of_a = tile(t) < Shape::ROW_TILES;
            const int64_t at = of_a ? p * it.a_tiles + row / LINES + tile(t)
                                    : p * it.b_tiles + column / LINES + tile(t) - Shape::ROW_TILES;
            from[t] = (of_a ? it.a : it.b) + (at * it.steps + step) * STEP + lane();
        }
    }
    __device__ void fetch(stage<Shape> &to) {
        UNROLL for (int t = 0; t < Shape::TILES_A_WARP; t++) {
            if (tile(t) >= Shape::TILES) continue;
            UNROLL for (int d = 0; d < Shape::SLICES; d++) copy_behind(&to.tile[tile(t)][d][lane()], from[t] + d * WARP);
            from[t] += STEP;
        }
    }
};

/* A thread's sums of products of each part. */
template <class Shape> struct totals {
    int32_t of[Shape::DOWN][2 * Shape::ACROSS][Shape::PARTS][4];

    __device__ totals() {
        UNROLL for (int i = 0; i < Shape::DOWN; i++)
            UNROLL for (int j = 0; j < 2 * Shape::ACROSS; j++)
                UNROLL for (int part = 0; part < Shape::PARTS; part++)
                    UNROLL for (int e = 0; e < 4; e++) of[i][j][part][e] = 0;
    }
    __device__ void add(const stage<Shape> &from, int first_down, int first_across) {
        fragment<Shape> right[Shape::ACROSS];
        UNROLL for (int j = 0; j < Shape::ACROSS; j++) right[j] = fragment<Shape>(from.tile[Shape::ROW_TILES + first_across + j]);
        UNROLL for (int i = 0; i < Shape::DOWN; i++) {
            const fragment<Shape> left(from.tile[first_down + i]);
            UNROLL for (int part = 0; part < Shape::PARTS; part++) {
                const words x = left.part(part);
                UNROLL for (int j = 0; j < Shape::ACROSS; j++) {
                    const words y = right[j].part(part);
                    multiply_add(of[i][2 * j][part], x, y.word[0], y.word[2]);
                    multiply_add(of[i][2 * j + 1][part], x, y.word[1], y.word[3]);
                }
            }
        }
    }
    /* N, of what these are the parts' sums of. */
    __device__ int64_t sum(int i, int j, int e) const {
        const int32_t(&part)[Shape::PARTS][4] = of[i][j];
        int64_t sum = 0;
        UNROLL for (int s = 0; s < Shape::PARTS; s++) {
            const int upper = Shape::upper(s), lower = Shape::lower(s);
            const int64_t both = upper == lower ? part[s][e] : (int64_t)part[s][e] - part[upper][e] - part[lower][e];
            sum += both * ((int64_t)1 << 7 * (2 * Shape::SLICES - 2 - upper - lower));
        }
        return sum;
    }
};

template <class Shape> union memory {
    stage<Shape> stages[STAGES];
    int64_t sums[Shape::WARPS][LINES][WARP];
};

/* A thread's column of 16 rows. */
INLINE void give_rows(const product &it, int64_t p, int64_t row, int64_t column, const int64_t (*sums)[WARP]) {
    const int rows = (int)least(it.rows - row, LINES);
    if (it.sums) {
        uint64_t *to = (uint64_t *)it.sums + p * it.sums_batch_step + row * it.sums_row_step + column;
        for (int r = 0; r < rows; r++) atomicAdd(to + r * it.sums_row_step, (uint64_t)sums[r][lane()]);
        return;
    }
    const column_of_product mine(it, p, column);
    const int32_t *exponents = it.row_exponents + p * it.row_exponents_step + row;
    for (int r = 0; r < rows; r++) mine.give(it, row + r, exponents[r], sums[r][lane()]);
}

/* The tile of C that begins at (row, column), over this block's steps of k: digits are fetched two steps before they are
 * multiplied. */
template <class Shape>
INLINE void multiply_tile(memory<Shape> &shared, const product &it, int64_t p, int64_t row, int64_t column) {
    const int warp = threadIdx.x / WARP;
    const int first_down = warp / Shape::WARPS_ACROSS * Shape::DOWN, first_across = warp % Shape::WARPS_ACROSS * Shape::ACROSS;
    const int64_t step = blockIdx.y * it.steps_a_block;
    const int steps = (int)least(it.steps - step, it.steps_a_block);
    source<Shape> digits(it, p, row, column, step);
    totals<Shape> total;
    __syncthreads(); /* the tile before this one is done with shared memory */
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) digits.fetch(shared.stages[s]);
        end_group();
    }
    _Pragma("unroll 1") for (int s = 0, now = 0; s < steps; s++) {
        wait_until_under_way<STAGES - 2>();
        __syncthreads(); /* and all are done with the step before, whose place is filled anew */
        const int next = now ? now - 1 : STAGES - 1;
        if (s + STAGES - 1 < steps) digits.fetch(shared.stages[next]);
        end_group();
        total.add(shared.stages[now], first_down, first_across);
        now = now + 1 < STAGES ? now + 1 : 0;
    }
    __syncthreads();
    /* From here on a thread has a column: 16 rows at a time pass through shared memory. */
    int64_t(*sums)[WARP] = shared.sums[warp];
    const int64_t to = column + first_across * LINES + lane();
    UNROLL for (int i = 0; i < Shape::DOWN; i++) {
        const int64_t from = row + (first_down + i) * LINES;
        UNROLL for (int j = 0; j < 2 * Shape::ACROSS; j++)
            UNROLL for (int e = 0; e < 4; e++) sums[e / 2 * 8 + lane() / 4][j * 8 + lane() % 4 * 2 + e % 2] = total.sum(i, j, e);
        __syncwarp();
        if (to < it.columns) give_rows(it, p, from, to, sums);
        __syncwarp();
    }
}

/* blockIdx.z counts the batch, blockIdx.y shares of k. */
#define MULTIPLY(name, blocks, ...)                                                                                    \
    KERNEL __launch_bounds__(WARP *shape<__VA_ARGS__>::WARPS, blocks) name(const product it) {                         \
        typedef shape<__VA_ARGS__> this_shape;                                                                         \
        __shared__ memory<this_shape> shared;                                                                          \
        const tiling tiles(it.rows, it.columns, this_shape::ROWS, this_shape::COLUMNS);                                \
        for (int64_t p = blockIdx.z; p < it.batch; p += gridDim.z)                                                     \
            for (int64_t at = blockIdx.x; at < tiles.count(); at += gridDim.x) {                                       \
                int64_t row, column;                                                                                   \
                tiles.corner(at, row, column);                                                                         \
                multiply_tile(shared, it, p, row, column);                                                             \
            }                                                                                                          \
    }
/* With as many blocks on a multiprocessor at least. Elsewhere the largest would not fit into registers, so it is halved: lines are
 * there for 128 x 128, and blocks walk the tiles in strides, however many there are. */
#if !defined(__CUDA_ARCH__) || (__CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1000)
MULTIPLY(int8_multiply_2_128, 1, 2, 4, 2, 2, 4)
MULTIPLY(int8_multiply_2_64, 3, 2, 2, 2, 2, 2)
#else
MULTIPLY(int8_multiply_2_128, 1, 2, 2, 2, 4, 2)
MULTIPLY(int8_multiply_2_64, 2, 2, 2, 2, 2, 2)
#endif
MULTIPLY(int8_multiply_3_64, 1, 3, 1, 2, 4, 2)

/* From sums; blockIdx.z counts the batch, blockIdx.y the rows. */
KERNEL int8_round(const product it) {
    for (int64_t p = blockIdx.z; p < it.batch; p += gridDim.z)
        FOR_PLACES(column, 0, it.columns) {
            const column_of_product mine(it, p, column);
            for (int64_t row = blockIdx.y; row < it.rows; row += gridDim.y) {
                const int64_t sum = it.sums[p * it.sums_batch_step + row * it.sums_row_step + column];
                mine.give(it, row, it.row_exponents[p * it.row_exponents_step + row], sum);
            }
        }
}
