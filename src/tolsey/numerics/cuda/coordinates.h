/* An index as three coordinates and what is left: a position as an image and its places, a tap as a channel and its places. */
#ifndef TOLSEY_CUDA_COORDINATES_H
#define TOLSEY_CUDA_COORDINATES_H

#include "lane.h"

enum { DIMENSIONS = 3 };

/* The last coordinate is the fastest. Indices and sizes fit into 31 bits, as launches.py checks. */
struct coordinates {
    int64_t outer, at[DIMENSIONS];
    coordinates() = default;
    __device__ coordinates(int64_t index, const int64_t *sizes) {
        uint32_t rest = (uint32_t)index;
        for (int d = DIMENSIONS - 1; d >= 0; d--) {
            const uint32_t size = (uint32_t)sizes[d], quotient = rest / size;
            at[d] = rest - quotient * size;
            rest = quotient;
        }
        outer = rest;
    }
    __device__ void next(const int64_t *sizes) {
        bool carried = true;
        UNROLL for (int d = DIMENSIONS - 1; d >= 0; d--) {
            at[d] += carried;
            carried = at[d] == sizes[d];
            if (carried) at[d] = 0;
        }
        outer += carried;
    }
};

#endif
