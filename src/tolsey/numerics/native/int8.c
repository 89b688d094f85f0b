/* Products of whole numbers (docs/numerics/int8.md): operands rounded to 14 or 21 bits, multiplied and added exactly, rounded
 * once. Matrix products and convolutions come as gemm.h's sides and target, as for the chain.
 *
 * Words. A *lane* is a row of A or a column of B. Its *exponent* is that of its largest number, its *whole numbers* are its
 * numbers in units of 2^(exponent - p). A *panel* is what a tile reads of one side: whole numbers of up to TILE_ROWS or
 * tile_columns lanes over one stretch of depth. A *sum* is N of one element.
 *
 * Two forms of whole numbers (struct form):
 *
 *   two slices     pairs of 16 bits in a 32-bit word; products of pairs are added in 32 bits and carried (int8_tile.h)
 *   three slices   binary64, which adds up to 2^53 / 2^40 = 2^13 products exactly
 *
 * Both give the sum of a stretch of up to STRETCH depths as binary64, exactly; sums of several stretches are added as 64-bit
 * integers. So nothing here has an order: one side, the shared one, is made whole first, tasks take blocks of the other. */
#include "gemm.h"

#include "whole.h"

#if defined(TOLSEY_AVX512)
#define TILE_ROWS 12
#elif defined(TOLSEY_AVX2)
#define TILE_ROWS 6
#elif defined(TOLSEY_NEON)
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif
#define TILE_VECTORS 2

/* Depth made whole at once. 4096 products of at most 2^40 are below 2^53. */
#define STRETCH 4096
/* Of the shared side, made whole at once; of a task's block. */
#define SHARED_BYTES ((int64_t)16 << 20)
#define SUMS_BYTES ((int64_t)16 << 20)
#define BLOCK_BYTES ((int64_t)256 << 10)
#define WORTH_A_THREAD ((double)(1 << 19))

#define PAIRS_UNTIL_CARRY 15
#define CARRIED_BITS 13

/* ---------------------------------------------------------------- tiles */

/* Sums of a tile over a stretch: to[(row * TILE_VECTORS + vector) * lanes of a vector + lane]. */
typedef void (*tile_of_whole)(int64_t depth, const void *a, const void *b, double *to);

#define TILES_OF_ROWS(f, rows) f(rows, 1) f(rows, 2)
#if TILE_ROWS == 12
#define EVERY_TILE(f) FIRST_TILES(f) MORE_TILES(f) TILES_OF_ROWS(f, 9) TILES_OF_ROWS(f, 10) TILES_OF_ROWS(f, 11) TILES_OF_ROWS(f, 12)
#elif TILE_ROWS == 8
#define EVERY_TILE(f) FIRST_TILES(f) MORE_TILES(f)
#elif TILE_ROWS == 6
#define EVERY_TILE(f) FIRST_TILES(f) TILES_OF_ROWS(f, 5) TILES_OF_ROWS(f, 6)
#else
#define EVERY_TILE(f) FIRST_TILES(f)
#endif
#define FIRST_TILES(f) TILES_OF_ROWS(f, 1) TILES_OF_ROWS(f, 2) TILES_OF_ROWS(f, 3) TILES_OF_ROWS(f, 4)
#define MORE_TILES(f) TILES_OF_ROWS(f, 5) TILES_OF_ROWS(f, 6) TILES_OF_ROWS(f, 7) TILES_OF_ROWS(f, 8)

/* None of these saturates: the sum of two products of 16-bit numbers fits 32 bits unless all four are -2^15. */
INLINE vi dot_pairs(vi acc, vi x, vi y) {
#if defined(TOLSEY_AVX512)
    return acc + (vi)_mm512_madd_epi16((__m512i)x, (__m512i)y);
#elif defined(TOLSEY_AVX2)
    return acc + (vi)_mm256_madd_epi16((__m256i)x, (__m256i)y);
#elif defined(TOLSEY_NEON)
    int16x8_t a = (int16x8_t)x, b = (int16x8_t)y;
    return acc + (vi)vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
#else
    return acc + (vi)_mm_madd_epi16((__m128i)x, (__m128i)y);
#endif
}

#define PAIRS(name) plain_##name
#define PAIRS_TARGET
#define PAIRS_DOT(acc, x, y) dot_pairs(acc, x, y)
#include "int8_tile.h"

