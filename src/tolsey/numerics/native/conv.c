/* Convolutions in one to three dimensions, as products over an image seen through a window; nothing is unrolled in memory.
 *
 *   forward           C[channel out, position]     = weight        x  input seen at (channel in, kd, kh, kw)
 *   backward input    C[channel in, position]      = weight turned x  output gradient seen at (channel out, kd, kh, kw)
 *   backward weight   C[channel out, (in, window)] = output gradient x input, over (image, od, oh, ow)
 *
 * The forward of a transposed convolution is the backward input of the ordinary one, and so on round. Where windows are three
 * wide, conv_weight.c computes the gradient of the weight.
 *
 * A *window* looks at a source through taps from a grid of positions: position (a, b, c) of image n and tap (channel, t0, t1,
 * t2) see the source at (a * step + offset of t) in each dimension, or +0 where that lies outside. In the backward input
 * with a stride, a position is reached only by taps whose distance divides by the stride. So positions are dealt with in
 * *phases*, those of equal remainder: within one the same taps meet every position, and each steps by one.
 *
 * What a window sees is packed into panels, or, where few rows of C would read a panel, read from a *frame* (conv.h). */
#include "conv.h"
#include <stdlib.h>

/* ---------------------------------------------------------------- seeing */

/* A position or a tap as the source's coordinates and place; what is seen is at their sum. */
struct where {
    int64_t at[DIMENSIONS], place;
};

INLINE struct where where(const struct window *it, const int64_t *at, int64_t outer) {
    return (struct where){{at[0], at[1], at[2]}, outer + (at[0] * it->size[1] + at[1]) * it->size[2] + at[2]};
}

INLINE struct where where_position(const struct window *it, int64_t image, const int64_t *digits) {
    int64_t at[DIMENSIONS] = {digits[0] * it->step[0], digits[1] * it->step[1], digits[2] * it->step[2]};
    return where(it, at, image * it->image_step);
}

INLINE struct where where_tap(const struct window *it, int64_t channel, const int64_t *digits) {
    int64_t at[DIMENSIONS] = {it->offset[0][digits[0]], it->offset[1][digits[1]], it->offset[2][digits[2]]};
    return where(it, at, channel * it->channel_step);
}

INLINE int inside(const struct window *it, const struct where *one, const struct where *other, int d) {
    int64_t at = one->at[d] + other->at[d];
    return at >= 0 && at < it->size[d];
}

/* Neighbouring positions of one line of the grid, so also neighbours (or every step-th) in the source. */
struct run {
    struct where first;
    int64_t count;
};

/* The runs that `count` positions from `first` on fall into; never more than `count`. */
static int64_t runs_of(const struct window *it, int64_t first, int64_t count, struct run *runs) {
    int64_t digits[DIMENSIONS], made = 0, image = split(first, it->grid, digits);
    while (count > 0) {
        struct run *run = runs + made++;
        run->first = where_position(it, image, digits);
        run->count = least(count, it->grid[2] - digits[2]);
        count -= run->count;
        digits[2] += run->count - 1;
        image += next(it->grid, digits);
    }
    return made;
}

INLINE void zeros(float *to, int64_t count) {
    FOR_VECTORS(i, w, 0, count) vstore_n(to + i, vset(0), w);
}

/* What a run of positions sees through one tap. */
INLINE void see(const struct window *it, const struct run *run, const struct where *tap, float *to) {
    int64_t x = run->first.at[2] + tap->at[2], step = it->step[2], width = it->size[2];
    if (!inside(it, &run->first, tap, 0) || !inside(it, &run->first, tap, 1)) {
        zeros(to, run->count);
        return;
    }
    const float *from = it->data + run->first.place + tap->place;
    __builtin_prefetch(from + width); /* the next run is often the next line */
    if (step == 1) {
        FOR_VECTORS(i, w, 0, run->count) {
            int64_t begin = -x - i, end = width - x - i;
            vstore_n(to + i, begin <= 0 && end >= w ? vload_n(from + i, w) : vload_between(from + i, begin, least(end, w)), w);
        }
    } else if (x >= 0 && x + (run->count - 1) * step < width) {
        for (int64_t i = 0; i < run->count; i++) to[i] = from[i * step];
    } else {
        for (int64_t i = 0; i < run->count; i++, x += step) to[i] = x >= 0 && x < width ? from[i * step] : 0.0f;
    }
}

