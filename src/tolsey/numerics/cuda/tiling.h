/* A matrix cut into tiles, in the order in which a grid's blocks take them: those that run together stay near each other, so
 * that they find operands in the cache. */
#ifndef TOLSEY_CUDA_TILING_H
#define TOLSEY_CUDA_TILING_H

#include "lane.h"

struct tiling {
    enum { TOGETHER = 8 };
    int64_t height, width, down, across; /* of a tile; tiles of the matrix */

    __device__ tiling(int64_t m, int64_t n, int64_t height, int64_t width)
        : height(height), width(width), down((m + height - 1) / height), across((n + width - 1) / width) {}
    __device__ int64_t count() const { return down * across; }
    __device__ void corner(int64_t at, int64_t &row, int64_t &column) const {
        const int64_t band = at / (TOGETHER * across) * TOGETHER, rows = least(TOGETHER, down - band);
        const int64_t within = at % (TOGETHER * across);
        row = (band + within % rows) * height;
        column = within / rows * width;
    }
};

#endif
