/* The gradient of a convolution's weight without unfolding the input: windows three wide are read where the input lies.
 *
 *   C[(channel in, window), channel out] = input x output gradient, over (image, od, oh, ow)
 *
 * As a product (conv.c) each number of the input is copied once for each tap, into panels. Here it is copied once, into a
 * frame, and a tile reads *lines* of it: a line is (channel in, kd, kh), whose three taps lie side by side. The gradient's
 * channels are the columns of the tile: it is turned once, to panels.
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
#define ROUND_FLOATS MOST_FRAME_FLOATS

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
    struct window input; /* of this round's images */
    struct frame frame;  /* of it */
    const float *gradient;
    int64_t gradient_image_step, channels; /* of the output */
    float *to;
    int64_t lines, panels, blocks; /* of lines; of columns; of lines, each for a task */
    int64_t image0;                /* of this round */
    float *turned;                 /* [panel, (image, position), column] */
};

/* Panels but for the last have COLUMNS channels; they are whole vectors wide. */
INLINE int64_t panel_columns(const struct weight_gradient *it, int64_t panel) {
    return least(it->channels - panel * COLUMNS, COLUMNS);
}

INLINE int64_t panel_width(const struct weight_gradient *it, int64_t panel) { return round_up(panel_columns(it, panel), VW); }

INLINE float *panel_begin(const struct weight_gradient *it, int64_t panel) {
    return it->turned + panel * COLUMNS * it->input.images * volume(it->input.grid);
}

/* Of the frame each channel of each image, then of each panel each image. */
static int bring_some(void *ctx, int64_t begin, int64_t end) {
    const struct weight_gradient *it = ctx;
    int64_t images = it->input.images, of_frame = images * it->input.channels, positions = volume(it->input.grid);
    for (int64_t place = begin; place < end; place++) {
        if (place < of_frame) {
            tolsey_fill_frame(&it->frame, place);
            continue;
        }
        int64_t panel = (place - of_frame) / images, image = (place - of_frame) % images, width = panel_width(it, panel);
        const float *from = it->gradient + (it->image0 + image) * it->gradient_image_step + panel * COLUMNS * positions;
        float *to = panel_begin(it, panel) + image * positions * width;
        tolsey_pack_depth(from, positions, panel_columns(it, panel), positions, to, width, width);
    }
    return TOLSEY_OK;
}

/* Where in the frame rows `row` … row + count - 1 begin. */
static void places_of_rows(const struct weight_gradient *it, int64_t row, int64_t count, int64_t *at) {
    const int64_t *grid = it->input.grid, rows[DIMENSIONS] = {grid[0], grid[1], 1};
    int64_t digits[DIMENSIONS], image = split(row, rows, digits);
    for (int64_t r = 0; r < count; r++) {
        at[r] = place_of_position_in_frame(&it->frame, image, digits);
        image += next(rows, digits);
    }
}

/* Where in the frame of an image line `line` begins. */
INLINE const float *line_begin(const struct weight_gradient *it, int64_t line) {
    int64_t lines[DIMENSIONS] = {it->input.taps[0], it->input.taps[1], 1}, digits[DIMENSIONS];
    int64_t channel = split(line, lines, digits);
    return it->frame.data + place_of_tap_in_frame(&it->frame, channel, digits);
}