/* Lines shorter than this are not worth copying as such. */
enum { SHORT_LINE = 8 };

/* Whether coordinates and places of everything fit 32 bits, for gathering lane by lane. */
static int is_small(const struct window *it) {
    const int64_t large = (int64_t)1 << 29;
    int small = it->images * it->image_step < (int64_t)1 << 31;
    for (int d = 0; d < DIMENSIONS; d++) {
        small &= it->size[d] < large && it->grid[d] < large && it->step[d] < large && it->grid[d] * it->step[d] < large;
        for (int64_t tap = 0; tap < it->taps[d]; tap++) small &= it->offset[d][tap] < large && it->offset[d][tap] > -large;
    }
    return small;
}

/* Whether positions follow each other in the source as they do in the grid, across the ends of lines. */
static int is_flat(const struct window *it) {
    int flat = it->grid[1] == it->size[1] && it->grid[2] == it->size[2];
    for (int d = 0; d < DIMENSIONS; d++) flat &= it->step[d] == 1;
    return flat;
}

/* What a vector of positions that follow each other in the source sees through each tap: which lanes, and how far away. It
 * is the same for every channel and image. Coordinates are those of the lanes, of which those of `here` are there. */
enum { MOST_TAPS = 32 };
struct sight {
    vi seen[MOST_TAPS];
    int64_t offset[MOST_TAPS];
};

INLINE void look(const struct window *it, vi y0, vi y1, vi x, vi here, struct sight *sight) {
    int64_t digits[DIMENSIONS] = {0}, taps = volume(it->taps);
    vu size0 = vset_u((uint32_t)it->size[0]), size1 = vset_u((uint32_t)it->size[1]), size2 = vset_u((uint32_t)it->size[2]);
    for (int64_t tap = 0; tap < taps; tap++) {
        struct where w = where_tap(it, 0, digits);
        sight->seen[tap] = here & (vi)((vu)(y0 + (int32_t)w.at[0]) < size0) & (vi)((vu)(y1 + (int32_t)w.at[1]) < size1) &
                           (vi)((vu)(x + (int32_t)w.at[2]) < size2);
        sight->offset[tap] = w.place;
        next(it->taps, digits);
    }
}

/* Packs such a vector, the first lane at `from`, through taps k0 … k0 + depth - 1. */
INLINE void pack_following(const struct window *it, const struct sight *sight, const float *from, int64_t k0, int64_t depth,
                           float *to, int64_t step, int64_t wide) {
    int64_t taps = volume(it->taps), tap = k0 % taps;
    from += k0 / taps * it->channel_step;
    for (int64_t k = 0; k < depth; k++) {
        vstore_n(to + k * step, vload_where(from + sight->offset[tap], sight->seen[tap]), wide);
        if (++tap == taps) {
            tap = 0;
            from += it->channel_step;
        }
    }
}

/* One channel of a result by the chain, without packing: where there is no second channel that would read the same panel,
 * packing costs more than it brings. Weight (channel, tap) lies at weight[channel * weight_step + index[tap]]. */
struct direct {
    const float *weight;
    int64_t channels, weight_step, index[MOST_TAPS];
    const float *bias;
    float *to;
    int64_t to_image_step;
};

static int is_direct(const struct window *it) { return is_flat(it) && volume(it->taps) <= MOST_TAPS && is_small(it); }

static void multiply_directly(const struct window *it, const struct direct *d) {
    int64_t positions = volume(it->grid), taps = volume(it->taps), at[DIMENSIONS] = {0};
    struct sight sight;
    FOR_VECTORS(first, w, 0, positions) {
        vi y0 = vset_i(-1), y1 = y0, x = y0;
        for (int64_t i = 0; i < least(w, VW); i++) {
            y0[i] = (int32_t)at[0];
            y1[i] = (int32_t)at[1];
            x[i] = (int32_t)at[2];
            next(it->grid, at);
        }
        look(it, y0, y1, x, vcount() < vset_i((int32_t)least(w, VW)), &sight);
        for (int64_t image = 0; image < it->images; image++) {
            const float *from = it->data + image * it->image_step + first, *weight = d->weight;
            vf sum = vset(0);
            for (int64_t channel = 0; channel < d->channels; channel++, from += it->channel_step, weight += d->weight_step)
                for (int64_t tap = 0; tap < taps; tap++)
                    sum = vfma(vset(weight[d->index[tap]]), vload_where(from + sight.offset[tap], sight.seen[tap]), sum);
            vstore_n(d->to + image * d->to_image_step + first, d->bias ? sum + vset(*d->bias) : sum, w);
        }
    }
}

