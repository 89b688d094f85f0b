/* The source of a convolution's window, copied once with its padding around it (conv.h says why). */
#include "conv.h"

struct frame tolsey_frame_of(const struct window *window) {
    struct frame it = {.window = window};
    for (int d = 0; d < DIMENSIONS; d++) {
        int64_t end = it.begin[d] = window->offset[d][0];
        for (int64_t tap = 1; tap < window->taps[d]; tap++) {
            it.begin[d] = least(it.begin[d], window->offset[d][tap]);
            end = most(end, window->offset[d][tap]);
        }
        it.size[d] = end - it.begin[d] + (window->grid[d] - 1) * window->step[d] + 1;
    }
    return it;
}

INLINE void zeros(float *to, int64_t count) {
    FOR_VECTORS(i, w, 0, count) vstore_n(to + i, vset(0), w);
}

void tolsey_fill_frame(const struct frame *it, int64_t place) {
    const struct window *window = it->window;
    int64_t image = place / window->channels, channel = place % window->channels, width = it->size[2];
    const float *from = window->data + image * window->image_step + channel * window->channel_step;
    float *to = it->data + place * volume(it->size);
    /* Of a line: what comes before the source, what of the source is left out, what is in it. */
    int64_t left = least(most(-it->begin[2], 0), width), skipped = most(it->begin[2], 0);
    int64_t inside = most(least(window->size[2] - skipped, width - left), 0);
    for (int64_t z = it->begin[0]; z < it->begin[0] + it->size[0]; z++)
        for (int64_t y = it->begin[1]; y < it->begin[1] + it->size[1]; y++, to += width) {
            int64_t seen = z >= 0 && z < window->size[0] && y >= 0 && y < window->size[1] ? inside : 0;
            const float *line = from + (z * window->size[1] + y) * window->size[2] + skipped;
            zeros(to, left);
            FOR_VECTORS(i, w, 0, seen) vstore_n(to + left + i, vload_n(line + i, w), w);
            zeros(to + left + seen, width - left - seen);
        }
}