#if defined(TOLSEY_AVX512)
/* One instruction for the two of plain; CPUs with AVX-512 and without it exist. */
#define PAIRS(name) vnni_##name
#define PAIRS_TARGET __attribute__((target("avx512vnni")))
#define PAIRS_DOT(acc, x, y) ((vi)_mm512_dpwssd_epi32((__m512i)(acc), (__m512i)(x), (__m512i)(y)))
#include "int8_tile.h"
static int has_vnni(void) { return __builtin_cpu_supports("avx512vnni"); }
#endif

/* Half as many numbers, twice as wide. */
typedef double half __attribute__((vector_size(4 * VW)));
typedef double half_anywhere __attribute__((vector_size(4 * VW), aligned(8), may_alias));

INLINE half half_set(double x) {
#if defined(TOLSEY_AVX512)
    return (half)_mm512_set1_pd(x);
#elif defined(TOLSEY_AVX2)
    return (half)_mm256_set1_pd(x);
#else
    return (half){x, x};
#endif
}

/* Exact, so that it does not matter whether the machine rounds between product and sum. */
INLINE half add_product(half acc, half x, half y) {
#if defined(TOLSEY_AVX512)
    return (half)_mm512_fmadd_pd((__m512d)x, (__m512d)y, (__m512d)acc);
#elif defined(TOLSEY_AVX2)
    return (half)_mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)acc);
#elif defined(TOLSEY_NEON)
    return (half)vfmaq_f64((float64x2_t)acc, (float64x2_t)x, (float64x2_t)y);
#else
    return acc + x * y;
#endif
}

INLINE void wide_body(const int rows, const int vectors, int64_t depth, const double *a, const double *b, double *to) {
    enum { LANES = VW / 2 };
    half acc[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) acc[i][v] = (half){0};
    for (int64_t k = 0; k < depth; k++) {
        half y[TILE_VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) y[v] = *(const half_anywhere *)(b + v * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            half x = half_set(a[i]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) acc[i][v] = add_product(acc[i][v], x, y[v]);
        }
        a += rows;
        b += vectors * LANES;
    }
    for (int i = 0; i < rows; i++)
        for (int v = 0; v < vectors; v++) *(half_anywhere *)(to + (i * TILE_VECTORS + v) * LANES) = acc[i][v];
}

#define WIDE_OF(rows, vectors)                                                                                         \
    static void wide_##rows##_##vectors(int64_t depth, const void *a, const void *b, double *to) {                     \
        wide_body(rows, vectors, depth, a, b, to);                                                                     \
    }
EVERY_TILE(WIDE_OF)
#define WIDE_ENTRY(rows, vectors) [rows - 1][vectors - 1] = wide_##rows##_##vectors,
static const tile_of_whole wide_tiles[TILE_ROWS][TILE_VECTORS] = {EVERY_TILE(WIDE_ENTRY)};

/* ---------------------------------------------------------------- whole numbers */

/* How one panel's lanes are rounded. */
struct scale {
    float first[TILE_VECTORS * VW], second[TILE_VECTORS * VW];
    float kept[TILE_VECTORS * VW];
};

static void set_scale(struct scale *it, int p, const int32_t *exponent, int64_t lanes, int64_t step) {
    for (int64_t l = 0; l < step; l++) {
        int32_t e = l < lanes ? exponent[l] : NOTHING;
        scale_of(e, p, it->kept + l, it->first + l, it->second + l);
    }
}

INLINE vi whole_of(const float *x, const struct scale *scale, int64_t l, int64_t w) {
    return to_whole(vload_n(x + l, w), vload_n(scale->kept + l, w), vload_n(scale->first + l, w), vload_n(scale->second + l, w));
}

INLINE void store_words(int32_t *to, vi x, int64_t n) {
    if (n >= VW) {
        vstore_u((uint32_t *)to, (vu)x);
        return;
    }
#if defined(TOLSEY_AVX512)
    _mm512_mask_storeu_epi32(to, (__mmask16)((1u << n) - 1), (__m512i)x);
#elif defined(TOLSEY_AVX2)
    _mm256_maskstore_epi32(to, (__m256i)(vcount() < vset_i((int32_t)n)), (__m256i)x);
#else
    for (int64_t i = 0; i < n; i++) to[i] = x[i];
#endif
}