/* Either packing, one lane at a time: a vector of lanes meets one depth after the other. */
INLINE void pack_scattered(const int lanes_are_taps, const struct window *it, int64_t lane0, int64_t lanes, int64_t k0,
                           int64_t depth, float *to, int64_t step) {
    const int64_t *lane_sizes = lanes_are_taps ? it->taps : it->grid, *depth_sizes = lanes_are_taps ? it->grid : it->taps;
    int64_t lane[DIMENSIONS], outer = split(lane0, lane_sizes, lane);
    vu size0 = vset_u((uint32_t)it->size[0]), size1 = vset_u((uint32_t)it->size[1]), size2 = vset_u((uint32_t)it->size[2]);
    for (int64_t l = 0; l < step; l += VW) {
        vi y0 = vset_i(-1), y1 = y0, x = y0, place = y0, here = vcount() < vset_i((int32_t)least(lanes - l, VW));
        for (int64_t i = 0; i < least(lanes - l, VW); i++) {
            struct where w = lanes_are_taps ? where_tap(it, outer, lane) : where_position(it, outer, lane);
            y0[i] = (int32_t)w.at[0];
            y1[i] = (int32_t)w.at[1];
            x[i] = (int32_t)w.at[2];
            place[i] = (int32_t)w.place;
            outer += next(lane_sizes, lane);
        }
        vi gap = place - (place[0] + vcount());
        int follow = !lanes_are_taps && volume(it->taps) <= MOST_TAPS;
        for (int64_t i = 0; i < least(lanes - l, VW); i++) follow &= gap[i] == 0;
        if (follow) {
            struct sight sight;
            look(it, y0, y1, x, here, &sight);
            pack_following(it, &sight, it->data + place[0], k0, depth, to + l, step, step - l);
            continue;
        }
        int64_t at[DIMENSIONS], outer_at = split(k0, depth_sizes, at);
        for (int64_t k = 0; k < depth; k++) {
            struct where w = lanes_are_taps ? where_position(it, outer_at, at) : where_tap(it, outer_at, at);
            vi seen = here & (vi)((vu)(y0 + (int32_t)w.at[0]) < size0) & (vi)((vu)(y1 + (int32_t)w.at[1]) < size1) &
                      (vi)((vu)(x + (int32_t)w.at[2]) < size2);
            vstore_n(to + k * step + l, vgather(it->data, place + (int32_t)w.place, seen), step - l);
            outer_at += next(depth_sizes, at);
        }
    }
}

/* Lanes are positions, all of one line and as many as the panel is wide: whole vectors, and cut ones at the border. */
static void pack_line(const struct window *it, const struct run *run, int64_t k0, int64_t depth, float *to) {
    int64_t digits[DIMENSIONS], channel = split(k0, it->taps, digits), width = it->size[2], count = run->count;
    while (depth > 0) {
        struct where line = where_tap(it, channel, digits);
        int seen = inside(it, &run->first, &line, 0) && inside(it, &run->first, &line, 1);
        const float *from = it->data + run->first.place + line.place - line.at[2];
        for (; digits[2] < it->taps[2] && depth > 0; digits[2]++, depth--, to += count) {
            int64_t offset = it->offset[2][digits[2]], x = run->first.at[2] + offset;
            if (!seen)
                for (int64_t i = 0; i < count; i += VW) vstore(to + i, vset(0));
            else if (x >= 0 && x + count <= width)
                for (int64_t i = 0; i < count; i += VW) vstore(to + i, vload(from + offset + i));
            else
                for (int64_t i = 0; i < count; i += VW)
                    vstore(to + i, vload_between(from + offset + i, -x - i, width - x - i));
        }
        digits[2]--; /* the last one seen */
        channel += next(it->taps, digits);
    }
}

