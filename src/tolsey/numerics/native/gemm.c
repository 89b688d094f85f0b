/* Matrix products: blocked, packed, threaded, and bit for bit the plain triple loop.
 *
 * Words. A *tile* is TILE_ROWS x TILE_COLUMNS of C, held in registers. A *slice* is up to SLICE values of k. A *panel* is what
 * a tile reads of one side in one slice, copied so that it is read straight on: k after k, at each k the tile's columns (of B)
 * or rows (of A). An A whose k lie side by side would have to be turned for that; where C has few columns a tile reads its
 * rows where they lie, or copied apart where their distance would crowd them in the cache.
 *
 * Order is safe by construction: each element of C is one accumulator that sees k ascending. Between slices it goes to
 * memory and comes back, which loses nothing. Threads share out C, never k.
 *
 * How memory is used. One side, the *shared* one, is packed whole before anything is multiplied (SHARED_FLOATS at most: what
 * is longer or wider is done in several rounds). Each task takes a block of the other side and goes through the slices: packs
 * a piece of its own, multiplies it with all of the shared slice.
 *
 *   C of many rows   B is shared; a task's block of A, a slice of it, stays in the second-level cache, a panel of B in the
 *                    first while panels of A go by, and the next panel of B is fetched meanwhile
 *   C of few rows    A is shared, a slice of it stays in the second-level cache; a panel of B is packed into the first,
 *                    or, where B knows how (a convolution's source), read where it lies */
#include "gemm.h"

#if defined(TOLSEY_AVX512)
#define TILE_ROWS 12
#define TILE_VECTORS 2
#elif defined(TOLSEY_AVX2)
#define TILE_ROWS 6
#define TILE_VECTORS 2
#elif defined(TOLSEY_NEON)
#define TILE_ROWS 8
#define TILE_VECTORS 3
#else
#define TILE_ROWS 4
#define TILE_VECTORS 2
#endif
#define TILE_COLUMNS (TILE_VECTORS * VW)

#define SLICE 256
/* What a task takes of the side that is not shared; at most so many rows are few. */
#define BLOCK_ROWS (TILE_ROWS * 24)
#define BLOCK_COLUMNS 512
/* Of the shared side, packed at once: so many lanes of a deep one, so that a slice of them and a block's part of C, which each
 * slice goes by again, stay in the second-level cache together. */
#define SHARED_LANES 512
#define SHARED_FLOATS ((int64_t)1 << 19)
/* Below so many multiplications waking another thread costs more than it brings. */
#define WORTH_A_THREAD ((double)(1 << 19))

/* ---------------------------------------------------------------- packing */

/* What `distance` bits of lane and row exchange: lane i of the lower row, of the upper row. */
#define LOWER(i, d) (((i) & (d)) ? VW + (i) - (d) : (i))
#define UPPER(i, d) (((i) & (d)) ? VW + (i) : (i) + (d))
#define FOUR(f, i, d) f(i, d), f(i + 1, d), f(i + 2, d), f(i + 3, d)
#if VW == 16
#define LANES(f, d) FOUR(f, 0, d), FOUR(f, 4, d), FOUR(f, 8, d), FOUR(f, 12, d)
#elif VW == 8
#define LANES(f, d) FOUR(f, 0, d), FOUR(f, 4, d)
#else
#define LANES(f, d) FOUR(f, 0, d)
#endif
#if defined(__clang__)
#define MIX(a, b, f, d) __builtin_shufflevector(a, b, LANES(f, d))
#else
#define MIX(a, b, f, d) __builtin_shuffle(a, b, (vi){LANES(f, d)})
#endif
#define EXCHANGE(x, d)                                                                                                 \
    for (int i_ = 0; i_ < VW; i_++)                                                                                    \
        if (!(i_ & (d))) {                                                                                             \
            vf low_ = (x)[i_], high_ = (x)[i_ + (d)];                                                                  \
            (x)[i_] = MIX(low_, high_, LOWER, d);                                                                      \
            (x)[i_ + (d)] = MIX(low_, high_, UPPER, d);                                                                \
        }