/* From depth after depth of `step` lanes; `to` likewise, a word for two depths. */
static void whole_pairs(const float *from, int64_t depth, int64_t step, const struct scale *scale, void *to) {
    int32_t *words = to;
    for (int64_t k = 0; k < depth; k += 2, from += 2 * step, words += step)
        FOR_VECTORS(l, w, 0, step) {
            vi even = whole_of(from, scale, l, w), odd = k + 1 < depth ? whole_of(from + step, scale, l, w) : vset_i(0);
            store_words(words + l, (even & vset_i(0xffff)) | (vi)((vu)odd << 16), w);
        }
}

static void whole_wide(const float *from, int64_t depth, int64_t step, const struct scale *scale, void *to) {
    double *wide = to;
    for (int64_t k = 0; k < depth; k++, from += step, wide += step)
        FOR_VECTORS(l, w, 0, step) {
            vd whole = __builtin_convertvector(whole_of(from, scale, l, w), vd);
            memcpy(wide + l, &whole, sizeof(double) * (size_t)w);
        }
}

struct form {
    int p;               /* a lane's largest number is below 2^(p + 1) of its units */
    int64_t lanes;       /* in a vector of a tile */
    int64_t bytes, deep; /* of memory a lane takes for so many depths */
    void (*whole)(const float *from, int64_t depth, int64_t step, const struct scale *scale, void *to);
    const tile_of_whole (*tiles)[TILE_VECTORS];
};

static int set_form(struct form *it, int64_t slices) {
    if (slices == 2) {
        *it = (struct form){fraction_bits(2), VW, 4, 2, whole_pairs, plain_tiles};
#if defined(TOLSEY_AVX512)
        if (has_vnni()) it->tiles = vnni_tiles;
#endif
        return TOLSEY_OK;
    }
    *it = (struct form){fraction_bits(3), VW / 2, 8, 1, whole_wide, wide_tiles};
    return slices == 3 ? TOLSEY_OK : TOLSEY_BAD_ARGUMENT;
}

INLINE int64_t lane_bytes(const struct form *form, int64_t depth) { return (depth + form->deep - 1) / form->deep * form->bytes; }

/* ---------------------------------------------------------------- exponents */

/* The largest size of each lane, where it is above what is there; compared as bits, so that a NaN is above all. */
static void largest(const float *from, int64_t depth, int64_t step, float *sizes) {
    FOR_VECTORS(l, w, 0, step) {
        vi size = (vi)vload_n(sizes + l, w);
        for (int64_t k = 0; k < depth; k++) {
            vi here = (vi)vload_n(from + k * step + l, w) & vset_i(0x7fffffff);
            size = vselect_i(here > size, here, size);
        }
        vstore_n(sizes + l, (vf)size, w);
    }
}

/* ---------------------------------------------------------------- one product */

struct product {
    struct form form;
    const struct side *a, *b;
    const struct target *c; /* NULL: sums are wanted */
    int64_t m, n, k, tile_columns;
    int few_rows;                    /* A is shared, else B */
    int64_t lane0, lanes, k0, depth; /* of the shared side, this round */
    int64_t other0, others;          /* lanes of the other side, this round */
    int64_t block;                   /* of them in one task */
    int known;                       /* exponents are there before anything is made whole */
    int32_t *exponents[2];           /* of A, of B */
    int64_t *sums, sums_step;        /* of this round's elements, where one stretch is not all; a row is so long */
    char *shared;
};

enum { A, B };

/* Panels of a run of lanes. Rows are dealt out evenly, so that no panel is left with one or two. */
INLINE int64_t panels_of(const struct product *it, int which, int64_t lanes) {
    int64_t widest = which == A ? TILE_ROWS : it->tile_columns;
    return (lanes + widest - 1) / widest;
}
INLINE int64_t panel_begin(const struct product *it, int which, int64_t lanes, int64_t panel) {
    if (which == A) return panel ? lanes * panel / panels_of(it, A, lanes) : 0;
    return least(panel * it->tile_columns, lanes);
}

/* Lanes of a panel, with what fills B's last vector of numbers. */
INLINE int64_t panel_step(int which, int64_t lanes) { return which == A ? lanes : round_up(lanes, VW); }

/* One side's numbers of a panel in a stretch, side by side: [depth][step]. NULL: no memory. */
static const float *bring(const struct side *side, int64_t lane0, int64_t lanes, int64_t k0, int64_t depth, int64_t step) {
    float *numbers = tolsey_scratch(SCRATCH_COLUMNS, sizeof(float) * (size_t)(most(depth, 1) * step));
    if (numbers && depth) side->pack(side, lane0, lanes, k0, depth, numbers, step);
    return numbers;
}