/* Lanes are positions, depth is taps: how a convolution reads its source. */
static void pack_positions(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                           int64_t step) {
    enum { AT_ONCE = 64 };
    const struct window *it = side->more;
    if ((it->grid[2] < SHORT_LINE || (it->grid[2] % step != 0 && is_flat(it))) && is_small(it)) {
        pack_scattered(0, it, lane0, lanes, k0, depth, to, step);
        return;
    }
    for (int64_t l = 0; l < step; l += AT_ONCE) {
        struct run runs[AT_ONCE];
        int64_t here = most(least(lanes - l, AT_ONCE), 0), made = runs_of(it, lane0 + l, here, runs);
        if (made == 1 && here == step && it->step[2] == 1) {
            pack_line(it, runs, k0, depth, to);
            return;
        }
        int64_t digits[DIMENSIONS], channel = split(k0, it->taps, digits);
        for (int64_t k = 0; k < depth; k++) {
            float *row = to + k * step + l;
            struct where tap = where_tap(it, channel, digits);
            for (int64_t r = 0; r < made; row += runs[r++].count) see(it, runs + r, &tap, row);
            zeros(row, least(step - l, AT_ONCE) - here);
            channel += next(it->taps, digits);
        }
    }
}

static int fill_some(void *ctx, int64_t begin, int64_t end) {
    for (int64_t place = begin; place < end; place++) tolsey_fill_frame(ctx, place);
    return TOLSEY_OK;
}

static void lie_positions(const struct side *side, int64_t lane0, int64_t vectors, const float **to) {
    const struct frame *it = side->lying;
    const struct window *window = it->window;
    int64_t digits[DIMENSIONS], image = split(lane0, window->grid, digits);
    for (int64_t v = 0; v < vectors; v++) {
        to[v] = it->data + place_of_position_in_frame(it, image, digits);
        digits[2] += VW - 1;
        image += next(window->grid, digits);
    }
}

/* Lanes are positions, depth is taps, for a product of m rows: read from a frame where whole vectors of positions lie in a
 * line and several taps see each, so that the frame is less to copy than panels. */
static struct side side_of_positions(const struct window *it, int64_t m, struct frame *frame) {
    struct side side = {.pack = pack_positions, .more = it};
    int64_t taps = volume(it->taps), positions = it->images * volume(it->grid);
    if (!frame || it->step[2] != 1 || it->grid[2] % VW != 0 || taps < 2 || !tolsey_reads_in_place(m, positions)) return side;
    *frame = tolsey_frame_of(it);
    int64_t floats = it->images * it->channels * volume(frame->size);
    if (floats > MOST_FRAME_FLOATS) return side;
    int64_t *depths = tolsey_scratch(SCRATCH_ROW, sizeof(int64_t) * (size_t)(it->channels * taps));
    frame->data = tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)floats);
    if (!depths || !frame->data) return side;
    int64_t digits[DIMENSIONS] = {0}, channel = 0;
    for (int64_t k = 0; k < it->channels * taps; k++) {
        depths[k] = place_of_tap_in_frame(frame, channel, digits);
        channel += next(it->taps, digits);
    }
    int64_t pieces = it->images * it->channels, threads = tolsey_threads_worth((double)floats);
    tolsey_parallel(pieces, tolsey_grain(pieces, threads), fill_some, frame);
    side.lie = lie_positions;
    side.lying = frame;
    side.depths = depths;
    return side;
}

