/* What conv.c and conv_weight.c both say of a convolution. */
#ifndef TOLSEY_CONV_H
#define TOLSEY_CONV_H

#include "gemm.h"

enum { DIMENSIONS = 3 };

/* As library.py's callers lay it out: the ordinary convolution's view, also for a transposed one. */
struct geometry {
    int64_t images, groups, channels_in, channels_out; /* channels of one group */
    int64_t in[DIMENSIONS], kernel[DIMENSIONS], stride[DIMENSIONS], padding[DIMENSIONS], dilation[DIMENSIONS];
    int64_t out[DIMENSIONS];
};

INLINE int64_t volume(const int64_t *size) { return size[0] * size[1] * size[2]; }

/* Counts through three digits, the last one fastest; returns what overflows into the next image or channel. */
INLINE int64_t split(int64_t at, const int64_t *sizes, int64_t *digits) {
    digits[2] = at % sizes[2];
    at /= sizes[2];
    digits[1] = at % sizes[1];
    at /= sizes[1];
    digits[0] = at % sizes[0];
    return at / sizes[0];
}

INLINE int64_t next(const int64_t *sizes, int64_t *digits) {
    if (++digits[2] < sizes[2]) return 0;
    digits[2] = 0;
    if (++digits[1] < sizes[1]) return 0;
    digits[1] = 0;
    if (++digits[0] < sizes[0]) return 0;
    digits[0] = 0;
    return 1;
}

/* conv_weight.c: the gradient of the weight of one group, where `tolsey_weight_is_direct`. The pointers are the group's. */
int tolsey_weight_is_direct(const struct geometry *g);
int tolsey_weight_directly(const struct geometry *g, const float *gradient, const float *input, float *to);

#endif