/* Exponents of a panel's lanes over the whole depth. */
static int find_exponents(const struct side *side, int64_t lane0, int64_t lanes, int64_t step, int64_t depth, int32_t *to) {
    float sizes[TILE_VECTORS * VW] = {0};
    for (int64_t k = 0; k < depth; k += STRETCH) {
        int64_t here = least(depth - k, STRETCH);
        const float *numbers = bring(side, lane0, lanes, k, here, step);
        if (!numbers) return TOLSEY_NO_MEMORY;
        largest(numbers, here, step, sizes);
    }
    for (int64_t l = 0; l < lanes; l++) to[l] = exponent_of(sizes[l]);
    return TOLSEY_OK;
}

/* A panel made whole. Where this stretch is all, its exponents are found on the way. */
static int make_whole(const struct product *it, int which, int64_t lane0, int64_t lanes, void *to) {
    int64_t step = panel_step(which, lanes);
    int32_t *exponents = it->exponents[which] + lane0;
    const float *numbers = bring(which == A ? it->a : it->b, lane0, lanes, it->k0, it->depth, step);
    if (!numbers) return TOLSEY_NO_MEMORY;
    if (!it->known) {
        float sizes[TILE_VECTORS * VW] = {0};
        largest(numbers, it->depth, step, sizes);
        for (int64_t l = 0; l < lanes; l++) exponents[l] = exponent_of(sizes[l]);
    }
    struct scale scale;
    set_scale(&scale, it->form.p, exponents, lanes, step);
    it->form.whole(numbers, it->depth, step, &scale, to);
    return TOLSEY_OK;
}

/* 2^(exponent - p), NaN for a lane that is not finite: what a whole number's unit is. */
INLINE double unit_of(int32_t exponent, int p) {
    uint64_t bits = exponent == NOT_FINITE ? (uint64_t)0x7ff8 << 48 : (uint64_t)(exponent - p + 1023) << 52;
    double unit;
    memcpy(&unit, &bits, 8);
    return unit;
}

/* A sum of up to 62 bits as a binary64 number that rounds to binary32 as the sum does. Beyond 53 bits the last ten are
 * replaced by one that says whether they are zero: it lies far below what binary32 keeps. */
INLINE double narrowed(int64_t sum) {
    if (sum > -((int64_t)1 << 53) && sum < (int64_t)1 << 53) return (double)sum;
    return (double)((sum & ~(int64_t)1023) | ((sum & 1023) ? 512 : 0));
}

/* Sums become results: one rounding, then the bias. */
static void give(const struct target *c, int64_t i, int64_t j0, int64_t columns, double row_unit, const double *column_unit,
                 const double *sum, const int64_t *place, int side_by_side) {
    float value[TILE_VECTORS * VW];
    for (int64_t j = 0; j < columns; j++) value[j] = (float)(sum[j] * row_unit * column_unit[j]);
    if (c->bias) {
        const float *bias = c->bias + i * c->bias_row_step + j0 * c->bias_column_step;
        for (int64_t j = 0; j < columns; j++) value[j] = value[j] + bias[j * c->bias_column_step];
    }
    float *row = c->data + i * c->row_step;
    if (side_by_side)
        memcpy(row + place[0], value, sizeof(float) * (size_t)columns);
    else
        for (int64_t j = 0; j < columns; j++) row[place[j]] = value[j];
}

/* Adds a tile's sums of this stretch to what is there, and takes the total back where this is the last. */
static void add_stretch(const struct product *it, int64_t i0, int64_t rows, int64_t j0, int64_t columns, double *sum,
                        int64_t step) {
    int64_t first_row = it->few_rows ? it->lane0 : it->other0, first_column = it->few_rows ? it->other0 : it->lane0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            int64_t *total = it->sums + (i0 + i - first_row) * it->sums_step + j0 + j - first_column;
            *total += (int64_t)sum[i * step + j];
            sum[i * step + j] = narrowed(*total);
        }
}