/* Rows become columns of a VW x VW block, in registers. */
INLINE void turn(vf x[VW]) {
#if VW == 16
#pragma GCC unroll 16
    EXCHANGE(x, 8)
#endif
#if VW >= 8
#pragma GCC unroll 16
    EXCHANGE(x, 4)
#endif
#pragma GCC unroll 16
    EXCHANGE(x, 2)
#pragma GCC unroll 16
    EXCHANGE(x, 1)
}

/* A whole vector at row k of a panel that is `step` < VW lanes wide: what it writes beyond its row is the next rows' and is
 * written over by them. Only the last rows, beyond which is another's memory, are cut; cutting is slow on some machines. */
INLINE void store_row(float *to, int64_t k, int64_t depth, int64_t step, vf x) {
    if (k * step + VW <= depth * step)
        vstore(to + k * step, x);
    else
        vstore_n(to + k * step, x, step);
}

/* Blocks of VW lanes and VW depths are loaded along depth, turned, stored along lanes. */
void tolsey_pack_depth(const float *from, int64_t lane_step, int64_t lanes, int64_t depth, float *to, int64_t step,
                       int64_t wide) {
    for (int64_t l0 = 0; l0 < wide; l0 += VW) {
        int64_t here = lanes - l0;
        for (int64_t k = 0; k < depth; k += VW) {
            int64_t deep = least(depth - k, VW);
            vf x[VW];
            for (int l = 0; l < VW; l++) x[l] = l < here ? vload_n(from + (l0 + l) * lane_step + k, deep) : vset(0);
            turn(x);
            if (wide == step && step < VW)
                for (int d = 0; d < deep; d++) store_row(to, k + d, depth, step, x[d]);
            else
                for (int d = 0; d < deep; d++) vstore_n(to + (k + d) * step + l0, x[d], wide - l0);
        }
    }
}

static void pack_along_lanes(const float *from, int64_t depth_step, int64_t lanes, int64_t depth, float *to, int64_t step) {
    for (int64_t k = 0; k < depth; k++) {
        const float *row = from + k * depth_step;
        if (step < VW) {
            store_row(to, k, depth, step, vload_n(row, lanes));
            continue;
        }
        for (int64_t l = 0; l < step; l += VW)
            vstore_n(to + k * step + l, l < lanes ? vload_n(row + l, lanes - l) : vset(0), step - l);
    }
}

static void pack_strided(const struct side *it, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                         int64_t step) {
    const float *from = it->data + lane0 * it->lane_step + k0 * it->depth_step;
    if (it->lane_step == 1) {
        pack_along_lanes(from, it->depth_step, lanes, depth, to, step);
    } else if (it->depth_step == 1) {
        tolsey_pack_depth(from, it->lane_step, lanes, depth, to, step, step);
    } else {
        for (int64_t k = 0; k < depth; k++)
            for (int64_t l = 0; l < step; l++)
                to[k * step + l] = l < lanes ? from[l * it->lane_step + k * it->depth_step] : 0.0f;
    }
}

void tolsey_copy_rows(const float *from, int64_t from_step, int64_t rows, int64_t depth, float *to, int64_t to_step) {
    for (int64_t r = 0; r < rows; r++)
        FOR_VECTORS(k, w, 0, depth) vstore_n(to + r * to_step + k, vload_n(from + r * from_step + k, w), w);
}

static void rows_strided(const struct side *it, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, float *to,
                         int64_t step) {
    tolsey_copy_rows(it->data + lane0 * it->lane_step + k0, it->lane_step, lanes, depth, to, step);
}

struct side tolsey_strided(const float *data, int64_t lane_step, int64_t depth_step) {
    return (struct side){.pack = pack_strided,
                         .rows = depth_step == 1 ? rows_strided : NULL,
                         .data = data,
                         .lane_step = lane_step,
                         .depth_step = depth_step};
}