/* Lanes are taps, depth is positions: how the gradient of the weight reads the input. */
static void pack_taps(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                      int64_t step) {
    enum { AT_ONCE = 128 };
    const struct window *it = side->more;
    if (it->grid[2] < SHORT_LINE && is_small(it)) {
        pack_scattered(1, it, lane0, lanes, k0, depth, to, step);
        return;
    }
    for (int64_t k = 0; k < depth; k += AT_ONCE) {
        struct run runs[AT_ONCE];
        int64_t deep = least(depth - k, AT_ONCE), made = runs_of(it, k0 + k, deep, runs);
        int64_t digits[DIMENSIONS], channel = split(lane0, it->taps, digits);
        for (int64_t l = 0; l < step; l += VW) {
            float seen[VW][AT_ONCE];
            int64_t here = most(least(lanes - l, VW), 0);
            for (int64_t lane = 0; lane < here; lane++) {
                float *row = seen[lane];
                struct where tap = where_tap(it, channel, digits);
                for (int64_t r = 0; r < made; row += runs[r++].count) see(it, runs + r, &tap, row);
                channel += next(it->taps, digits);
            }
            tolsey_pack_depth(seen[0], AT_ONCE, here, deep, to + k * step + l, step, least(step - l, VW));
        }
    }
}

/* Lanes are channels, depth is (image, position): how the gradient of the weight reads the output's gradient. */
static void pack_images(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                        int64_t step) {
    const struct window *it = side->more;
    int64_t positions = volume(it->grid);
    while (depth > 0) {
        int64_t image = k0 / positions, position = k0 % positions, here = least(depth, positions - position);
        tolsey_pack_depth(it->data + image * it->image_step + lane0 * positions + position, positions, lanes, here, to,
                          step, step);
        to += here * step;
        k0 += here;
        depth -= here;
    }
}

static void rows_images(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                        int64_t step) {
    const struct window *it = side->more;
    int64_t positions = volume(it->grid);
    while (depth > 0) {
        int64_t image = k0 / positions, position = k0 % positions, here = least(depth, positions - position);
        const float *from = it->data + image * it->image_step + lane0 * positions + position;
        tolsey_copy_rows(from, positions, lanes, here, to, step);
        to += here;
        k0 += here;
        depth -= here;
    }
}

/* Lanes are channels in, depth is (channel out, tap) of a phase: the weight, turned. */
struct turned {
    const int64_t *kernel;
    int64_t channels_in;
    int64_t taps[DIMENSIONS];
    const int64_t *index[DIMENSIONS]; /* of each tap, in the kernel */
};

INLINE int64_t place_of_tap(const struct turned *it, const int64_t *tap) {
    return (it->index[0][tap[0]] * it->kernel[1] + it->index[1][tap[1]]) * it->kernel[2] + it->index[2][tap[2]];
}

static void pack_turned(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                        int64_t step) {
    const struct turned *it = side->more;
    int64_t window = volume(it->kernel), tap[DIMENSIONS], channel = split(k0, it->taps, tap);
    if (volume(it->taps) == window && window > VW / 4) { /* every tap, in the kernel's order: side by side */
        for (int64_t from = k0 % window, deep; depth > 0; channel++, depth -= deep, to += deep * step, from = 0) {
            deep = least(window - from, depth);
            const float *lane = side->data + (channel * it->channels_in + lane0) * window + from;
            tolsey_pack_depth(lane, window, lanes, deep, to, step, step);
        }
        return;
    }
    for (int64_t k = 0; k < depth; k++, to += step) {
        const float *from = side->data + (channel * it->channels_in + lane0) * window + place_of_tap(it, tap);
        for (int64_t l = 0; l < lanes; l++) to[l] = from[l * window];
        for (int64_t l = lanes; l < step; l++) to[l] = 0.0f;
        channel += next(it->taps, tap);
    }
}

/* Where positions of a grid lie in the image that is written. */
struct grid {
    int64_t image_step;
    const int64_t *size;
    int64_t grid[DIMENSIONS], step[DIMENSIONS], begin[DIMENSIONS];
};

static void places_of_grid(const struct target *target, int64_t j0, int64_t count, int64_t *place) {
    const struct grid *it = target->more;
    int64_t at[DIMENSIONS], image = split(j0, it->grid, at);
    for (int64_t j = 0; j < count; j++) {
        int64_t line = (at[0] * it->step[0] + it->begin[0]) * it->size[1] + at[1] * it->step[1] + it->begin[1];
        place[j] = image * it->image_step + line * it->size[2] + at[2] * it->step[2] + it->begin[2];
        image += next(it->grid, at);
    }
}

/* ---------------------------------------------------------------- taps */

/* The taps of each dimension, ordered by phase and then ascending: index in the kernel, offset in the source; those of
 * phase p are begin[p] … begin[p + 1] - 1. One block of memory holds all of it. */