/* All tiles of some rows and one panel of columns. */
static void multiply(const struct product *it, int64_t i0, int64_t rows, const char *a, int64_t j0, int64_t columns,
                     const char *b) {
    enum { WIDEST = TILE_VECTORS * VW };
    int64_t bytes = lane_bytes(&it->form, it->depth), step = it->tile_columns, vectors = panel_step(B, columns) / it->form.lanes;
    int64_t place[WIDEST];
    double column_unit[WIDEST], sum[TILE_ROWS * WIDEST] __attribute__((aligned(64)));
    int gives = it->c && it->k0 + it->depth == it->k, side_by_side = 1;
    if (gives) {
        it->c->places(it->c, j0, columns, place);
        for (int64_t j = 0; j < columns; j++) {
            side_by_side &= place[j] == place[0] + j;
            column_unit[j] = unit_of(it->exponents[B][j0 + j], it->form.p);
        }
    }
    for (int64_t panel = 0; panel < panels_of(it, A, rows); panel++) {
        int64_t begin = panel_begin(it, A, rows, panel), here = panel_begin(it, A, rows, panel + 1) - begin;
        it->form.tiles[here - 1][vectors - 1](it->depth, a + begin * bytes, b, sum);
        if (it->sums) add_stretch(it, i0 + begin, here, j0, columns, sum, step);
        for (int64_t i = i0 + begin; gives && i < i0 + begin + here; i++)
            give(it->c, i, j0, columns, unit_of(it->exponents[A][i], it->form.p), column_unit, sum + (i - i0 - begin) * step,
                 place, side_by_side);
    }
}

static int share_some(void *ctx, int64_t begin, int64_t end) {
    const struct product *it = ctx;
    int which = it->few_rows ? A : B, answer = TOLSEY_OK;
    for (int64_t panel = begin; panel < end && answer == TOLSEY_OK; panel++) {
        int64_t from = panel_begin(it, which, it->lanes, panel), past = panel_begin(it, which, it->lanes, panel + 1);
        answer = make_whole(it, which, it->lane0 + from, past - from, it->shared + from * lane_bytes(&it->form, it->depth));
    }
    return answer;
}

static int multiply_some(void *ctx, int64_t begin, int64_t end) {
    const struct product *it = ctx;
    int64_t bytes = lane_bytes(&it->form, it->depth);
    int which = it->few_rows ? B : A;
    char *own = tolsey_scratch(SCRATCH_PACK_A, (size_t)(round_up(it->block, VW) * most(bytes, 1)));
    if (!own) return TOLSEY_NO_MEMORY;
    for (int64_t task = begin; task < end; task++) {
        int64_t from = it->other0 + task * it->block, count = least(it->other0 + it->others - from, it->block);
        for (int64_t panel = 0; panel < panels_of(it, which, count); panel++) {
            int64_t first = panel_begin(it, which, count, panel), past = panel_begin(it, which, count, panel + 1);
            int answer = make_whole(it, which, from + first, past - first, own + first * bytes);
            if (answer != TOLSEY_OK) return answer;
        }
        int64_t columns = it->few_rows ? count : it->lanes, j0 = it->few_rows ? from : it->lane0;
        const char *b = it->few_rows ? own : it->shared, *a = it->few_rows ? it->shared : own;
        for (int64_t j = 0; j < columns; j += it->tile_columns)
            multiply(it, it->few_rows ? it->lane0 : from, it->few_rows ? it->lanes : count, a, j0 + j,
                     least(columns - j, it->tile_columns), b + j * bytes);
    }
    return TOLSEY_OK;
}

struct exponents {
    const struct side *side;
    int64_t lanes, depth;
    int32_t *to;
};

static int find_some(void *ctx, int64_t begin, int64_t end) {
    const struct exponents *it = ctx;
    return find_exponents(it->side, begin, end - begin, round_up(end - begin, VW), it->depth, it->to + begin);
}

static int find_all(const struct side *side, int64_t lanes, int64_t depth, int32_t *to) {
    struct exponents it = {side, lanes, depth, to};
    return tolsey_parallel(lanes, TILE_VECTORS * VW, find_some, &it);
}

/* One round: all stretches of depth, of so many lanes of both sides. */
static int one_round(struct product *it, int threads) {
    int64_t panels = panels_of(it, it->few_rows ? A : B, it->lanes), tasks = (it->others + it->block - 1) / it->block;
    int answer = TOLSEY_OK;
    it->k0 = 0;
    do {
        it->depth = least(it->k - it->k0, STRETCH);
        answer = tolsey_parallel(panels, threads > 1 ? 1 : panels, share_some, it);
        if (answer == TOLSEY_OK) answer = tolsey_parallel(tasks, threads > 1 ? 1 : tasks, multiply_some, it);
        it->k0 += it->depth;
    } while (it->k0 < it->k && answer == TOLSEY_OK);
    return answer;
}