/* ---------------------------------------------------------------- one tile */

/* rows x (vectors * VW) of C: loaded unless this is the first slice, carried through `depth` values of k, stored. A is a
 * panel, or rows that begin a_row apart. B is a panel, or lies (as struct side says) at `lying` and `depths`. c[v] is where row
 * 0 of vector v lies; `last` of the last vector's lanes exist. The constants `rows`, `vectors`, `panel` (of A) and `lies` (of
 * B) make it straight code. */
INLINE void tile(const int rows, const int vectors, const int panel, const int lies, int64_t depth, const float *a,
                 int64_t a_row, const float *b, const float *const *lying, const int64_t *depths, float *const *c,
                 int64_t row_step, int64_t last, int first) {
    vf acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = vset(0);
    if (!first) {
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                acc[i][v] = v == vectors - 1 ? vload_n(c[v] + i * row_step, last) : vload(c[v] + i * row_step);
    }
    /* The tile below comes next; its accumulators arrive while this one is computed. Past the end it is only a hint. */
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) __builtin_prefetch(c[v] + (i + rows) * row_step);
    for (int64_t k = 0; k < depth; k++) {
        vf y[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) y[v] = vload(lies ? lying[v] + depths[k] : b + v * VW);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            vf x = vset(panel ? a[i] : a[i * a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[i][v] = vfma(x, y[v], acc[i][v]);
        }
        a += panel ? rows : 1;
        b += vectors * VW;
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            if (v == vectors - 1)
                vstore_n(c[v] + i * row_step, acc[i][v], last);
            else
                vstore(c[v] + i * row_step, acc[i][v]);
        }
}

typedef void (*tile_of_a_size)(int64_t depth, const float *a, int64_t a_row, const float *b, const float *const *lying,
                               const int64_t *depths, float *const *c, int64_t row_step, int64_t last, int first);
#define TILE_OF(rows, vectors)                                                                                         \
    static void tile_##rows##_##vectors(int64_t depth, const float *a, int64_t a_row, const float *b,                  \
                                        const float *const *lying, const int64_t *depths, float *const *c,             \
                                        int64_t row_step, int64_t last, int first) {                                   \
        if (depths)                                                                                                    \
            tile(rows, vectors, 1, 1, depth, a, 0, NULL, lying, depths, c, row_step, last, first);                     \
        else if (a_row == 0)                                                                                           \
            tile(rows, vectors, 1, 0, depth, a, 0, b, NULL, NULL, c, row_step, last, first);                           \
        else                                                                                                           \
            tile(rows, vectors, 0, 0, depth, a, a_row, b, NULL, NULL, c, row_step, last, first);                       \
    }
#if TILE_VECTORS == 3
#define TILES_OF(rows) TILE_OF(rows, 1) TILE_OF(rows, 2) TILE_OF(rows, 3)
#define NAMES_OF(rows) {tile_##rows##_1, tile_##rows##_2, tile_##rows##_3}
#else
#define TILES_OF(rows) TILE_OF(rows, 1) TILE_OF(rows, 2)
#define NAMES_OF(rows) {tile_##rows##_1, tile_##rows##_2}
#endif
TILES_OF(1) TILES_OF(2) TILES_OF(3) TILES_OF(4)
#if TILE_ROWS >= 6
TILES_OF(5) TILES_OF(6)
#endif
#if TILE_ROWS >= 8
TILES_OF(7) TILES_OF(8)
#endif
#if TILE_ROWS >= 12
TILES_OF(9) TILES_OF(10) TILES_OF(11) TILES_OF(12)
#endif

/* tiles[rows - 1][vectors - 1] */
static const tile_of_a_size tiles[TILE_ROWS][TILE_VECTORS] = {
    NAMES_OF(1), NAMES_OF(2), NAMES_OF(3), NAMES_OF(4),
#if TILE_ROWS >= 6
    NAMES_OF(5), NAMES_OF(6),
#endif
#if TILE_ROWS >= 8
    NAMES_OF(7), NAMES_OF(8),
#endif
#if TILE_ROWS >= 12
    NAMES_OF(9), NAMES_OF(10), NAMES_OF(11), NAMES_OF(12),
#endif
};