struct taps {
    int64_t phases[DIMENSIONS];
    int64_t *index[DIMENSIONS], *offset[DIMENSIONS], *begin[DIMENSIONS];
};

/* All taps in one phase (forward), or those that divide by the stride from each remainder (backward input). NULL: no memory. */
static int64_t *lay_out_taps(const struct geometry *g, int by_phase, struct taps *it) {
    size_t entries = 0;
    for (int d = 0; d < DIMENSIONS; d++) {
        it->phases[d] = by_phase ? least(g->stride[d], g->in[d]) : 1;
        entries += (size_t)(2 * g->kernel[d] + it->phases[d] + 1);
    }
    int64_t *memory = malloc(entries * sizeof *memory), *next_free = memory;
    if (!memory) return NULL;
    for (int d = 0; d < DIMENSIONS; d++) {
        it->index[d] = next_free;
        it->offset[d] = it->index[d] + g->kernel[d];
        it->begin[d] = it->offset[d] + g->kernel[d];
        next_free = it->begin[d] + it->phases[d] + 1;
        int64_t made = 0;
        for (int64_t phase = 0; phase < it->phases[d]; phase++) {
            it->begin[d][phase] = made;
            for (int64_t tap = 0; tap < g->kernel[d]; tap++) {
                int64_t distance = tap * g->dilation[d] - g->padding[d];
                if (by_phase && (phase - distance) % g->stride[d] != 0) continue;
                it->index[d][made] = tap;
                it->offset[d][made++] = by_phase ? (phase - distance) / g->stride[d] : distance;
            }
        }
        it->begin[d][it->phases[d]] = made;
    }
    return memory;
}

/* ---------------------------------------------------------------- one group */

struct convolution {
    const struct geometry *shape;
    const float *input, *weight, *bias, *output; /* of these, what is read */
    float *to;
    struct taps taps;
    tolsey_multiplication multiplication;
};

/* Whether products are the chain's: its numbers alone are read as they lie, another law rounds them first. */
INLINE int by_the_chain(const struct convolution *it) { return it->multiplication == tolsey_product; }

static int forward_group(const struct convolution *it, int64_t group) {
    const struct geometry *g = it->shape;
    int64_t inside = volume(g->in), outside = volume(g->out), depth = g->channels_in * volume(g->kernel);
    struct window window = {.data = it->input + group * g->channels_in * inside,
                            .images = g->images,
                            .channels = g->channels_in,
                            .image_step = g->groups * g->channels_in * inside,
                            .channel_step = inside,
                            .size = g->in};
    struct grid grid = {.image_step = g->groups * g->channels_out * outside, .size = g->out};
    for (int d = 0; d < DIMENSIONS; d++) {
        window.grid[d] = grid.grid[d] = g->out[d];
        window.step[d] = g->stride[d];
        window.taps[d] = g->kernel[d];
        window.offset[d] = it->taps.offset[d];
        grid.step[d] = 1;
    }
    if (by_the_chain(it) && g->channels_out == 1 && is_direct(&window)) {
        struct direct direct = {.weight = it->weight + group * depth,
                                .channels = g->channels_in,
                                .weight_step = volume(g->kernel),
                                .bias = it->bias ? it->bias + group : NULL,
                                .to = it->to + group * outside,
                                .to_image_step = grid.image_step};
        for (int64_t tap = 0; tap < volume(g->kernel); tap++) direct.index[tap] = tap;
        multiply_directly(&window, &direct);
        return TOLSEY_OK;
    }
    struct frame frame;
    struct side a = tolsey_strided(it->weight + group * g->channels_out * depth, depth, 1);
    struct side b = side_of_positions(&window, g->channels_out, by_the_chain(it) ? &frame : NULL);
    struct target c = {it->to + group * g->channels_out * outside, outside, 0, places_of_grid,
                       it->bias ? it->bias + group * g->channels_out : NULL, 1, 0, &grid};
    return it->multiplication(g->channels_out, g->images * outside, depth, &a, &b, &c);
}