/* The rounds: of the shared side as much as fits, of the other one as much as there is room for sums. */
static int all_rounds(struct product *it) {
    it->tile_columns = TILE_VECTORS * it->form.lanes;
    it->few_rows = it->m < it->n;
    int64_t shared_all = it->few_rows ? it->m : it->n, other_all = it->few_rows ? it->n : it->m;
    int64_t unit = it->few_rows ? TILE_ROWS : it->tile_columns, other_unit = it->few_rows ? it->tile_columns : TILE_ROWS;
    int64_t bytes = most(lane_bytes(&it->form, least(it->k, STRETCH)), 1);
    int threads = (double)it->m * (double)it->n * (double)it->k < WORTH_A_THREAD ? 1 : tolsey_helpers();
    int64_t widest = least(most(SHARED_BYTES / bytes / unit, 1) * unit, round_up(shared_all, unit));
    it->block = most(BLOCK_BYTES / bytes / other_unit, 1) * other_unit;
    if (threads > 1) it->block = least(it->block, most(round_up(other_all / (4 * threads), other_unit), 2 * other_unit));
    it->block = least(it->block, round_up(other_all, other_unit));
    it->shared = tolsey_scratch(SCRATCH_PACK_B, (size_t)(widest * bytes));
    if (!it->shared) return TOLSEY_NO_MEMORY;
    int sums_given = it->sums != NULL;
    int64_t room = other_all;
    if (!sums_given && it->k > STRETCH) {
        room = least(most(SUMS_BYTES / (int64_t)sizeof(int64_t) / widest / it->block, 1) * it->block, other_all);
        it->sums = tolsey_scratch(SCRATCH_SUMS, sizeof(int64_t) * (size_t)(widest * room));
        if (!it->sums) return TOLSEY_NO_MEMORY;
    }
    int64_t *sums = it->sums;
    int answer = TOLSEY_OK;
    for (it->lane0 = 0; it->lane0 < shared_all && answer == TOLSEY_OK; it->lane0 += widest) {
        it->lanes = least(shared_all - it->lane0, widest);
        for (it->other0 = 0; it->other0 < other_all && answer == TOLSEY_OK; it->other0 += room) {
            it->others = least(other_all - it->other0, room);
            if (sums_given) {
                it->sums_step = it->n;
                it->sums = sums + (it->few_rows ? it->lane0 * it->n + it->other0 : it->other0 * it->n + it->lane0);
            } else if (sums) {
                it->sums_step = it->few_rows ? it->others : it->lanes;
                memset(sums, 0, sizeof(int64_t) * (size_t)(it->lanes * it->others));
            }
            answer = one_round(it, threads);
        }
    }
    return answer;
}

static int product(int64_t slices, int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b,
                   const struct target *c) {
    if (m == 0 || n == 0) return TOLSEY_OK;
    if (k > MOST_DEPTH) return TOLSEY_BAD_ARGUMENT;
    struct product it = {.a = a, .b = b, .c = c, .m = m, .n = n, .k = k, .known = k > STRETCH};
    if (set_form(&it.form, slices) != TOLSEY_OK) return TOLSEY_BAD_ARGUMENT;
    it.exponents[A] = tolsey_scratch(SCRATCH_ROW, sizeof(int32_t) * (size_t)(m + n));
    if (!it.exponents[A]) return TOLSEY_NO_MEMORY;
    it.exponents[B] = it.exponents[A] + m;
    if (it.known) {
        int answer = find_all(a, m, k, it.exponents[A]);
        if (answer == TOLSEY_OK) answer = find_all(b, n, k, it.exponents[B]);
        if (answer != TOLSEY_OK) return answer;
    }
    return all_rounds(&it);
}

static int product_of_two(int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b, const struct target *c) {
    return product(2, m, n, k, a, b, c);
}
static int product_of_three(int64_t m, int64_t n, int64_t k, const struct side *a, const struct side *b,
                            const struct target *c) {
    return product(3, m, n, k, a, b, c);
}
static tolsey_multiplication by(int64_t slices) { return slices == 2 ? product_of_two : slices == 3 ? product_of_three : NULL; }

