/* The chain of products on a GPU: each thread keeps some elements of C in registers and walks k upwards, one fma after the
 * other (docs/numerics/products.md). Tiles, threads and shared memory decide which element is computed where, never its order;
 * so k is never split.
 *
 * A block of 128 threads computes a tile of C, a warp an even part of it as 4 x 8 threads, a thread pieces of 4 x 4 (`shape`).
 * The operands come through shared memory, K of k at a time: while one such step is worked on, the next is fetched, and while
 * the numbers of one k are multiplied, those of the next are on their way to registers. Of a k that is no multiple of K the rest
 * is walked by itself: a fma with a +0 that is not there could turn -0 into +0.
 *
 * What A, B and C are is up to the caller. A *side* gives numbers by line (a row of A, a column of B) and k:
 *
 *     struct side {
 *         struct cursor { four load(int count) const; void next(int ks); }; // four neighbours, +0 past `count`; on along k
 *         bool along_k() const;                                             // whether they are along k, or lines
 *         cursor at(int64_t line, int64_t k) const;
 *     };
 *
 * and the result goes to `out.put(row, column, quad, count)`: four numbers of a row. Of those of a quad that are in the matrix,
 * `count` may say less than 0 or more than 4. Nothing outside the m, n, k that are told is asked for; k is below 2^31. */
#ifndef TOLSEY_CUDA_GEMM_H
#define TOLSEY_CUDA_GEMM_H

#include "tiling.h"

enum { THREADS = 128 };

/* Four numbers that lie together, at a multiple of four. */
struct alignas(16) four {
    float number[4];
};

/* Whether numbers that lie together can be moved by fours, when other lines of them are `step` further. */
INLINE bool in_fours(const float *first, int64_t step) { return step % 4 == 0 && (uint64_t)first % sizeof(four) == 0; }

/* A thread has DOWN x ACROSS pieces, a block WARPS_DOWN x WARPS_ACROSS warps, and the operands come K of k at a time. */
template <int DOWN, int ACROSS, int WARPS_DOWN, int K_AT_ONCE> struct shape {
    enum { WARPS_ACROSS = THREADS / 32 / WARPS_DOWN, K = K_AT_ONCE };
    enum { DOWN_PIECES = DOWN, ACROSS_PIECES = ACROSS };
    enum { ROWS = 16 * DOWN * WARPS_DOWN, COLUMNS = 32 * ACROSS * WARPS_ACROSS };
};

/* Some lines of a side, one step of k; padded, so that writing along k meets different banks. */
template <int LINES, int K> struct alignas(16) part {
    float number[K][LINES + 4];
};

/* What a thread fetches of one side: quads of neighbours. */
template <class Side, int LINES, int K> struct fetched {
    enum { QUADS = LINES * K / 4 / THREADS };
    typename Side::cursor from[QUADS];
    four quad[QUADS];
    bool along_k;

    /* Where quad q begins, within the tile. */
    __device__ int line(int q) const {
        const int at = threadIdx.x + q * THREADS;
        return along_k ? at / (K / 4) : at % (LINES / 4) * 4;
    }
    __device__ int k(int q) const {
        const int at = threadIdx.x + q * THREADS;
        return along_k ? at % (K / 4) * 4 : at / (LINES / 4);
    }
    __device__ fetched(const Side &side, int64_t first_line) : along_k(side.along_k()) {
        UNROLL for (int q = 0; q < QUADS; q++) from[q] = side.at(first_line + line(q), k(q));
    }
    /* Lines left in the matrix from the tile's first on, and k left from this step's on. */
    __device__ void fetch(int lines, int ks) {
        UNROLL for (int q = 0; q < QUADS; q++) {
            const int left = along_k ? (line(q) < lines ? ks - k(q) : 0) : (k(q) < ks ? lines - line(q) : 0);
            quad[q] = from[q].load(left);
            from[q].next(K);
        }
    }
    __device__ void store(part<LINES, K> &shared) const {
        UNROLL for (int q = 0; q < QUADS; q++) {
            if (along_k) {
                UNROLL for (int e = 0; e < 4; e++) shared.number[k(q) + e][line(q)] = quad[q].number[e];
            } else {
                *(four *)&shared.number[k(q)][line(q)] = quad[q];
            }
        }
    }
};

template <class Shape> struct tile {
    part<Shape::ROWS, Shape::K> a[2];
    part<Shape::COLUMNS, Shape::K> b[2];
};

/* What a thread multiplies for one k. */
template <class Shape> struct factors {
    four left[Shape::DOWN_PIECES], right[Shape::ACROSS_PIECES];

    __device__ void load(const part<Shape::ROWS, Shape::K> &a, const part<Shape::COLUMNS, Shape::K> &b, int k, int row,
                         int column) {
        UNROLL for (int i = 0; i < Shape::DOWN_PIECES; i++) left[i] = *(const four *)&a.number[k][row + 16 * i];
        UNROLL for (int j = 0; j < Shape::ACROSS_PIECES; j++) right[j] = *(const four *)&b.number[k][column + 32 * j];
    }
};