static int backward_input_phase(const struct convolution *it, int64_t group, const int64_t *phase) {
    const struct geometry *g = it->shape;
    int64_t inside = volume(g->in), outside = volume(g->out);
    struct window window = {.data = it->output + group * g->channels_out * outside,
                            .images = g->images,
                            .channels = g->channels_out,
                            .image_step = g->groups * g->channels_out * outside,
                            .channel_step = outside,
                            .size = g->out};
    struct grid grid = {.image_step = g->groups * g->channels_in * inside, .size = g->in};
    struct turned turned = {.kernel = g->kernel, .channels_in = g->channels_in};
    for (int d = 0; d < DIMENSIONS; d++) {
        int64_t from = it->taps.begin[d][phase[d]];
        window.grid[d] = grid.grid[d] = (g->in[d] - phase[d] - 1) / g->stride[d] + 1;
        window.step[d] = 1;
        window.taps[d] = turned.taps[d] = it->taps.begin[d][phase[d] + 1] - from;
        window.offset[d] = it->taps.offset[d] + from;
        turned.index[d] = it->taps.index[d] + from;
        grid.step[d] = g->stride[d];
        grid.begin[d] = phase[d];
    }
    const float *weight = it->weight + group * g->channels_out * g->channels_in * volume(g->kernel);
    int adjacent = volume(g->stride) == 1; /* with a stride, places lie apart */
    if (by_the_chain(it) && g->channels_in == 1 && adjacent && is_direct(&window)) {
        struct direct direct = {.weight = weight,
                                .channels = g->channels_out,
                                .weight_step = volume(g->kernel),
                                .bias = it->bias ? it->bias + group : NULL,
                                .to = it->to + group * inside,
                                .to_image_step = grid.image_step};
        int64_t tap[DIMENSIONS] = {0};
        for (int64_t made = 0; made < volume(turned.taps); made++) {
            direct.index[made] = place_of_tap(&turned, tap);
            next(turned.taps, tap);
        }
        multiply_directly(&window, &direct);
        return TOLSEY_OK;
    }
    struct frame frame;
    struct side a = {.pack = pack_turned, .data = weight, .more = &turned};
    struct side b = side_of_positions(&window, g->channels_in, by_the_chain(it) ? &frame : NULL);
    struct target c = {it->to + group * g->channels_in * inside, inside, 0, places_of_grid,
                       it->bias ? it->bias + group * g->channels_in : NULL, 1, 0, &grid};
    return it->multiplication(g->channels_in, g->images * volume(grid.grid), g->channels_out * volume(turned.taps), &a, &b, &c);
}

static int backward_input_group(const struct convolution *it, int64_t group) {
    int64_t phase[DIMENSIONS] = {0};
    int answer = TOLSEY_OK;
    do
        answer = backward_input_phase(it, group, phase);
    while (answer == TOLSEY_OK && !next(it->taps.phases, phase));
    return answer;
}

static int backward_weight_group(const struct convolution *it, int64_t group) {
    const struct geometry *g = it->shape;
    int64_t inside = volume(g->in), outside = volume(g->out), seen = g->channels_in * volume(g->kernel);
    struct window gradient = {.data = it->output + group * g->channels_out * outside,
                              .image_step = g->groups * g->channels_out * outside};
    struct window window = {.data = it->input + group * g->channels_in * inside,
                            .images = g->images,
                            .channels = g->channels_in,
                            .image_step = g->groups * g->channels_in * inside,
                            .channel_step = inside,
                            .size = g->in};
    for (int d = 0; d < DIMENSIONS; d++) {
        window.grid[d] = gradient.grid[d] = g->out[d];
        window.step[d] = g->stride[d];
        window.taps[d] = g->kernel[d];
        window.offset[d] = it->taps.offset[d];
    }
    if (by_the_chain(it) && tolsey_weight_is_direct(&window, g->channels_out))
        return tolsey_weight_directly(&window, gradient.data, gradient.image_step, g->channels_out,
                                      it->to + group * g->channels_out * seen);
    struct side a = {.pack = pack_images, .rows = rows_images, .more = &gradient};
    struct side b = {.pack = pack_taps, .more = &window};
    struct target c = {it->to + group * g->channels_out * seen, seen, 1, tolsey_places_strided, NULL, 0, 0, NULL};
    return it->multiplication(g->channels_out, seen, g->images * outside, &a, &b, &c);
}