/* A block of lines against a panel, through all rows of the round. */
static void multiply(const struct weight_gradient *it, int64_t panel, int64_t line0, int64_t lines, float *sums) {
    const int64_t *grid = it->input.grid;
    int64_t width = panel_width(it, panel), columns = panel_columns(it, panel), parts = (lines + LINES - 1) / LINES;
    int64_t rows = it->input.images * grid[0] * grid[1], deepest = most(SLICE / grid[2], 1), at[SLICE];
    int64_t c_step = it->lines * TAPS;
    float *c = it->to + panel * COLUMNS * c_step + line0 * TAPS;
    if (it->image0 > 0) tolsey_pack_depth(c, c_step, columns, lines * TAPS, sums, width, width);
    for (int64_t row = 0; row < rows; row += deepest) {
        const float *b = panel_begin(it, panel) + row * grid[2] * width;
        int64_t deep = least(rows - row, deepest);
        places_of_rows(it, row, deep, at);
        for (int64_t part = 0; part < parts; part++) {
            int64_t begin = lines * part / parts, count = lines * (part + 1) / parts - begin;
            const float *line[LINES];
            for (int64_t l = 0; l < count; l++) line[l] = line_begin(it, line0 + begin + l);
            tiles[count - 1][width / VW - 1](deep, at, grid[2], it->input.step[2], line, b, sums + begin * TAPS * width,
                                             it->image0 == 0 && row == 0);
        }
    }
    tolsey_pack_depth(sums, width, lines * TAPS, columns, c, c_step, lines * TAPS);
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

/* What a round holds of one image: frame, turned gradient. */
INLINE int64_t frame_floats(const struct frame *frame) { return frame->window->channels * volume(frame->size); }
INLINE int64_t turned_floats(const struct window *input, int64_t channels) {
    return round_up(channels, VW) * volume(input->grid);
}

int tolsey_weight_is_direct(const struct window *input, int64_t channels_out) {
    if (input->taps[2] != TAPS || input->offset[2][1] != input->offset[2][0] + 1 || channels_out < VW) return 0;
    if (input->images * input->channels * volume(input->grid) == 0) return 0;
    struct frame frame = tolsey_frame_of(input);
    return frame_floats(&frame) + turned_floats(input, channels_out) <= ROUND_FLOATS;
}

int tolsey_weight_directly(const struct window *input, const float *gradient, int64_t gradient_image_step,
                           int64_t channels_out, float *to) {
    struct weight_gradient it = {.input = *input, .gradient = gradient, .channels = channels_out, .to = to};
    it.gradient_image_step = gradient_image_step;
    it.frame = tolsey_frame_of(&it.input);
    it.lines = input->channels * input->taps[0] * input->taps[1];
    it.panels = (channels_out + COLUMNS - 1) / COLUMNS;
    int64_t of_frame = frame_floats(&it.frame), of_turned = turned_floats(input, channels_out);
    int64_t at_once = least(ROUND_FLOATS / (of_frame + of_turned), input->images);

    /* Several tasks a thread, so that none waits long for another. */
    double positions = (double)(input->images * volume(input->grid));
    int threads = tolsey_threads_worth((double)it.lines * TAPS * (double)channels_out * positions);
    int64_t wanted = threads > 1 ? (4 * threads + it.panels - 1) / it.panels : 1;
    it.blocks = most((it.lines + BLOCK_LINES - 1) / BLOCK_LINES, least(wanted, (it.lines + LINES - 1) / LINES));

    it.frame.data = tolsey_scratch(SCRATCH_EXTRA, sizeof(float) * (size_t)(at_once * of_frame));
    it.turned = tolsey_scratch(SCRATCH_PACK_B, sizeof(float) * (size_t)(at_once * of_turned));
    if (!it.frame.data || !it.turned) return TOLSEY_NO_MEMORY;
    int answer = TOLSEY_OK;
    for (; it.image0 < input->images && answer == TOLSEY_OK; it.image0 += at_once) {
        it.input.data = input->data + it.image0 * input->image_step;
        it.input.images = least(input->images - it.image0, at_once);
        int64_t pieces = it.input.images * (input->channels + it.panels), tasks = it.panels * it.blocks;
        answer = tolsey_parallel(pieces, tolsey_grain(pieces, threads), bring_some, &it);
        if (answer == TOLSEY_OK) answer = tolsey_parallel(tasks, threads > 1 ? 1 : tasks, multiply_some, &it);
    }
    return answer;
}