template <class Shape> struct chains {
    float at[4 * Shape::DOWN_PIECES][4 * Shape::ACROSS_PIECES];

    __device__ void go_on(const factors<Shape> &by) {
        UNROLL for (int i = 0; i < 4 * Shape::DOWN_PIECES; i++)
            UNROLL for (int j = 0; j < 4 * Shape::ACROSS_PIECES; j++) {
                const float left = by.left[i / 4].number[i % 4], right = by.right[j / 4].number[j % 4];
                at[i][j] = sfma(left, right, at[i][j]);
            }
    }
};

/* The tile of C that begins at (first_row, first_column). */
template <class Shape, class Left, class Right, class Out>
INLINE void product(tile<Shape> &shared, const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int k,
                    int64_t first_row, int64_t first_column) {
    enum { K = Shape::K };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    /* Eight threads that follow each other read two rows and four columns: what shared memory gives them at once. */
    const int row = warp / Shape::WARPS_ACROSS * 16 * Shape::DOWN_PIECES + (lane / 16 * 2 + lane % 2) * 4;
    const int column = warp % Shape::WARPS_ACROSS * 32 * Shape::ACROSS_PIECES + lane / 2 % 8 * 4;
    const int rows = (int)least(m - first_row, Shape::ROWS), columns = (int)least(n - first_column, Shape::COLUMNS);
    chains<Shape> chain;
    UNROLL for (int i = 0; i < 4 * Shape::DOWN_PIECES; i++)
        UNROLL for (int j = 0; j < 4 * Shape::ACROSS_PIECES; j++) chain.at[i][j] = 0.0f;
    fetched<Left, Shape::ROWS, K> left(a, first_row);
    fetched<Right, Shape::COLUMNS, K> right(b, first_column);
    factors<Shape> by[2];
    left.fetch(rows, k);
    right.fetch(columns, k);
    __syncthreads(); /* the tile before this one is done with shared memory */
    left.store(shared.a[0]);
    right.store(shared.b[0]);
    __syncthreads();
    by[0].load(shared.a[0], shared.b[0], 0, row, column);
    int now = 0, rest = k;
    for (; rest >= K; rest -= K) {
        if (rest > K) {
            left.fetch(rows, rest - K);
            right.fetch(columns, rest - K);
        }
        UNROLL for (int s = 0; s < K; s++) {
            if (s == K - 1) {
                now ^= 1;
                if (rest > K) {
                    left.store(shared.a[now]);
                    right.store(shared.b[now]);
                }
                __syncthreads();
            }
            by[(s + 1) % 2].load(shared.a[now], shared.b[now], (s + 1) % K, row, column);
            chain.go_on(by[s % 2]);
        }
    }
    for (int s = 0; s < rest; s++) {
        by[0].load(shared.a[now], shared.b[now], s, row, column);
        chain.go_on(by[0]);
    }
    UNROLL for (int i = 0; i < 4 * Shape::DOWN_PIECES; i++)
        UNROLL for (int j = 0; j < Shape::ACROSS_PIECES; j++) {
            const int down = row + i / 4 * 16 + i % 4, across = column + j * 32;
            const float *from = &chain.at[i][4 * j];
            const four quad = {from[0], from[1], from[2], from[3]};
            if (down < rows) out.put(first_row + down, first_column + across, quad, columns - across);
        }
}

/* All tiles of C, a block at a time. */
template <class Shape, class Left, class Right, class Out>
INLINE void products(const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int64_t k) {
    __shared__ tile<Shape> shared;
    const tiling tiles(m, n, Shape::ROWS, Shape::COLUMNS);
    for (int64_t at = blockIdx.x; at < tiles.count(); at += gridDim.x) {
        int64_t row, column;
        tiles.corner(at, row, column);
        product<Shape>(shared, a, b, out, m, n, (int)k, row, column);
    }
}

/* A matrix in memory with a step for each of its axes. */
struct strided {
    const float *first;
    int64_t line_step, k_step;

    struct cursor {
        const float *here;
        int64_t neighbour, k_step;
        bool together; /* whether four may be loaded at once */
        __device__ four load(int count) const {
            if (together && count >= 4) return *(const four *)here;
            four quad;
            UNROLL for (int e = 0; e < 4; e++) quad.number[e] = e < count ? here[e * neighbour] : 0.0f;
            return quad;
        }
        __device__ void next(int ks) { here += ks * k_step; }
    };
    __device__ bool along_k() const { return line_step != 1; }
    __device__ cursor at(int64_t line, int64_t k) const {
        const int64_t neighbour = along_k() ? k_step : line_step, other = along_k() ? line_step : k_step;
        const float *here = first + line * line_step + k * k_step;
        return cursor{here, neighbour, k_step, neighbour == 1 && in_fours(first, other)};
    }
};

#endif