/* ---------------------------------------------------------------- blocks */

/* Rows are dealt out evenly, so that no panel is left with one or two. */
INLINE int64_t panels_of(int64_t rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS; }
INLINE int64_t panel_begin(int64_t rows, int64_t panel) { return rows * panel / panels_of(rows); }

static void pack_columns(const struct side *b, int64_t j0, int64_t columns, int64_t panel, int64_t k0, int64_t depth,
                         float *to) {
    int64_t begin = panel * TILE_COLUMNS, count = least(columns - begin, TILE_COLUMNS);
    b->pack(b, j0 + begin, count, k0, depth, to, round_up(count, VW));
}

/* A part of C, in one slice. */
struct block {
    const struct target *c;
    int64_t i0, rows, j0, columns, depth;
    int first, last; /* slices: nothing in C yet; add the bias now */
    const float *a, *b;
    int64_t a_row;           /* A's rows are so far apart; 0: A is in panels */
    const struct side *lies; /* B, where it is read where it lies, else NULL */
    const int64_t *depths;   /* of this slice */
};

/* One addition to each element of a tile's worth of columns, as they lie. */
static void add_bias(const struct target *c, int64_t i0, int64_t rows, int64_t j0, int64_t columns, const int64_t *place,
                     int side_by_side) {
    int64_t step = c->bias_column_step;
    for (int64_t i = i0; i < i0 + rows; i++) {
        float *row = c->data + i * c->row_step;
        const float *bias = c->bias + i * c->bias_row_step + j0 * step;
        if (side_by_side && (step == 0 || step == 1)) {
            FOR_VECTORS(j, w, 0, columns) {
                float *at = row + place[j];
                vstore_n(at, vload_n(at, w) + (step ? vload_n(bias + j, w) : vset(*bias)), w);
            }
        } else {
            for (int64_t j = 0; j < columns; j++) row[place[j]] = row[place[j]] + bias[j * step];
        }
    }
}

/* A tile whose columns do not lie side by side: through a small square of memory. */
static void scattered_tile(const struct block *it, int64_t i, int64_t rows, int64_t columns, const int64_t *place,
                           const float *a, const float *b, const float *const *lying) {
    float square[TILE_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
    float *vectors[TILE_VECTORS];
    int64_t used = (columns + VW - 1) / VW;
    float *c = it->c->data + i * it->c->row_step;
    for (int64_t v = 0; v < used; v++) vectors[v] = square + v * VW;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j += 8) __builtin_prefetch(c + r * it->c->row_step + place[j], 1);
    if (!it->first)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < columns; j++) square[r * TILE_COLUMNS + j] = c[r * it->c->row_step + place[j]];
    tiles[rows - 1][used - 1](it->depth, a, it->a_row, b, lying, it->depths, vectors, TILE_COLUMNS,
                              columns - (used - 1) * VW, it->first);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++) c[r * it->c->row_step + place[j]] = square[r * TILE_COLUMNS + j];
}

/* What comes after a panel of B, fetched bit by bit while the panels of A go by it: part `panel` of `panels`. */
INLINE void fetch_next(const float *b, int64_t depth, int64_t panel, int64_t panels) {
    enum { LINE = 64 / sizeof(float) };
    int64_t lines = depth * TILE_COLUMNS / LINE;
    for (int64_t line = lines * panel / panels; line < lines * (panel + 1) / panels; line++)
        __builtin_prefetch(b + lines * LINE + line * LINE, 0, 2);
}

