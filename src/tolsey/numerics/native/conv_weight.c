/* The gradient of a convolution's weight without unfolding the input: windows three wide are read where the input lies.
 *
 *   C[(channel in, window), channel out] = input x output gradient, over (image, od, oh, ow)
 *
 * As a product (conv.c) each number of the input is copied once for each tap, into panels. Here the input is copied once,
 * into a *frame* with its padding around it as +0, and a tile reads *lines* of it: a line is (channel in, kd, kh), whose
 * three taps lie side by side. The gradient's channels are the columns of the tile: it is turned once, to panels.
 *
 * Positions of the output are gone through in *rows* (image, od, oh), each of ow neighbours, ascending: that is the order of
 * the chain. A *slice* is some rows; the sums of a task lie in its scratch meanwhile, and are turned into C at the end. Where
 * frame and gradient of all images would be too large they are made in several *rounds*, and C is where sums wait. */
#include "conv.h"

enum { TAPS = 3 };
#if defined(TOLSEY_AVX512)
#define LINES 4
#define VECTORS 2
#elif defined(TOLSEY_AVX2)
#define LINES 2
#define VECTORS 2
#elif defined(TOLSEY_NEON)
#define LINES 2
#define VECTORS 3
#else
#define LINES 1
#define VECTORS 2
#endif
#define COLUMNS (VECTORS * VW)

/* Positions of a slice, and rows at most: what a tile goes through before the next one takes the same gradient. */
#define SLICE 256
/* Lines of a task. */
#define BLOCK_LINES (LINES * 24)
/* Frame and turned gradient of a round. */
#define ROUND_FLOATS ((int64_t)4 << 20)

/* ---------------------------------------------------------------- one tile */

/* lines x TAPS sums in each of vectors * VW columns: taken up unless these rows are the first, carried through them, put
 * down. Row r begins at[r] floats from where each line begins; b is the gradient's panel. The constants `lines` and `vectors`
 * make it straight code. */
INLINE void tile(const int lines, const int vectors, int64_t rows, const int64_t *at, int64_t width, int64_t step,
                 const float *const *line, const float *b, float *sums, int first) {
    vf acc[LINES * TAPS][VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < lines * TAPS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = first ? vset(0) : vload(sums + (i * vectors + v) * VW);
    for (int64_t r = 0; r < rows; r++) {
        const float *a[LINES];
#pragma GCC unroll 4
        for (int l = 0; l < lines; l++) a[l] = line[l] + at[r];
        for (int64_t k = 0; k < width; k++) {
            vf y[VECTORS];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) y[v] = vload(b + v * VW);
#pragma GCC unroll 16
            for (int i = 0; i < lines * TAPS; i++) {
                vf x = vset(a[i / TAPS][i % TAPS]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) acc[i][v] = vfma(y[v], x, acc[i][v]);
            }
#pragma GCC unroll 4
            for (int l = 0; l < lines; l++) a[l] += step;
            b += vectors * VW;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < lines * TAPS; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) vstore(sums + (i * vectors + v) * VW, acc[i][v]);
}

typedef void (*tile_of_a_size)(int64_t rows, const int64_t *at, int64_t width, int64_t step, const float *const *line,
                               const float *b, float *sums, int first);
#define TILE_OF(lines, vectors)                                                                                        \
    static void tile_##lines##_##vectors(int64_t rows, const int64_t *at, int64_t width, int64_t step,                 \
                                         const float *const *line, const float *b, float *sums, int first) {           \
        tile(lines, vectors, rows, at, width, step, line, b, sums, first);                                             \
    }
#if VECTORS == 3
#define TILES_OF(lines) TILE_OF(lines, 1) TILE_OF(lines, 2) TILE_OF(lines, 3)
#define NAMES_OF(lines) {tile_##lines##_1, tile_##lines##_2, tile_##lines##_3}
#else
#define TILES_OF(lines) TILE_OF(lines, 1) TILE_OF(lines, 2)
#define NAMES_OF(lines) {tile_##lines##_1, tile_##lines##_2}
#endif
TILES_OF(1)
#if LINES >= 2
TILES_OF(2)
#endif
#if LINES >= 4
TILES_OF(3) TILES_OF(4)
#endif

/* tiles[lines - 1][vectors - 1] */
static const tile_of_a_size tiles[LINES][VECTORS] = {
    NAMES_OF(1),
#if LINES >= 2
    NAMES_OF(2),
#endif
#if LINES >= 4
    NAMES_OF(3), NAMES_OF(4),
#endif
};

/* ---------------------------------------------------------------- a round */

