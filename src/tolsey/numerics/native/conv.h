/* What conv.c, conv_frame.c and conv_weight.c all say of a convolution; what a window is stands in conv.c. */
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

struct window {
    const float *data;
    int64_t images, channels, image_step, channel_step;
    const int64_t *size; /* of the source */
    int64_t grid[DIMENSIONS], step[DIMENSIONS];
    int64_t taps[DIMENSIONS];
    const int64_t *offset[DIMENSIONS]; /* of each tap */
};

/* conv_frame.c: a window's source with all that its taps see beyond it, as +0, so that what a position sees through a tap is
 * at the sum of two places: no question is left where the border is. [image, channel, size]; `data` is its user's. */
struct frame {
    const struct window *window;
    float *data;
    int64_t size[DIMENSIONS], begin[DIMENSIONS]; /* of a channel; in coordinates of the source */
};
/* A user's frame, or what it makes at once of many images, is no larger. */
#define MOST_FRAME_FLOATS ((int64_t)4 << 20)

struct frame tolsey_frame_of(const struct window *window);
/* Fills in one channel of one image: image * channels + channel. */
void tolsey_fill_frame(const struct frame *it, int64_t place);

INLINE int64_t place_of_position_in_frame(const struct frame *it, int64_t image, const int64_t *digits) {
    const int64_t *step = it->window->step, *size = it->size;
    int64_t depth = image * it->window->channels * size[0] + digits[0] * step[0];
    return (depth * size[1] + digits[1] * step[1]) * size[2] + digits[2] * step[2];
}

INLINE int64_t place_of_tap_in_frame(const struct frame *it, int64_t channel, const int64_t *digits) {
    const int64_t *size = it->size;
    int64_t at[DIMENSIONS];
    for (int d = 0; d < DIMENSIONS; d++) at[d] = it->window->offset[d][digits[d]] - it->begin[d];
    return ((channel * size[0] + at[0]) * size[1] + at[1]) * size[2] + at[2];
}

/* conv_weight.c: the gradient of the weight of one group, where `tolsey_weight_is_direct`. The window is the input's, `gradient`
 * that of so many channels of the output. */
int tolsey_weight_is_direct(const struct window *input, int64_t channels_out);
int tolsey_weight_directly(const struct window *input, const float *gradient, int64_t gradient_image_step,
                           int64_t channels_out, float *to);

#endif