static void multiply(const struct block *it) {
    int64_t panels = panels_of(it->rows);
    for (int64_t j = 0; j < it->columns; j += TILE_COLUMNS) {
        int64_t columns = least(it->columns - j, TILE_COLUMNS), used = (columns + VW - 1) / VW;
        int64_t last = columns - (used - 1) * VW, place[TILE_COLUMNS];
        const float *lying[TILE_VECTORS];
        int side_by_side = 1;
        if (it->lies) it->lies->lie(it->lies, it->j0 + j, used, lying);
        it->c->places(it->c, it->j0 + j, columns, place);
        for (int64_t l = 0; l < columns; l++) side_by_side &= place[l] == place[l / VW * VW] + l % VW;
        for (int64_t panel = 0; panel < panels; panel++) {
            int64_t begin = panel_begin(it->rows, panel), rows = panel_begin(it->rows, panel + 1) - begin;
            const float *a = it->a + begin * (it->a_row ? it->a_row : it->depth), *b = it->lies ? NULL : it->b + j * it->depth;
            if (b && it->columns - j > TILE_COLUMNS) fetch_next(b, it->depth, panel, panels);
            if (side_by_side) {
                float *c[TILE_VECTORS];
                for (int64_t v = 0; v < used; v++)
                    c[v] = it->c->data + (it->i0 + begin) * it->c->row_step + place[v * VW];
                tiles[rows - 1][used - 1](it->depth, a, it->a_row, b, lying, it->depths, c, it->c->row_step, last, it->first);
            } else {
                scattered_tile(it, it->i0 + begin, rows, columns, place, a, b, lying);
            }
            if (it->last && it->c->bias)
                add_bias(it->c, it->i0 + begin, rows, it->j0 + j, columns, place, side_by_side);
        }
    }
}

/* ---------------------------------------------------------------- the whole */

enum form { WHERE_IT_LIES, IN_ROWS, IN_PANELS };

/* Up to so many columns of C, turning A into panels costs more than it brings (measured: a tile is a twentieth quicker on
 * panels; turning a number takes as long as a dozen multiplications). */
enum { FEW_USES = 384 };
/* Rows copied apart: no power of two, so that they spread over the cache. */
enum { ROW_STEP = SLICE + 16 };
/* Rows at a multiple of so many floats meet in a few places of the cache. */
enum { CROWDED = 512 };

/* One round: a part of the shared side, `lanes` wide and `depth` deep, against all of the other side. */
struct product {
    const struct side *a, *b;
    const struct target *c;
    int64_t m, n, k;
    enum form form; /* of A */
    int64_t a_row;
    int few_rows;                    /* A is shared, else B */
    int lies;                        /* B is read where it lies */
    int64_t lane0, lanes, k0, depth; /* of the shared side, this round */
    int64_t slice;                   /* of k, dealt out evenly, so that no slice is a short one */
    int64_t slice_floats;            /* of the shared side, packed */
    int64_t block;                   /* lanes of the other side in one task */
    float *shared;
};

/* A's rows i0 … i0 + rows - 1, in one slice, made readable for tiles; returns where to read. */
static const float *bring_rows(const struct product *it, int64_t i0, int64_t rows, int64_t k0, int64_t depth, float *to) {
    if (it->form == WHERE_IT_LIES) return it->a->data + i0 * it->a_row + k0;
    if (it->form == IN_ROWS) it->a->rows(it->a, i0, rows, k0, depth, to, ROW_STEP);
    if (it->form == IN_PANELS)
        for (int64_t panel = 0; panel < panels_of(rows); panel++) {
            int64_t begin = panel_begin(rows, panel), count = panel_begin(rows, panel + 1) - begin;
            it->a->pack(it->a, i0 + begin, count, k0, depth, to + begin * depth, count);
        }
    return to;
}

/* A few rows are few slices: a task packs one. Of B, a panel of one slice. */
static int64_t shared_pieces(const struct product *it) {
    return it->few_rows ? 1 : (it->lanes + TILE_COLUMNS - 1) / TILE_COLUMNS;
}