struct weight_gradient {
    const struct geometry *shape;
    const float *gradient, *input;
    float *to;
    int64_t frame_size[DIMENSIONS]; /* of one channel: what windows reach */
    int64_t lines, panels, blocks;  /* of lines; of columns; of lines, each for a task */
    int64_t image0, images;         /* of this round */
    float *frame, *turned;          /* [image, channel in, frame], [panel, (image, position), column] */
};

/* Panels but for the last are COLUMNS wide. */
INLINE int64_t panel_width(const struct weight_gradient *it, int64_t panel) {
    return round_up(least(it->shape->channels_out - panel * COLUMNS, COLUMNS), VW);
}

/* One channel of an image: a line of the frame after the other. */
static void bring_frame(const struct weight_gradient *it, int64_t image, int64_t channel) {
    const struct geometry *g = it->shape;
    const int64_t *size = it->frame_size;
    const float *from = it->input + ((it->image0 + image) * g->groups * g->channels_in + channel) * volume(g->in);
    float *to = it->frame + (image * g->channels_in + channel) * volume(size);
    int64_t left = least(g->padding[2], size[2]), count = most(least(g->in[2], size[2] - left), 0);
    for (int64_t z = -g->padding[0]; z < size[0] - g->padding[0]; z++)
        for (int64_t y = -g->padding[1]; y < size[1] - g->padding[1]; y++, to += size[2]) {
            int64_t seen = z >= 0 && z < g->in[0] && y >= 0 && y < g->in[1] ? count : 0;
            const float *line = from + (z * g->in[1] + y) * g->in[2];
            FOR_VECTORS(i, w, 0, left) vstore_n(to + i, vset(0), w);
            FOR_VECTORS(i, w, 0, seen) vstore_n(to + left + i, vload_n(line + i, w), w);
            FOR_VECTORS(i, w, left + seen, size[2]) vstore_n(to + i, vset(0), w);
        }
}

static void bring_gradient(const struct weight_gradient *it, int64_t image, int64_t panel) {
    const struct geometry *g = it->shape;
    int64_t outside = volume(g->out), width = panel_width(it, panel);
    const float *from = it->gradient + ((it->image0 + image) * g->groups * g->channels_out + panel * COLUMNS) * outside;
    float *to = it->turned + it->images * outside * panel * COLUMNS + image * outside * width;
    tolsey_pack_depth(from, outside, least(g->channels_out - panel * COLUMNS, COLUMNS), outside, to, width, width);
}

/* Of each image the channels, then the panels. */
static int bring_some(void *ctx, int64_t begin, int64_t end) {
    const struct weight_gradient *it = ctx;
    int64_t channels = it->shape->channels_in, each = channels + it->panels;
    for (int64_t task = begin; task < end; task++) {
        int64_t image = task / each, part = task % each;
        if (part < channels)
            bring_frame(it, image, part);
        else
            bring_gradient(it, image, part - channels);
    }
    return TOLSEY_OK;
}

/* Where in the frame rows `row` … row + count - 1 begin. */
static void places_of_rows(const struct weight_gradient *it, int64_t row, int64_t count, int64_t *at) {
    const struct geometry *g = it->shape;
    int64_t image_step = g->channels_in * volume(it->frame_size), digits[DIMENSIONS] = {0};
    int64_t sizes[DIMENSIONS] = {g->out[0], g->out[1], 1}, image = split(row, sizes, digits);
    for (int64_t r = 0; r < count; r++) {
        int64_t line = digits[0] * g->stride[0] * it->frame_size[1] + digits[1] * g->stride[1];
        at[r] = image * image_step + line * it->frame_size[2];
        image += next(sizes, digits);
    }
}

/* Where in the frame of an image line `line` begins. */
INLINE const float *begin_of_line(const struct weight_gradient *it, int64_t line) {
    const struct geometry *g = it->shape;
    int64_t digits[DIMENSIONS], sizes[DIMENSIONS] = {g->kernel[0], g->kernel[1], 1}, channel = split(line, sizes, digits);
    int64_t depth = channel * it->frame_size[0] + digits[0] * g->dilation[0];
    return it->frame + (depth * it->frame_size[1] + digits[1] * g->dilation[1]) * it->frame_size[2];
}