/* ---------------------------------------------------------------- called from outside */

struct groups {
    const struct convolution *it;
    int (*one)(const struct convolution *it, int64_t group);
};

static int some_groups(void *ctx, int64_t begin, int64_t end) {
    const struct groups *groups = ctx;
    int answer = TOLSEY_OK;
    for (int64_t group = begin; group < end && answer == TOLSEY_OK; group++) answer = groups->one(groups->it, group);
    return answer;
}

/* Enough groups to keep all threads busy: one thread a group. Few: all threads in each. */
static int all_groups(struct convolution *it, int by_phase, int (*one)(const struct convolution *it, int64_t group)) {
    const struct geometry *g = it->shape;
    if (!it->multiplication) return TOLSEY_BAD_ARGUMENT;
    if (g->images < 0 || g->groups < 0 || g->channels_in < 0 || g->channels_out < 0) return TOLSEY_BAD_ARGUMENT;
    for (int d = 0; d < DIMENSIONS; d++)
        if (g->in[d] < 0 || g->kernel[d] < 1 || g->stride[d] < 1 || g->padding[d] < 0 || g->dilation[d] < 1 || g->out[d] < 0)
            return TOLSEY_BAD_ARGUMENT;
    int64_t *memory = lay_out_taps(g, by_phase, &it->taps);
    if (!memory) return TOLSEY_NO_MEMORY;
    struct groups groups = {it, one};
    int answer = g->groups >= 4 * tolsey_helpers() ? tolsey_parallel(g->groups, 1, some_groups, &groups)
                                                   : some_groups(&groups, 0, g->groups);
    free(memory);
    return answer;
}

int tolsey_convolution_by(tolsey_multiplication multiplication, const int64_t *geometry, const float *input,
                          const float *weight, const float *bias, float *output) {
    LAWFUL_ENTRY;
    struct convolution it = {.shape = (const struct geometry *)geometry, .input = input, .weight = weight, .bias = bias};
    it.to = output;
    it.multiplication = multiplication;
    return all_groups(&it, 0, forward_group);
}

int tolsey_convolution_backward_input_by(tolsey_multiplication multiplication, const int64_t *geometry,
                                         const float *output_gradient, const float *weight, const float *bias,
                                         float *input_gradient) {
    LAWFUL_ENTRY;
    struct convolution it = {.shape = (const struct geometry *)geometry, .weight = weight, .bias = bias};
    it.output = output_gradient;
    it.to = input_gradient;
    it.multiplication = multiplication;
    return all_groups(&it, 1, backward_input_group);
}

int tolsey_convolution_backward_weight_by(tolsey_multiplication multiplication, const int64_t *geometry,
                                          const float *output_gradient, const float *input, float *weight_gradient) {
    LAWFUL_ENTRY;
    struct convolution it = {.shape = (const struct geometry *)geometry, .input = input, .output = output_gradient};
    it.to = weight_gradient;
    it.multiplication = multiplication;
    return all_groups(&it, 0, backward_weight_group);
}

/* All data contiguous. input [images, groups * channels_in, in…], weight [groups * channels_out, channels_in, kernel…],
 * output [images, groups * channels_out, out…]; a bias of one number per channel of what is written, or NULL. `geometry` is
 * struct geometry as 22 integers. */
TOLSEY_EXPORT int tolsey_convolution(const int64_t *geometry, const float *input, const float *weight, const float *bias,
                                     float *output) {
    return tolsey_convolution_by(tolsey_product, geometry, input, weight, bias, output);
}

TOLSEY_EXPORT int tolsey_convolution_backward_input(const int64_t *geometry, const float *output_gradient,
                                                    const float *weight, const float *bias, float *input_gradient) {
    return tolsey_convolution_backward_input_by(tolsey_product, geometry, output_gradient, weight, bias, input_gradient);
}

TOLSEY_EXPORT int tolsey_convolution_backward_weight(const int64_t *geometry, const float *output_gradient,
                                                     const float *input, float *weight_gradient) {
    return tolsey_convolution_backward_weight_by(tolsey_product, geometry, output_gradient, input, weight_gradient);
}