static int pack_some(void *ctx, int64_t begin, int64_t end) {
    struct product *it = ctx;
    int64_t pieces = shared_pieces(it);
    for (int64_t task = begin; task < end; task++) {
        int64_t slice = task / pieces, panel = task % pieces, k = slice * it->slice, depth = least(it->depth - k, it->slice);
        float *to = it->shared + slice * it->slice_floats;
        if (it->few_rows)
            bring_rows(it, it->lane0, it->lanes, it->k0 + k, depth, to);
        else
            pack_columns(it->b, it->lane0, it->lanes, panel, it->k0 + k, depth, to + panel * TILE_COLUMNS * depth);
    }
    return TOLSEY_OK;
}

/* C of few rows: columns from … from + count - 1 of it, a panel of B at a time, or B where it lies. */
static void multiply_columns(const struct product *it, struct block *block, int64_t from, int64_t count, const float *shared,
                             int64_t k, float *own) {
    block->a = it->form == WHERE_IT_LIES ? bring_rows(it, it->lane0, it->lanes, k, block->depth, NULL) : shared;
    block->i0 = it->lane0;
    block->rows = it->lanes;
    if (it->lies) {
        block->lies = it->b;
        block->depths = it->b->depths + k;
        block->j0 = from;
        block->columns = count;
        multiply(block);
        return;
    }
    block->b = own;
    for (int64_t panel = 0; panel * TILE_COLUMNS < count; panel++) {
        pack_columns(it->b, from, count, panel, k, block->depth, own);
        block->j0 = from + panel * TILE_COLUMNS;
        block->columns = least(count - panel * TILE_COLUMNS, TILE_COLUMNS);
        multiply(block);
    }
}

/* C of many rows: rows from … from + count - 1 of it. */
static void multiply_rows(const struct product *it, struct block *block, int64_t from, int64_t count, const float *shared,
                          int64_t k, float *own) {
    block->a = bring_rows(it, from, count, k, block->depth, own);
    block->i0 = from;
    block->rows = count;
    block->b = shared;
    block->j0 = it->lane0;
    block->columns = it->lanes;
    multiply(block);
}

static int multiply_some(void *ctx, int64_t begin, int64_t end) {
    struct product *it = ctx;
    int64_t floats = it->few_rows ? TILE_COLUMNS * it->slice : it->block * (it->form == IN_ROWS ? ROW_STEP : it->slice);
    float *own = tolsey_scratch(SCRATCH_PACK_A, sizeof(float) * (size_t)floats);
    if (!own) return TOLSEY_NO_MEMORY;
    for (int64_t task = begin; task < end; task++) {
        int64_t from = task * it->block, count = least((it->few_rows ? it->n : it->m) - from, it->block);
        for (int64_t slice = 0, k = 0; k < it->depth; slice++, k += it->slice) {
            struct block block = {.c = it->c, .a_row = it->a_row, .depth = least(it->depth - k, it->slice)};
            block.first = it->k0 + k == 0;
            block.last = it->k0 + k + block.depth == it->k;
            (it->few_rows ? multiply_columns : multiply_rows)(it, &block, from, count,
                                                              it->shared + slice * it->slice_floats, it->k0 + k, own);
        }
    }
    return TOLSEY_OK;
}

static int nothing_to_multiply(int64_t m, int64_t n, const struct target *c) {
    for (int64_t j0 = 0; j0 < n; j0 += TILE_COLUMNS) {
        int64_t columns = least(n - j0, TILE_COLUMNS), place[TILE_COLUMNS];
        c->places(c, j0, columns, place);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < columns; j++) c->data[i * c->row_step + place[j]] = 0.0f;
        if (c->bias) add_bias(c, 0, m, j0, columns, place, 0);
    }
    return TOLSEY_OK;
}

INLINE int has_few_rows(int64_t m, int64_t n) { return m < n && m <= BLOCK_ROWS; }

/* With A in panels, as it is where there are many columns. */
int tolsey_reads_in_place(int64_t m, int64_t n) { return has_few_rows(m, n) && n > FEW_USES; }

int64_t tolsey_grain(int64_t pieces, int64_t threads) { return threads > 1 ? most(pieces / (8 * threads), 1) : pieces; }

