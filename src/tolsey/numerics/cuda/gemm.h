/* The chain of products on a GPU: each thread keeps some elements of C in registers and walks k upwards, one fma after the
 * other (docs/numerics/products.md). Tiles, threads and shared memory decide which element is computed where, never its order;
 * so k is never split.
 *
 * A block of 256 threads computes a tile of 64R x 64R elements (R is 1 or 2), a thread 4R x 4R of them, in pieces of 4 x 4.
 * The tile's operands come through shared memory, 8 of k at a time, the next 8 fetched while these are worked on. Of a k that
 * is no multiple of 8 the rest is walked by itself: a fma with a +0 that is not there could turn -0 into +0.
 *
 * What A, B and C are is up to the caller. A *side* gives numbers by line (a row of A, a column of B) and k:
 *
 *     struct side {
 *         struct cursor { float load(int e) const; void next(); };    // its e-th number; 8 further along k
 *         bool along_k() const;      // whether a thread reads neighbours along k, or neighbouring lines
 *         cursor at(int64_t line, int64_t k) const;
 *     };
 *
 * and the result goes to `out.put(row, column, number)`. Nothing outside the m, n, k that are told is asked for or put;
 * k is below 2^31. */
#ifndef TOLSEY_CUDA_GEMM_H
#define TOLSEY_CUDA_GEMM_H

#include "lane.h"

enum { THREADS = 256, TILE_K = 8 };

/* What a thread fetches of one side: E neighbours. */
template <class Side, int E> struct fetched {
    typename Side::cursor from;
    float number[E];
    int line, k; /* within the tile */
    bool along_k;

    __device__ fetched(const Side &side, int64_t first_line, int thread) : along_k(side.along_k()) {
        line = along_k ? thread / (TILE_K / E) : thread % 32 * E;
        k = along_k ? thread % (TILE_K / E) * E : thread / 32;
        from = side.at(first_line + line, k);
    }
    /* Lines left in the matrix from the tile's first on, and k left from this tile's on. */
    __device__ void fetch(int lines, int ks) {
        UNROLL for (int e = 0; e < E; e++) {
            const bool there = along_k ? line < lines && k + e < ks : line + e < lines && k < ks;
            number[e] = there ? from.load(e) : 0.0f;
        }
        from.next();
    }
    template <int LINES> __device__ void store(float (*shared)[LINES]) const {
        UNROLL for (int e = 0; e < E; e++) {
            if (along_k) shared[k + e][line] = number[e];
            else shared[k][line + e] = number[e];
        }
    }
};

/* Aligned, so that four numbers at once are fetched from it. */
template <int R> struct alignas(16) tile {
    enum { SIZE = 64 * R, E = SIZE * TILE_K / THREADS, PADDED = SIZE + 4 };
    float a[2][TILE_K][PADDED], b[2][TILE_K][PADDED];
};

/* Four numbers that lie together, at a multiple of four. */
struct alignas(16) four {
    float number[4];
};

template <int R, int PADDED>
INLINE void step(float (&acc)[4 * R][4 * R], const float (*a)[PADDED], const float (*b)[PADDED], int k, int row, int column) {
    float left[4 * R], right[4 * R];
    UNROLL for (int r = 0; r < R; r++) {
        const four l = *(const four *)&a[k][row + 16 * r], c = *(const four *)&b[k][column + 32 * r];
        UNROLL for (int e = 0; e < 4; e++) {
            left[4 * r + e] = l.number[e];
            right[4 * r + e] = c.number[e];
        }
    }
    UNROLL for (int i = 0; i < 4 * R; i++)
        UNROLL for (int j = 0; j < 4 * R; j++) acc[i][j] = sfma(left[i], right[j], acc[i][j]);
}

/* The tile of C that begins at (first_row, first_column). */
template <int R, class Left, class Right, class Out>
INLINE void product(tile<R> &shared, const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int k, int64_t first_row,
                    int64_t first_column) {
    const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    /* 4 x 2 warps of 4 x 8 threads. */
    const int row = warp / 2 * 16 * R + lane / 8 * 4, column = warp % 2 * 32 * R + lane % 8 * 4;
    float acc[4 * R][4 * R];
    UNROLL for (int i = 0; i < 4 * R; i++)
        UNROLL for (int j = 0; j < 4 * R; j++) acc[i][j] = 0.0f;
    fetched<Left, tile<R>::E> left(a, first_row, thread);
    fetched<Right, tile<R>::E> right(b, first_column, thread);
    const int rows = (int)least(m - first_row, tile<R>::SIZE), columns = (int)least(n - first_column, tile<R>::SIZE);
    if (k > 0) {
        left.fetch(rows, k);
        right.fetch(columns, k);
        left.store(shared.a[0]);
        right.store(shared.b[0]);
    }
    __syncthreads();
    int now = 0;
    for (int rest = k; rest > 0; rest -= TILE_K, now ^= 1) {
        if (rest > TILE_K) {
            left.fetch(rows, rest - TILE_K);
            right.fetch(columns, rest - TILE_K);
        }
        if (rest >= TILE_K) {
            UNROLL for (int s = 0; s < TILE_K; s++) step<R>(acc, shared.a[now], shared.b[now], s, row, column);
        } else {
            for (int s = 0; s < rest; s++) step<R>(acc, shared.a[now], shared.b[now], s, row, column);
        }
        if (rest > TILE_K) {
            left.store(shared.a[now ^ 1]);
            right.store(shared.b[now ^ 1]);
        }
        __syncthreads();
    }
    UNROLL for (int i = 0; i < 4 * R; i++)
        UNROLL for (int j = 0; j < 4 * R; j++) {
            const int down = row + i / 4 * 16 + i % 4, across = column + j / 4 * 32 + j % 4;
            if (down < rows && across < columns) out.put(first_row + down, first_column + across, acc[i][j]);
        }
}

/* All tiles of C, a block at a time; blocks that run together stay near each other, so that they find operands in the cache. */
template <int R, class Left, class Right, class Out>
INLINE void products(const Left &a, const Right &b, Out &out, int64_t m, int64_t n, int64_t k) {
    __shared__ tile<R> shared;
    enum { SIZE = tile<R>::SIZE, TOGETHER = 8 };
    const int64_t down = (m + SIZE - 1) / SIZE, across = (n + SIZE - 1) / SIZE;
    for (int64_t at = blockIdx.x; at < down * across; at += gridDim.x) {
        const int64_t band = at / (TOGETHER * across) * TOGETHER, height = least(TOGETHER, down - band);
        const int64_t within = at % (TOGETHER * across);
        product<R>(shared, a, b, out, m, n, (int)k, (band + within % height) * SIZE, within / height * SIZE);
    }
}

/* A matrix in memory with a step for each of its axes. */
struct strided {
    const float *first;
    int64_t line_step, k_step;

    struct cursor {
        const float *here;
        int64_t neighbour, tile;
        __device__ float load(int e) const { return here[e * neighbour]; }
        __device__ void next() { here += tile; }
    };
    __device__ bool along_k() const { return line_step != 1; }
    __device__ cursor at(int64_t line, int64_t k) const {
        return cursor{first + line * line_step + k * k_step, along_k() ? k_step : line_step, TILE_K * k_step};
    }
};

#endif