/* A block of lines against a panel, through all rows of the round. */
static void multiply(const struct weight_gradient *it, int64_t panel, int64_t line0, int64_t lines, float *sums) {
    const struct geometry *g = it->shape;
    int64_t width = panel_width(it, panel), columns = least(g->channels_out - panel * COLUMNS, COLUMNS);
    int64_t rows = it->images * g->out[0] * g->out[1], deepest = most(SLICE / g->out[2], 1), at[SLICE];
    int64_t seen = it->lines * TAPS, tiles_of_block = (lines + LINES - 1) / LINES;
    const float *b = it->turned + it->images * volume(g->out) * panel * COLUMNS;
    float *c = it->to + panel * COLUMNS * seen + line0 * TAPS;
    if (it->image0 > 0) tolsey_pack_depth(c, seen, columns, lines * TAPS, sums, width, width);
    for (int64_t row = 0; row < rows; row += deepest) {
        int64_t deep = least(rows - row, deepest);
        places_of_rows(it, row, deep, at);
        for (int64_t part = 0; part < tiles_of_block; part++) {
            int64_t begin = lines * part / tiles_of_block, count = lines * (part + 1) / tiles_of_block - begin;
            const float *line[LINES];
            for (int64_t l = 0; l < count; l++) line[l] = begin_of_line(it, line0 + begin + l);
            tiles[count - 1][width / VW - 1](deep, at, g->out[2], g->stride[2], line, b + row * g->out[2] * width,
                                             sums + begin * TAPS * width, it->image0 == 0 && row == 0);
        }
    }
    tolsey_pack_depth(sums, width, lines * TAPS, columns, c, seen, lines * TAPS);
}

static int multiply_some(void *ctx, int64_t begin, int64_t end) {
    const struct weight_gradient *it = ctx;
    float *sums = tolsey_scratch(SCRATCH_SUMS, sizeof(float) * BLOCK_LINES * TAPS * COLUMNS);
    if (!sums) return TOLSEY_NO_MEMORY;
    for (int64_t task = begin; task < end; task++) {
        int64_t block = task % it->blocks, line0 = it->lines * block / it->blocks;
        multiply(it, task / it->blocks, line0, it->lines * (block + 1) / it->blocks - line0, sums);
    }
    return TOLSEY_OK;
}

/* ---------------------------------------------------------------- one group */

static void size_of_frame(const struct geometry *g, int64_t *size) {
    for (int d = 0; d < DIMENSIONS; d++) size[d] = (g->out[d] - 1) * g->stride[d] + (g->kernel[d] - 1) * g->dilation[d] + 1;
}

/* What a round holds of one image. */
static int64_t floats_of_image(const struct geometry *g, const int64_t *frame_size) {
    return g->channels_in * volume(frame_size) + round_up(g->channels_out, VW) * volume(g->out);
}

int tolsey_weight_is_direct(const struct geometry *g) {
    if (g->kernel[2] != TAPS || g->dilation[2] != 1 || g->channels_out < VW) return 0;
    if (g->images * g->channels_in * volume(g->out) == 0) return 0;
    int64_t frame_size[DIMENSIONS];
    size_of_frame(g, frame_size);
    return floats_of_image(g, frame_size) <= ROUND_FLOATS;
}

int tolsey_weight_directly(const struct geometry *g, const float *gradient, const float *input, float *to) {
    struct weight_gradient it = {.shape = g, .gradient = gradient, .input = input, .to = to};
    it.lines = g->channels_in * g->kernel[0] * g->kernel[1];
    it.panels = (g->channels_out + COLUMNS - 1) / COLUMNS;
    size_of_frame(g, it.frame_size);
    int64_t outside = volume(g->out), of_image = floats_of_image(g, it.frame_size);
    int64_t at_once = least(ROUND_FLOATS / of_image, g->images), of_frame = g->channels_in * volume(it.frame_size);
    int threads = tolsey_threads_worth((double)it.lines * TAPS * (double)g->channels_out * (double)(g->images * outside));

    /* Several tasks a thread, so that none waits long for another. */
    int64_t wanted = threads > 1 ? (4 * threads + it.panels - 1) / it.panels : 1;
    it.blocks = most((it.lines + BLOCK_LINES - 1) / BLOCK_LINES, least(wanted, (it.lines + LINES - 1) / LINES));

    it.frame = tolsey_scratch(SCRATCH_PACK_A, sizeof(float) * (size_t)(at_once * of_frame));
    it.turned = tolsey_scratch(SCRATCH_PACK_B, sizeof(float) * (size_t)(at_once * (of_image - of_frame)));
    if (!it.frame || !it.turned) return TOLSEY_NO_MEMORY;
    int answer = TOLSEY_OK;
    for (; it.image0 < g->images && answer == TOLSEY_OK; it.image0 += at_once) {
        it.images = least(g->images - it.image0, at_once);
        int64_t pieces = it.images * (g->channels_in + it.panels), tasks = it.panels * it.blocks;
        answer = tolsey_parallel(pieces, threads > 1 ? most(pieces / (8 * threads), 1) : pieces, bring_some, &it);
        if (answer == TOLSEY_OK) answer = tolsey_parallel(tasks, threads > 1 ? 1 : tasks, multiply_some, &it);
    }
    return answer;
}