int tolsey_threads_worth(double multiplications) { return multiplications < WORTH_A_THREAD ? 1 : tolsey_helpers(); }

int tolsey_product(int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b, const struct target *c) {
    if (m == 0 || n == 0) return TOLSEY_OK;
    if (k == 0) return nothing_to_multiply(m, n, c);
    struct product it = {.a = a, .b = b, .c = c, .m = m, .n = n, .k = k, .few_rows = has_few_rows(m, n)};
    it.lies = b->lie && tolsey_reads_in_place(m, n);
    it.form = !a->rows || n > FEW_USES                                      ? IN_PANELS
              : a->rows == rows_strided && a->lane_step % CROWDED != 0 ? WHERE_IT_LIES
                                                                        : IN_ROWS;
    it.a_row = it.form == WHERE_IT_LIES ? a->lane_step : it.form == IN_ROWS ? ROW_STEP : 0;
    int64_t shared_all = it.few_rows ? m : n, other_all = it.few_rows ? n : m;
    int64_t unit = it.few_rows ? TILE_ROWS : TILE_COLUMNS, other_unit = it.few_rows ? TILE_COLUMNS : TILE_ROWS;
    int threads = tolsey_threads_worth((double)m * (double)n * (double)k);

    /* Two tasks a thread at least, and as many for each, so that none waits long for another; not more than are needed, since
     * the shared side goes by each block anew. */
    int64_t widest_block = it.few_rows ? BLOCK_COLUMNS : BLOCK_ROWS, tasks = (other_all + widest_block - 1) / widest_block;
    if (threads > 1) tasks = round_up(tasks, 2 * threads);
    it.block = most(round_up((other_all + tasks - 1) / tasks, other_unit), 2 * other_unit);
    tasks = (other_all + it.block - 1) / it.block;

    /* Rounds: so many lanes and so much depth of the shared side at a time. */
    int64_t deepest = most(SHARED_FLOATS / least(round_up(shared_all, unit), SHARED_LANES) / SLICE, 1) * SLICE;
    int64_t widest = most(SHARED_FLOATS / least(k, deepest) / unit, 1) * unit, slices = (least(k, deepest) + SLICE - 1) / SLICE;
    int64_t lane_floats = it.few_rows && it.form == IN_ROWS ? ROW_STEP : least(k, SLICE);
    int shares = !(it.few_rows && it.form == WHERE_IT_LIES);
    if (shares) {
        int64_t floats = slices * lane_floats * least(widest, round_up(shared_all, unit));
        it.shared = tolsey_scratch(SCRATCH_PACK_B, sizeof(float) * (size_t)floats);
        if (!it.shared) return TOLSEY_NO_MEMORY;
    }
    int answer = TOLSEY_OK;
    for (it.lane0 = 0; it.lane0 < shared_all && answer == TOLSEY_OK; it.lane0 += widest) {
        it.lanes = least(shared_all - it.lane0, widest);
        for (it.k0 = 0; it.k0 < k && answer == TOLSEY_OK; it.k0 += deepest) {
            it.depth = least(k - it.k0, deepest);
            slices = (it.depth + SLICE - 1) / SLICE;
            it.slice = (it.depth + slices - 1) / slices;
            it.slice_floats = shares ? round_up(it.lanes, unit) * (lane_floats == ROW_STEP ? ROW_STEP : it.slice) : 0;
            int64_t pieces = shared_pieces(&it) * slices;
            if (shares)
                answer = tolsey_parallel(pieces, tolsey_grain(pieces, threads), pack_some, &it);
            if (answer == TOLSEY_OK) answer = tolsey_parallel(tasks, threads > 1 ? 1 : tasks, multiply_some, &it);
        }
    }
    return answer;
}

/* ---------------------------------------------------------------- called from outside */

void tolsey_places_strided(const struct target *it, int64_t j0, int64_t count, int64_t *place) {
    for (int64_t j = 0; j < count; j++) place[j] = (j0 + j) * it->column_step;
}