/* ---------------------------------------------------------------- called from outside */

/* As tolsey_gemm and the convolutions, with a number of slices (2 or 3) before all. */
TOLSEY_EXPORT int tolsey_gemm_int8(int64_t slices, int64_t batch, int64_t m, int64_t n, int64_t k,                   //
                                   const float *a, int64_t a_batch, int64_t a_row, int64_t a_column,                 //
                                   const float *b, int64_t b_batch, int64_t b_row, int64_t b_column,                 //
                                   const float *bias, int64_t bias_batch, int64_t bias_row, int64_t bias_column,     //
                                   float *c, int64_t c_batch, int64_t c_row, int64_t c_column) {
    return tolsey_gemm_by(by(slices), batch, m, n, k, a, a_batch, a_row, a_column, b, b_batch, b_row, b_column, bias,
                          bias_batch, bias_row, bias_column, c, c_batch, c_row, c_column);
}

TOLSEY_EXPORT int tolsey_convolution_int8(int64_t slices, const int64_t *geometry, const float *input, const float *weight,
                                          const float *bias, float *output) {
    return tolsey_convolution_by(by(slices), geometry, input, weight, bias, output);
}

TOLSEY_EXPORT int tolsey_convolution_backward_input_int8(int64_t slices, const int64_t *geometry,
                                                         const float *output_gradient, const float *weight,
                                                         const float *bias, float *input_gradient) {
    return tolsey_convolution_backward_input_by(by(slices), geometry, output_gradient, weight, bias, input_gradient);
}

TOLSEY_EXPORT int tolsey_convolution_backward_weight_int8(int64_t slices, const int64_t *geometry,
                                                          const float *output_gradient, const float *input,
                                                          float *weight_gradient) {
    return tolsey_convolution_backward_weight_by(by(slices), geometry, output_gradient, input, weight_gradient);
}

/* The parts of one product, for shards of it. Exponents of lanes: x[lane * lane_step + k * depth_step]. */
TOLSEY_EXPORT int tolsey_int8_exponents(int64_t lanes, int64_t depth, const float *x, int64_t lane_step, int64_t depth_step,
                                        int32_t *exponents) {
    LAWFUL_ENTRY;
    if (lanes < 0 || depth < 0) return TOLSEY_BAD_ARGUMENT;
    struct side side = tolsey_strided(x, lane_step, depth_step);
    return find_all(&side, lanes, depth, exponents);
}

/* Adds to sums[m, n] what k terms bring under given exponents; those of a lane must not be below its own. */
TOLSEY_EXPORT int tolsey_int8_add_terms(int64_t slices, int64_t m, int64_t n, int64_t k,                //
                                        const float *a, int64_t a_row, int64_t a_column, int32_t *a_exponents, //
                                        const float *b, int64_t b_row, int64_t b_column, int32_t *b_exponents, //
                                        int64_t *sums) {
    LAWFUL_ENTRY;
    struct side sides[2] = {tolsey_strided(a, a_row, a_column), tolsey_strided(b, b_column, b_row)};
    struct product it = {.a = sides, .b = sides + 1, .m = m, .n = n, .k = k, .known = 1, .sums = sums};
    if (m < 0 || n < 0 || k < 0 || k > MOST_DEPTH || set_form(&it.form, slices) != TOLSEY_OK) return TOLSEY_BAD_ARGUMENT;
    it.exponents[A] = a_exponents;
    it.exponents[B] = b_exponents;
    return m && n && k ? all_rounds(&it) : TOLSEY_OK;
}

/* Sums become results; all contiguous. */
TOLSEY_EXPORT int tolsey_int8_round(int64_t slices, int64_t m, int64_t n, const int32_t *a_exponents,
                                    const int32_t *b_exponents, const int64_t *sums, float *c) {
    LAWFUL_ENTRY;
    struct form form;
    if (m < 0 || n < 0 || set_form(&form, slices) != TOLSEY_OK) return TOLSEY_BAD_ARGUMENT;
    for (int64_t i = 0; i < m; i++) {
        double row_unit = unit_of(a_exponents[i], form.p);
        for (int64_t j = 0; j < n; j++)
            c[i * n + j] = (float)(narrowed(sums[i * n + j]) * row_unit * unit_of(b_exponents[j], form.p));
    }
    return TOLSEY_OK;
}