/* A batch of products. Steps count elements; any may be 0 (the same numbers again) for A, B and bias. */
struct batch {
    int64_t m, n, k;
    struct side a, b;
    struct target c;
    int64_t a_step, b_step, c_step, bias_step;
    tolsey_multiplication multiplication;
};

static int batch_some(void *ctx, int64_t begin, int64_t end) {
    const struct batch *it = ctx;
    int answer = TOLSEY_OK;
    for (int64_t place = begin; place < end && answer == TOLSEY_OK; place++) {
        struct side a = it->a, b = it->b;
        struct target c = it->c;
        a.data += place * it->a_step;
        b.data += place * it->b_step;
        c.data += place * it->c_step;
        if (c.bias) c.bias += place * it->bias_step;
        answer = it->multiplication(it->m, it->n, it->k, &a, &b, &c);
    }
    return answer;
}

int tolsey_gemm_by(tolsey_multiplication multiplication, int64_t batch, int64_t m, int64_t n, int64_t k,         //
                   const float *a, int64_t a_batch, int64_t a_row, int64_t a_column,                             //
                   const float *b, int64_t b_batch, int64_t b_row, int64_t b_column,                             //
                   const float *bias, int64_t bias_batch, int64_t bias_row, int64_t bias_column,                 //
                   float *c, int64_t c_batch, int64_t c_row, int64_t c_column) {
    LAWFUL_ENTRY;
    if (!multiplication || batch < 0 || m < 0 || n < 0 || k < 0) return TOLSEY_BAD_ARGUMENT;
    struct batch it = {m, n, k,
                       tolsey_strided(a, a_row, a_column),
                       tolsey_strided(b, b_column, b_row),
                       {c, c_row, c_column, tolsey_places_strided, bias, bias_row, bias_column, NULL},
                       a_batch, b_batch, c_batch, bias_batch, multiplication};
    /* The product is the transposed one of the transposed: columns want to lie side by side, and to be the many. */
    if (c_column != 1 ? c_row == 1 : n < VW && m > n) {
        struct side side = it.a;
        it.a = it.b;
        it.b = side;
        it.a_step = b_batch;
        it.b_step = a_batch;
        it.m = n;
        it.n = m;
        it.c.row_step = c_column;
        it.c.column_step = c_row;
        it.c.bias_row_step = bias_column;
        it.c.bias_column_step = bias_row;
    }
    /* Enough products to keep all threads busy: one thread a product. Few: all threads in each. */
    double work = (double)m * (double)n * (double)k;
    int64_t together = batch >= 4 * tolsey_helpers() || work < WORTH_A_THREAD
                           ? most((int64_t)(WORTH_A_THREAD / 4 / (work + 1)), 1)
                           : batch;
    if (together < batch) return tolsey_parallel(batch, together, batch_some, &it);
    return batch_some(&it, 0, batch);
}

/* C[p, i, j] = chain over k of A[p, i, k] B[p, k, j], then + bias[p, i, j] where bias is not NULL.
 *
 * Element (p, i, k) of A lies at a[p * a_batch + i * a_row + k * a_column], likewise the others. C must not overlap anything;
 * its own steps must not make two elements one. Sizes may be 0. */
TOLSEY_EXPORT int tolsey_gemm(int64_t batch, int64_t m, int64_t n, int64_t k,                                    //
                              const float *a, int64_t a_batch, int64_t a_row, int64_t a_column,                  //
                              const float *b, int64_t b_batch, int64_t b_row, int64_t b_column,                  //
                              const float *bias, int64_t bias_batch, int64_t bias_row, int64_t bias_column,      //
                              float *c, int64_t c_batch, int64_t c_row, int64_t c_column) {
    return tolsey_gemm_by(tolsey_product, batch, m, n, k, a, a_batch, a_row, a_column, b, b_batch, b_row, b_column, bias,
                          bias_batch, bias_row, bias_column, c, c_batch, c_row, c_column);
}
